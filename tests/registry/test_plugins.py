"""Flows of installed packages: real metadata on the path, read by importlib.metadata."""

from __future__ import annotations

import pytest

from chainweaver.exceptions import PluginDiscoveryError
from chainweaver.flow import SchemaRefAllowlist
from chainweaver.registry import FlowRegistry, InMemoryStore, discover_flows
from tests.registry.kit import a_flow

FLOWS = """
from chainweaver import Flow, FlowStep

def made(name, version="1.0", **fields):
    return Flow(name=name, version=version, description="Plugged in.", steps=[FlowStep(tool_name="t")], **fields)
"""


def keys(flows):
    return [(flow.name, flow.version) for flow in flows]


@pytest.fixture
def acme(install):
    """A package that offers one flow, several flows, a function that makes them, and a module that holds them."""
    install(
        "acme",
        """
        [chainweaver.flows]
        one = acme_flows:ONE
        some = acme_flows:SOME
        made = acme_flows:make
        whole = acme_more
        """,
        acme_flows=FLOWS
        + """
ONE = made("one")
SOME = (made("some_a"), made("some_b", "2.0"))

def make():
    yield made("made")
""",
        acme_more="from acme_flows import made\nWHOLE = ALSO = made('whole')\nOTHER = 'no flow'\n",
    )


@pytest.fixture
def broken(install):
    """A package of which every entry point is broken in its own way."""
    install(
        "broken",
        """
        [chainweaver.flows]
        a = broken_flows:MISSING
        b = broken_module
        c = broken_flows:STRANGE
        d = broken_flows:fails
        e = broken_script
        f = broken_flows:loop
        """,
        broken_module="import package_that_nobody_has",
        broken_script="raise SystemExit(3)",
        broken_flows=FLOWS
        + """
from chainweaver import DAGFlow, DAGFlowStep

STRANGE = ["text", 7, made("strange")]

def fails():
    yield made("half")
    raise OSError("no disk")

loop = DAGFlow(name="loop", version="1", description="", steps=[
    DAGFlowStep(step_id="a", tool_name="t", depends_on=["a"])])
""",
    )


BROKEN = {
    "chainweaver.flows:a": "AttributeError",
    "chainweaver.flows:b": "package_that_nobody_has",
    "chainweaver.flows:c": "it offers int, str instead of Flow or DAGFlow",
    "chainweaver.flows:d": "OSError: no disk",
    "chainweaver.flows:e": "SystemExit: 3",
    "chainweaver.flows:f": "a -> a",
}


def test_installed_packages_can_offer_flows(acme):
    """api.md: entry points `chainweaver.flows`; an object, an iterable, a function, a module."""
    expected = [("made", "1.0"), ("one", "1.0"), ("some_a", "1.0"), ("some_b", "2.0"), ("whole", "1.0")]
    assert keys(discover_flows()) == expected
    assert keys(FlowRegistry(discover_plugins=True).list_flows()) == expected
    assert len(FlowRegistry()) == 0


def test_what_the_registry_has_already_is_left_alone(acme):
    """api.md: discover_plugins; whoever registers a flow means it."""
    store = InMemoryStore()
    store.save_flow(a_flow("one", description="Mine."))
    registry = FlowRegistry(store, discover_plugins=True)
    assert registry.get_flow("one").description == "Mine."
    registry = FlowRegistry()
    registry.register_flow(a_flow("one", description="Mine."))
    registry.load_plugins()
    assert registry.get_flow("one").description == "Mine."
    assert len(registry) == 5


def test_flows_of_plugins_outlive_a_refresh_and_are_not_stored(acme):
    """api.md: what a package offers goes when the package goes, not before."""
    registry = FlowRegistry(store := InMemoryStore(), discover_plugins=True)
    snapshot = registry.snapshot
    registry.refresh()
    assert registry.snapshot is snapshot
    assert store.list_keys() == []

    store.save_flow(a_flow("one", description="Stored."))
    registry.unregister_flow("made")
    registry.refresh()
    assert keys(registry.list_flows()) == [("one", "1.0"), ("some_a", "1.0"), ("some_b", "2.0"), ("whole", "1.0")]
    assert registry.get_flow("one").description == "Stored."
    registry.set_flow_status("whole", "disabled")
    assert store.list_keys() == [("one", "1.0"), ("whole", "1.0")]
    store.delete_flow("whole", "1.0")
    registry.refresh()
    assert keys(registry.list_flows()) == [("one", "1.0"), ("some_a", "1.0"), ("some_b", "2.0")]


def test_all_broken_plugins_are_named_at_once_and_nothing_is_registered(acme, broken):
    """api.md: E022; one error after all were tried, with the package that has to be updated."""
    registry = FlowRegistry()
    with pytest.raises(
        PluginDiscoveryError, match=r"'chainweaver\.flows:a' cannot be loaded: AttributeError"
    ) as caught:
        registry.load_plugins()
    error = caught.value
    assert (error.entry_point, error.where) == ("chainweaver.flows:a", "package broken 1.2")
    assert isinstance(error.__cause__, AttributeError)
    assert "update or remove package 'broken 1.2'" in error.fix
    for entry_point, said in BROKEN.items():
        assert entry_point in str(error)
        assert said in str(error)
    assert len(registry) == 0
    with pytest.raises(PluginDiscoveryError):
        FlowRegistry(discover_plugins=True)


def test_broken_plugins_hide_none_of_the_others_from_whoever_wants_to_be_told(acme, broken):
    """api.md: E022; `on_error` gets each of them."""
    errors: list[PluginDiscoveryError] = []
    registry = FlowRegistry()
    registry.load_plugins(on_error=errors.append)
    assert [error.entry_point for error in errors] == list(BROKEN)
    assert all(said in error.detail for error, said in zip(errors, BROKEN.values(), strict=True))
    assert keys(registry.list_flows()) == [
        ("made", "1.0"),
        ("one", "1.0"),
        ("some_a", "1.0"),
        ("some_b", "2.0"),
        ("whole", "1.0"),
    ]


def test_of_two_packages_with_different_flows_of_one_name_neither_wins_silently(install):
    """R1: equal flows are one flow, different ones are an error whatever the order."""
    source = FLOWS + "ONE = made('one', outputs=OUTPUTS)\n"
    install("first", "[chainweaver.flows]\nz = first_flows:ONE\n", first_flows=source.replace("OUTPUTS", "('a',)"))
    install("second", "[chainweaver.flows]\na = second_flows:ONE\n", second_flows=source.replace("OUTPUTS", "('a',)"))
    assert keys(discover_flows()) == [("one", "1.0")]

    install("third", "[chainweaver.flows]\nb = third_flows:ONE\n", third_flows=source.replace("OUTPUTS", "('b',)"))
    with pytest.raises(PluginDiscoveryError, match=r"another flow 'one' 1\.0 than plugin 'chainweaver\.flows:a'"):
        discover_flows()
    errors: list[PluginDiscoveryError] = []
    [flow] = discover_flows(on_error=errors.append)
    assert (flow.outputs, [error.entry_point for error in errors]) == (("a",), ["chainweaver.flows:b"])


def test_flows_of_plugins_obey_the_policy_of_the_registry(install):
    """api.md: SchemaRefPolicy; a refused flow is a broken plugin."""
    source = FLOWS + "ONE = made('one', input_schema_ref='nobody:Model')\nTWO = made('two')\n"
    install("acme", "[chainweaver.flows]\na = acme_flows:ONE\nb = acme_flows:TWO\n", acme_flows=source)
    registry = FlowRegistry(schema_ref_policy=SchemaRefAllowlist(modules=("shop",)))
    errors: list[PluginDiscoveryError] = []
    registry.load_plugins(on_error=errors.append)
    assert keys(registry.list_flows()) == [("two", "1.0")]
    assert ["nobody:Model" in error.detail for error in errors] == [True]


def test_a_package_without_a_name_is_no_obstacle(install):
    """api.md: E022; metadata may be poor."""
    site = install("poor", "[chainweaver.flows]\na = nowhere:X\n")
    (site / "poor-1.2.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\n")
    with pytest.raises(PluginDiscoveryError) as caught:
        discover_flows()
    assert caught.value.where is None
    assert "that package" in caught.value.fix
