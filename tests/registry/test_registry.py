"""FlowRegistry: copy-on-write, versions, state, intent."""

from __future__ import annotations

import threading

import pytest

from chainweaver.exceptions import (
    DAGDefinitionError,
    FlowAlreadyExistsError,
    FlowNotFoundError,
)
from chainweaver.flow import DAGFlow, DAGFlowStep, Flow, FlowStatus, FlowStep
from chainweaver.registry import FileStore, FlowRegistry, InMemoryStore


def a_flow(name="invoice", version="1.0", **fields):
    steps = [FlowStep(tool_name="total", input_mapping={"rows": ["a"]})]
    return Flow(**{"name": name, "version": version, "description": "Adds up.", "steps": steps, **fields})


def registry_of(*flows):
    registry = FlowRegistry()
    for flow in flows:
        registry.register_flow(flow)
    return registry


def keys(flows):
    return [(flow.name, flow.version) for flow in flows]


def test_changing_a_flow_after_registration_changes_nothing():
    """api.md: the registry keeps its own copy."""
    flow = a_flow()
    registry = registry_of(flow)
    flow.description = "other"
    flow.steps[0].input_mapping["rows"].append("b")
    flow.steps.clear()
    assert registry.get_flow("invoice") == a_flow()


def test_changing_a_flow_that_was_handed_out_changes_nothing():
    """api.md: what callers get are copies."""
    registry = registry_of(a_flow())
    for handed_out in (
        registry.get_flow("invoice"),
        registry.list_flows()[0],
        registry.set_flow_status("invoice", "active"),
        registry.match_flow_by_intent("invoice"),
    ):
        handed_out.steps[0].input_mapping["rows"].append("b")
        handed_out.status = FlowStatus.DISABLED
    assert registry.get_flow("invoice") == a_flow()


def test_resolve_gives_the_same_object_until_it_is_replaced():
    """R40: the executor reads without copying; a run keeps what it started with."""
    registry = registry_of(a_flow())
    before = registry.resolve("invoice")
    assert registry.resolve("invoice", "1.0") is before
    registry.set_flow_status("invoice", FlowStatus.DISABLED)
    after = registry.resolve("invoice")
    assert (before.status, after.status) == (FlowStatus.ACTIVE, FlowStatus.DISABLED)


def test_every_write_puts_another_snapshot_in_place_and_no_reading_does():
    """design: readers see "nothing changed" by identity."""
    registry = registry_of(a_flow())
    snapshot = registry.snapshot
    registry.get_flow("invoice")
    registry.list_flows()
    registry.update_flow_state("invoice")
    registry.refresh()
    assert registry.snapshot is snapshot

    registry.register_flow(a_flow(version="2.0"))
    assert registry.snapshot is not snapshot
    assert list(snapshot) == [("invoice", "1.0")]
    assert list(registry.snapshot) == [("invoice", "1.0"), ("invoice", "2.0")]


def test_the_highest_version_is_the_default():
    """api.md: None means the highest PEP 440 version; pre-releases below finals."""
    registry = registry_of(*(a_flow(version=version) for version in ("1.9", "1.10", "1.10rc1", "1.2")))
    assert registry.get_flow("invoice").version == "1.10"
    assert registry.get_flow("invoice", version="1.2").version == "1.2"
    assert registry.list_flow_versions("invoice") == ["1.2", "1.9", "1.10rc1", "1.10"]


def test_order_does_not_depend_on_the_order_of_registration():
    """R1: lists are ordered by name, then by version."""
    registry = registry_of(a_flow("b"), a_flow("a", "10"), a_flow("a", "9"), a_flow("c"))
    assert keys(registry.list_flows()) == [("a", "9"), ("a", "10"), ("b", "1.0"), ("c", "1.0")]
    assert repr(registry) == "FlowRegistry(flows=['a', 'b', 'c'])"
    assert len(registry) == 4


def test_a_flow_that_is_not_there_is_named_with_what_is():
    """api.md: E002, with the known names or versions."""
    registry = registry_of(a_flow("invoice"), a_flow("report"))
    with pytest.raises(FlowNotFoundError) as caught:
        registry.get_flow("invoce")
    assert "did you mean 'invoice'?" in str(caught.value)
    with pytest.raises(FlowNotFoundError) as caught:
        registry.get_flow("invoice", version="2.0")
    assert (caught.value.version, caught.value.known) == ("2.0", ("1.0",))
    with pytest.raises(FlowNotFoundError):
        registry.list_flow_versions("nothing")


def test_a_flow_is_replaced_only_when_asked_to():
    """api.md: E003; overwrite=True."""
    registry = registry_of(a_flow())
    with pytest.raises(FlowAlreadyExistsError):
        registry.register_flow(a_flow(description="new"))
    registry.register_flow(a_flow(description="new"), overwrite=True)
    assert registry.get_flow("invoice").description == "new"
    assert len(registry) == 1


def test_a_dag_that_is_none_is_not_registered():
    """R15: topology is checked at registration."""
    broken = DAGFlow(
        name="d", version="1", description="", steps=[DAGFlowStep(step_id="a", tool_name="t", depends_on=["a"])]
    )
    registry = FlowRegistry()
    with pytest.raises(DAGDefinitionError, match="a -> a"):
        registry.register_flow(broken)
    assert len(registry) == 0


def test_only_flows_can_be_registered():
    """style: errors name what was given."""
    with pytest.raises(TypeError, match="not dict"):
        FlowRegistry().register_flow({"name": "a"})  # type: ignore[arg-type]  # the point of the test


def test_flows_are_listed_by_status():
    """api.md: list_flows(status=, exclude_status=), get_active_flows()."""
    registry = registry_of(a_flow("a"), a_flow("b", status="disabled"), a_flow("c", status="needs_review"))
    assert keys(registry.list_flows(status="disabled")) == [("b", "1.0")]
    assert keys(registry.list_flows(exclude_status=FlowStatus.DISABLED)) == [("a", "1.0"), ("c", "1.0")]
    assert registry.list_flows(status="active", exclude_status="active") == []
    assert keys(registry.get_active_flows()) == [("a", "1.0")]
    with pytest.raises(ValueError, match="asleep"):
        registry.list_flows(status="asleep")


def test_an_update_returns_a_new_object_and_touches_only_what_it_is_told():
    """api.md: update_flow_state is copy-on-write; hashes can be left, set and cleared."""
    registry = registry_of(a_flow(), a_flow(version="2.0"))
    hashes = {"total": "0" * 16}

    accepted = registry.update_flow_state("invoice", version="1.0", tool_schema_hashes=hashes)
    hashes["other"] = ""
    assert accepted.tool_schema_hashes == {"total": "0" * 16}

    disabled = registry.update_flow_state("invoice", version="1.0", status="disabled")
    assert (disabled.status, disabled.tool_schema_hashes) == (FlowStatus.DISABLED, {"total": "0" * 16})

    cleared = registry.update_flow_state("invoice", version="1.0", tool_schema_hashes=None)
    assert (cleared.status, cleared.tool_schema_hashes) == (FlowStatus.DISABLED, None)
    assert registry.get_flow("invoice").status is FlowStatus.ACTIVE
    assert accepted.status is FlowStatus.ACTIVE


def test_one_version_or_all_of_them_can_be_unregistered():
    """api.md: unregister_flow(name, *, version=None)."""
    store = InMemoryStore()
    registry = FlowRegistry(store)
    for version in ("1.0", "2.0", "3.0"):
        registry.register_flow(a_flow(version=version))
    registry.unregister_flow("invoice", version="3.0")
    assert registry.get_flow("invoice").version == "2.0"
    registry.unregister_flow("invoice")
    assert (len(registry), store.list_keys()) == (0, [])
    with pytest.raises(FlowNotFoundError):
        registry.unregister_flow("invoice")


def test_a_store_is_loaded_once_and_written_first(tmp_path):
    """api.md: FlowRegistry(store); a write that the store refuses changes nothing."""
    FlowRegistry(FileStore(tmp_path)).register_flow(a_flow())
    registry = FlowRegistry(FileStore(tmp_path))
    assert keys(registry.list_flows()) == [("invoice", "1.0")]

    before = registry.snapshot
    with pytest.raises(ValueError, match="not safe"):
        registry.register_flow(a_flow("../up"))
    assert registry.snapshot is before

    registry.set_flow_status("invoice", "disabled")
    assert FileStore(tmp_path).load_flow("invoice", "1.0").status is FlowStatus.DISABLED


def test_what_another_process_wrote_is_seen_after_a_refresh(tmp_path):
    """api.md: reads come from memory; refresh() loads the store again."""
    here, there = FlowRegistry(FileStore(tmp_path)), FlowRegistry(FileStore(tmp_path))
    there.register_flow(a_flow())
    assert len(here) == 0
    with pytest.raises(FlowAlreadyExistsError):
        here.register_flow(a_flow())
    here.refresh()
    assert len(here) == 1

    unchanged, definition = here.snapshot, here.resolve("invoice")
    here.refresh()
    assert here.snapshot is unchanged
    there.register_flow(a_flow("report"))
    here.refresh()
    assert len(here) == 2
    assert here.resolve("invoice") is definition
    there.unregister_flow("invoice")
    here.refresh()
    assert list(here.snapshot) == [("report", "1.0")]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("please make an INVOICE for the customer", "invoice"),
        ("a customer wants his money back", "refund"),
        ("weekly-report of sales", "report"),
        ("the of and", None),
        ("", None),
    ],
)
def test_the_words_of_a_sentence_find_a_flow(text, name):
    """api.md: match_flow_by_intent; deterministic, no model."""
    registry = registry_of(
        a_flow("invoice", description="Writes an invoice for a customer."),
        a_flow("refund", trigger_conditions="the customer wants money back", description="Pays."),
        a_flow("report", description="Sales of the week.", trigger_conditions="weekly"),
        a_flow("report_sales_weekly", description="", status="disabled"),
    )
    found = registry.match_flow_by_intent(text)
    assert (found and found.name) == name


def test_of_equals_the_first_name_and_the_highest_active_version_is_found():
    """R1: ties are broken by order, not by chance."""
    registry = registry_of(a_flow("b_pay"), a_flow("a_pay"), a_flow("a_pay", "2.0"), a_flow("a_pay", "3.0"))
    registry.set_flow_status("a_pay", "disabled")
    found = registry.match_flow_by_intent("pay")
    assert found is not None
    assert (found.name, found.version) == ("a_pay", "2.0")


def test_readers_never_see_half_a_write():
    """R40: registering while others read; every snapshot is complete in itself."""
    registry = registry_of(a_flow(version="0"))
    rounds, writers = 60, 4
    faults: list[str] = []
    start = threading.Barrier(2 * writers)

    def write(lane: int) -> None:
        start.wait()
        for i in range(1, rounds):
            registry.register_flow(a_flow(version=f"{i}.{lane}"))
            registry.register_flow(a_flow(f"lane{lane}", version=str(i)), overwrite=True)
            registry.set_flow_status("invoice", "needs_review" if i % 2 else "active")

    def read() -> None:
        start.wait()
        last = 0
        for _ in range(rounds * 5):
            snapshot = registry.snapshot
            names = [version for name, version in snapshot if name == "invoice"]
            if snapshot.resolve("invoice").version != names[-1] or len(list(snapshot)) != len(snapshot):
                faults.append(f"highest is not the last of {names}")
            if len(snapshot) < last:
                faults.append("a flow was lost")
            last = len(snapshot)

    threads = [threading.Thread(target=write, args=(lane,)) for lane in range(writers)]
    threads += [threading.Thread(target=read) for _ in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []
    assert len(registry) == 1 + 2 * writers * (rounds - 1)
