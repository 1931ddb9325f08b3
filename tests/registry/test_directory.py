"""Flow files of a directory: loading and reloading."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading

import pytest

from chainweaver.exceptions import (
    DAGDefinitionError,
    FlowAlreadyExistsError,
    FlowSerializationError,
    SchemaRefPolicyError,
    StaleFlowError,
)
from chainweaver.flow import DAGFlow, DAGFlowStep, FlowStatus, FlowStep, SchemaRefAllowlist
from chainweaver.formats import FlowParseLimits
from chainweaver.registry import FileStore, FlowRegistry, InMemoryStore, ReloadReport
from tests.registry.kit import a_flow, put, write


def loaded(directory, store=None):
    registry = FlowRegistry(store)
    registry.load_from_directory(directory)
    return registry


def reasons(report):
    return {one.path.name: one.reason for one in report.failed}


# ---- loading


def test_the_flow_files_of_a_directory_are_registered(tmp_path):
    """api.md: load_from_directory; *.flow.json, .yaml, .yml, directly in it."""
    for name in ("b.flow.json", "a.flow.yaml", "c.flow.yml"):
        write(tmp_path / name, a_flow(name[0]))
    (tmp_path / "notes.json").write_text("no flow")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "d.flow.json").write_text("not read")
    registry = FlowRegistry(InMemoryStore())
    report = registry.load_from_directory(tmp_path)
    assert report == ReloadReport(added=(("a", "1.0"), ("b", "1.0"), ("c", "1.0")))
    assert registry.store.list_keys() == [("a", "1.0"), ("b", "1.0"), ("c", "1.0")]


def test_one_bad_file_and_nothing_is_loaded(tmp_path):
    """api.md: loading is all or nothing; every bad file is named."""
    write(tmp_path / "a.flow.json", a_flow("a"))
    (tmp_path / "b.flow.json").write_text("{")
    (tmp_path / "c.flow.json").write_bytes(b"\xff")
    registry = FlowRegistry()
    with pytest.raises(FlowSerializationError, match="2 files cannot be read") as caught:
        registry.load_from_directory(tmp_path)
    assert "b.flow.json" in str(caught.value)
    assert "c.flow.json" in str(caught.value)
    (tmp_path / "c.flow.json").unlink()
    with pytest.raises(FlowSerializationError, match=r"b\.flow\.json"):
        registry.load_from_directory(tmp_path)
    assert len(registry) == 0


def test_a_broken_dag_in_a_file_is_refused(tmp_path):
    """R15: topology is checked at registration, wherever the flow comes from; the file is named."""
    step = DAGFlowStep(step_id="a", tool_name="t", depends_on=["a"])
    write(tmp_path / "d.flow.json", DAGFlow(name="d", version="1", description="", steps=[step]))
    with pytest.raises(DAGDefinitionError, match="a -> a") as caught:
        FlowRegistry().load_from_directory(tmp_path)
    assert caught.value.where == str(tmp_path / "d.flow.json")


def test_two_files_with_the_same_flow_are_an_error(tmp_path):
    """R1: the order of files decides nothing."""
    write(tmp_path / "a.flow.json", a_flow("a"))
    write(tmp_path / "b.flow.yaml", a_flow("a"))
    with pytest.raises(FlowSerializationError, match=r"'a\.flow\.json' and 'b\.flow\.yaml'"):
        FlowRegistry().load_from_directory(tmp_path)


def test_without_overwrite_equal_flows_pass_and_others_do_not(tmp_path):
    """api.md: load_from_directory(dir, *, overwrite=True)."""
    registry = FlowRegistry()
    registry.register_flow(a_flow("a"))
    write(tmp_path / "a.flow.json", a_flow("a"))
    assert registry.load_from_directory(tmp_path, overwrite=False).unchanged == (("a", "1.0"),)
    write(tmp_path / "a.flow.json", a_flow("a", description="New."))
    write(tmp_path / "b.flow.json", a_flow("b"))
    with pytest.raises(FlowAlreadyExistsError, match=r"'a' version '1\.0'") as caught:
        registry.load_from_directory(tmp_path, overwrite=False)
    assert caught.value.where == str(tmp_path / "a.flow.json")
    assert len(registry) == 1


def test_a_directory_that_is_not_there_is_an_os_error(tmp_path):
    """api.md: load_from_directory, reload_from_directory."""
    for read in (FlowRegistry().load_from_directory, FlowRegistry().reload_from_directory):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "nothing")


def test_a_store_that_refuses_a_flow_gets_none_of_a_loading(tmp_path):
    """api.md: all or nothing holds for the store as well."""
    write(tmp_path / "a.flow.json", a_flow("a", description="New."))
    write(tmp_path / "b.flow.json", a_flow("b"))
    write(tmp_path / "c.flow.json", a_flow("no/file"))
    store = FileStore(tmp_path / "store")
    store.save_flow(a_flow("a"))
    registry = FlowRegistry(store)
    with pytest.raises(FlowSerializationError, match="not safe"):
        registry.load_from_directory(tmp_path)
    assert store.list_keys() == [("a", "1.0")]
    assert store.load_flow("a", "1.0") == registry.get_flow("a") == a_flow("a")


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_a_load_that_fails_takes_back_what_it_has_written_and_no_more(kind, tmp_path):
    """api.md: all or nothing; what others have put into the store since is theirs."""

    class Shared(InMemoryStore if kind == "memory" else FileStore):
        def save_flow(self, flow, *, overwrite=False):
            if flow.name == "z":
                for one in ("b", "d"):
                    super().save_flow(a_flow(one, description="Theirs."), overwrite=True)
                raise OSError(28, "No space left on device")
            super().save_flow(flow, overwrite=overwrite)

    directory = tmp_path / "flows"
    directory.mkdir()
    for name in "abcdez":
        write(directory / f"{name}.flow.json", a_flow(name, description="New."))
    store = Shared(*([tmp_path / "store"] if kind == "files" else []))
    store.save_flow(a_flow("a"))
    store.save_flow(a_flow("b"))
    registry = FlowRegistry(store)
    store.save_flow(a_flow("c", description="New."))
    with pytest.raises(OSError, match="No space left"):
        registry.load_from_directory(directory)
    kept = [store.load_flow(*key) for key in store.list_keys()]
    assert {flow.name: flow.description for flow in kept} == {
        "a": "Adds up.",
        "b": "Theirs.",
        "c": "New.",
        "d": "Theirs.",
    }


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_a_flow_that_the_registry_has_not_seen_in_its_store_is_not_replaced(kind, tmp_path):
    """api.md: load_from_directory(overwrite=False); what the store has counts, not when the registry looked last."""
    directory = tmp_path / "flows"
    directory.mkdir()
    write(directory / "a.flow.json", a_flow("a", description="New."))
    store = InMemoryStore() if kind == "memory" else FileStore(tmp_path / "store")
    late = FlowRegistry(store)
    store.save_flow(a_flow("a"))
    with pytest.raises(FlowAlreadyExistsError):
        late.load_from_directory(directory, overwrite=False)
    with pytest.raises(StaleFlowError):
        late.load_from_directory(directory)
    assert store.load_flow("a", "1.0") == a_flow("a")
    late.refresh()
    late.load_from_directory(directory)
    assert store.load_flow("a", "1.0").description == "New."


@pytest.mark.parametrize("read", ["load_from_directory", "reload_from_directory", "watch"])
def test_the_bounds_of_a_file_can_be_given(read, tmp_path):
    """api.md: FlowParseLimits is reachable wherever files are read."""
    write(tmp_path / "a.flow.json", a_flow(steps=[FlowStep(tool_name="t")] * 3))
    registry = FlowRegistry()
    try:
        found = getattr(registry, read)(tmp_path, limits=FlowParseLimits(max_steps=2))
    except FlowSerializationError as error:
        said = str(error)
    else:
        said = str(getattr(found, "report", found).failed[0].error)
        if read == "watch":
            found.stop()
    assert "3 steps, more than 2" in said
    assert len(registry) == 0


# ---- reloading


def test_a_reload_tells_what_came_what_changed_and_what_did_not(tmp_path):
    """api.md: ReloadReport(added, updated, unchanged)."""
    write(tmp_path / "a.flow.json", a_flow("a"))
    write(tmp_path / "b.flow.json", a_flow("b"))
    registry = loaded(tmp_path)
    snapshot = registry.snapshot

    assert registry.reload_from_directory(tmp_path) == ReloadReport(unchanged=(("a", "1.0"), ("b", "1.0")))
    assert registry.snapshot is snapshot

    write(tmp_path / "b.flow.json", a_flow("b", description="New."))
    write(tmp_path / "c.flow.json", a_flow("b", version="2.0"))
    assert registry.reload_from_directory(tmp_path) == ReloadReport(
        added=(("b", "2.0"),), updated=(("b", "1.0"),), unchanged=(("a", "1.0"),)
    )
    assert registry.get_flow("b", version="1.0").description == "New."


def test_a_broken_file_keeps_its_last_good_flow_and_holds_up_no_other(tmp_path, caplog):
    """Hot reload: the file is named with its reason, in the report and in the log."""
    write(tmp_path / "a.flow.json", a_flow("a"))
    write(tmp_path / "b.flow.json", a_flow("b"))
    registry = loaded(tmp_path)

    put(tmp_path / "a.flow.json", a_flow("a", description="New.").to_json()[:-20])
    write(tmp_path / "b.flow.json", a_flow("b", description="New."))
    with caplog.at_level(logging.WARNING, "chainweaver.registry"):
        report = registry.reload_from_directory(tmp_path)

    [failed] = report.failed
    assert (failed.path, report.updated, report.gone) == (tmp_path / "a.flow.json", (("b", "1.0"),), ())
    assert isinstance(failed.error, FlowSerializationError)
    assert failed.reason.startswith(f"Flow definition '{failed.path}' is not valid")
    assert f"{failed.path}:" in failed.reason
    assert str(failed.path) in caplog.text
    assert (registry.get_flow("a").description, registry.get_flow("b").description) == ("Adds up.", "New.")

    write(tmp_path / "a.flow.json", a_flow("a", description="New."))
    assert registry.reload_from_directory(tmp_path).updated == (("a", "1.0"),)


def test_every_kind_of_broken_file_is_told_with_its_own_reason(tmp_path):
    """Hot reload: no syntax, no flow, no DAG, no right to read it, one flow twice."""
    step = DAGFlowStep(step_id="a", tool_name="t", depends_on=["a"])
    put(tmp_path / "syntax.flow.yaml", "type: [")
    put(tmp_path / "structure.flow.json", json.dumps({"type": "Flow", "name": "x"}))
    write(tmp_path / "dag.flow.json", DAGFlow(name="d", version="1", description="", steps=[step]))
    write(tmp_path / "twice.flow.json", a_flow("twice"))
    write(tmp_path / "twice.flow.yaml", a_flow("twice"))
    write(tmp_path / "good.flow.json", a_flow("good"))
    registry = FlowRegistry()

    report = registry.reload_from_directory(tmp_path)

    said = reasons(report)
    assert report.added == (("good", "1.0"),)
    assert list(said) == [
        "dag.flow.json",
        "structure.flow.json",
        "syntax.flow.yaml",
        "twice.flow.json",
        "twice.flow.yaml",
    ]
    assert "a -> a" in said["dag.flow.json"]
    assert "2 problems" in said["structure.flow.json"]
    assert "key 'steps' is missing" in said["structure.flow.json"]
    assert "is in 'twice.flow.json' and 'twice.flow.yaml'" in said["twice.flow.yaml"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(tmp_path):
    """Hot reload: errors of the system are reasons as well."""
    write(tmp_path / "a.flow.json", a_flow())
    (tmp_path / "a.flow.json").chmod(0)
    assert "PermissionError" in reasons(FlowRegistry().reload_from_directory(tmp_path))["a.flow.json"]


def test_a_file_that_is_not_there_any_more_when_it_is_opened_is_no_failure(tmp_path):
    """Hot reload: what goes between the listing and the reading has gone."""
    write(tmp_path / "a.flow.json", a_flow("a"))
    write(tmp_path / "b.flow.json", a_flow("b"))

    class Removing(SchemaRefAllowlist):
        def refusal(self, module, qualname):
            (tmp_path / "b.flow.json").unlink(missing_ok=True)

    write(tmp_path / "a.flow.json", a_flow("a", input_schema_ref="m:C"))
    report = FlowRegistry().reload_from_directory(tmp_path, policy=Removing())
    assert report == ReloadReport(added=(("a", "1.0"),))


def test_a_flow_that_the_store_refuses_holds_up_no_other(tmp_path):
    """Hot reload: the store says no to one file."""
    write(tmp_path / "a.flow.json", a_flow("no/file"))
    write(tmp_path / "b.flow.json", a_flow("b"))
    registry = FlowRegistry(FileStore(tmp_path / "store"))
    for _ in range(2):
        report = registry.reload_from_directory(tmp_path)
        assert "not safe" in reasons(report)["a.flow.json"]
    assert list(registry.snapshot) == [("b", "1.0")]
    assert registry.store.list_keys() == [("b", "1.0")]


def test_a_flow_that_the_store_refused_is_tried_again(tmp_path):
    """Hot reload: what was not taken was not read either."""

    class Full(InMemoryStore):
        full = True

        def save_flow(self, flow, *, overwrite=False):
            if self.full:
                raise OSError(28, "No space left on device")
            super().save_flow(flow, overwrite=overwrite)

    write(tmp_path / "a.flow.json", a_flow())
    registry = FlowRegistry(store := Full())
    assert "No space left" in reasons(registry.reload_from_directory(tmp_path))["a.flow.json"]
    store.full = False
    assert registry.reload_from_directory(tmp_path) == ReloadReport(added=(("a", "1.0"),))

    store.full = True
    write(tmp_path / "a.flow.json", a_flow(description="New."))
    assert registry.reload_from_directory(tmp_path).updated == ()
    assert registry.get_flow("a").description == "Adds up."
    store.full = False
    assert registry.reload_from_directory(tmp_path).updated == (("a", "1.0"),)


# ---- what became of flows since they were read


def test_a_file_that_says_the_same_leaves_its_flow_alone(tmp_path):
    """Hot reload: whatever became of the flow since."""
    write(tmp_path / "a.flow.json", a_flow("a"))
    registry = loaded(tmp_path)
    registry.register_flow(a_flow("a", description="By hand."), overwrite=True)
    assert registry.reload_from_directory(tmp_path).unchanged == (("a", "1.0"),)
    assert registry.get_flow("a").description == "By hand."


def test_a_better_description_does_not_switch_a_disabled_flow_on(tmp_path):
    """Hot reload: status and accepted schemas that were set since stay."""
    write(tmp_path / "a.flow.json", a_flow("a"))
    registry = loaded(tmp_path)
    registry.update_flow_state("a", status="disabled", tool_schema_hashes={"t": "0" * 16})
    write(tmp_path / "a.flow.json", a_flow("a", description="New."))
    assert registry.reload_from_directory(tmp_path).updated == (("a", "1.0"),)
    flow = registry.get_flow("a")
    assert (flow.description, flow.status, flow.tool_schema_hashes) == ("New.", FlowStatus.DISABLED, {"t": "0" * 16})


def test_schemas_of_tools_that_a_flow_no_longer_names_are_forgotten(tmp_path):
    """Hot reload: a tool that was taken out of a flow is nothing that the flow could miss."""
    write(tmp_path / "a.flow.json", a_flow(steps=[FlowStep(tool_name="t"), FlowStep(tool_name="u")]))
    registry = loaded(tmp_path)
    registry.update_flow_state("a", tool_schema_hashes={"t": "0" * 16, "u": "1" * 16})
    write(tmp_path / "a.flow.json", a_flow(steps=[FlowStep(tool_name="u"), FlowStep(tool_name="v")]))
    registry.reload_from_directory(tmp_path)
    assert registry.get_flow("a").tool_schema_hashes == {"u": "1" * 16}


def test_a_file_that_changes_the_status_has_the_last_word(tmp_path):
    """Hot reload: of two who set a state the later one counts."""
    write(tmp_path / "a.flow.json", a_flow("a", status="disabled"))
    registry = loaded(tmp_path)
    registry.set_flow_status("a", "needs_review")
    write(tmp_path / "a.flow.json", a_flow("a"))
    registry.reload_from_directory(tmp_path)
    assert registry.get_flow("a").status is FlowStatus.ACTIVE


@pytest.mark.parametrize(("said", "status"), [({}, "disabled"), ({"status": "active"}, "active")])
def test_after_a_restart_a_file_that_is_silent_about_a_status_leaves_the_stored_one(said, status, tmp_path):
    """Hot reload: the store remembers what was set, and a file that says it explicitly wins."""
    store = InMemoryStore()
    store.save_flow(a_flow(status="disabled"))
    data = {"type": "Flow", "name": "a", "version": "1.0", "description": "New.", "steps": [{"tool_name": "t"}], **said}
    put(tmp_path / "a.flow.json", json.dumps(data))
    registry = loaded(tmp_path, store)
    assert (registry.get_flow("a").description, registry.get_flow("a").status.value) == ("New.", status)


def test_a_renamed_file_is_the_same_flow(tmp_path):
    """Hot reload: flows are known by name and version, not by the name of their file."""
    write(tmp_path / "a.flow.json", a_flow("a"))
    registry = loaded(tmp_path)
    registry.set_flow_status("a", "disabled")
    (tmp_path / "a.flow.json").rename(tmp_path / "z.flow.json")
    assert registry.reload_from_directory(tmp_path) == ReloadReport(unchanged=(("a", "1.0"),))
    assert registry.get_flow("a").status is FlowStatus.DISABLED


def test_a_flow_that_was_unregistered_comes_back_with_its_file(tmp_path):
    """api.md: added is what the registry did not have."""
    write(tmp_path / "a.flow.json", a_flow("a"))
    registry = loaded(tmp_path)
    registry.unregister_flow("a")
    assert registry.reload_from_directory(tmp_path).added == (("a", "1.0"),)


def test_a_flow_whose_file_is_gone_stays_and_is_told(tmp_path):
    """Hot reload: a file that is missing for a moment takes no flow away; whoever wants that can."""
    write(tmp_path / "a.flow.json", a_flow("a"))
    write(tmp_path / "b.flow.json", a_flow("b"))
    registry = loaded(tmp_path)
    (tmp_path / "a.flow.json").unlink()
    write(tmp_path / "b.flow.json", a_flow("b", version="2.0"))

    for added, unchanged in (((("b", "2.0"),), ()), ((), (("b", "2.0"),))):
        report = registry.reload_from_directory(tmp_path)
        assert report == ReloadReport(added=added, unchanged=unchanged, gone=(("a", "1.0"), ("b", "1.0")))
    assert len(registry) == 3

    for name, version in report.gone:
        registry.unregister_flow(name, version=version)
    assert registry.reload_from_directory(tmp_path) == ReloadReport(unchanged=(("b", "2.0"),))


def test_a_broken_file_is_not_a_missing_one(tmp_path):
    """Hot reload: a file that cannot be read stands for what it held."""
    write(tmp_path / "a.flow.json", a_flow("a"))
    registry = loaded(tmp_path)
    for _ in range(2):
        put(tmp_path / "a.flow.json", "{")
        assert registry.reload_from_directory(tmp_path).gone == ()
    (tmp_path / "a.flow.json").unlink()
    assert registry.reload_from_directory(tmp_path).gone == (("a", "1.0"),)


def test_directories_know_nothing_of_each_other(tmp_path):
    """Hot reload: a file that did not change does not come back because another directory was read."""
    for name, description in (("one", "One."), ("two", "Two.")):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "a.flow.json", a_flow("a", description=description))
    registry = loaded(tmp_path / "one")
    assert registry.load_from_directory(tmp_path / "two").updated == (("a", "1.0"),)
    assert registry.reload_from_directory(tmp_path / "one").unchanged == (("a", "1.0"),)
    assert registry.get_flow("a").description == "Two."


# ---- at once, and who may be named


def test_all_files_of_a_reload_become_visible_at_once(tmp_path):
    """R40: a reader sees all flows of one reading or all of the next, never some of each."""
    names = [f"f{i}" for i in range(5)]
    registry = FlowRegistry()

    def deploy(description):
        for name in names:
            write(tmp_path / f"{name}.flow.json", a_flow(name, description=description))
        registry.reload_from_directory(tmp_path)

    deploy("0")
    mixed: set[tuple[str, ...]] = set()
    done = threading.Event()

    def read():
        while not done.is_set():
            snapshot = registry.snapshot
            seen = tuple(sorted({snapshot.resolve(name).description for name in names}))
            if len(seen) > 1:
                mixed.add(seen)

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(1, 30):
        deploy(str(i))
    done.set()
    reader.join(60)
    assert mixed == set()
    assert {registry.get_flow(name).description for name in names} == {"29"}


def test_one_reload_is_one_write(tmp_path):
    """R40: between the snapshot before and the one after there is none."""

    class Watched(FlowRegistry):
        def __setattr__(self, name, value):
            if name == "snapshot":
                written.append(sorted(value))
            super().__setattr__(name, value)

    written: list[list[tuple[str, str]]] = []
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.flow.json", a_flow(name))
    registry = Watched()
    registry.reload_from_directory(tmp_path)
    assert written == [[], [("a", "1.0"), ("b", "1.0"), ("c", "1.0")]]


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module that says so when it is imported, and a flow that names a class in it."""
    place = tmp_path / "modules"
    place.mkdir()
    (place / "trap_of_a_flow.py").write_text(
        "import pathlib\n"
        "pathlib.Path(__file__).with_name('sprung').touch()\n"
        "from pydantic import BaseModel\n"
        "class Model(BaseModel): pass\n"
    )
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "trap_of_a_flow", raising=False)
    return place / "sprung"


@pytest.mark.parametrize("whose", ["registry", "directory"])
def test_a_file_that_names_a_module_outside_the_allowlist_is_refused_and_imports_nothing(whose, trap, tmp_path):
    """api.md: SchemaRefAllowlist; the file is named with the place, the others are loaded."""
    allowed = SchemaRefAllowlist(modules=("shop",))
    write(tmp_path / "bad.flow.yaml", a_flow("bad", input_schema_ref="trap_of_a_flow:Model"))
    write(tmp_path / "good.flow.yaml", a_flow("good", input_schema_ref="shop:Order"))
    registry = FlowRegistry(schema_ref_policy=allowed if whose == "registry" else None)

    report = registry.reload_from_directory(tmp_path, policy=allowed if whose == "directory" else None)

    assert (report.added, trap.exists()) == ((("good", "1.0"),), False)
    [failed] = report.failed
    assert isinstance(failed.error, SchemaRefPolicyError)
    assert failed.error.where == f"/input_schema_ref ({tmp_path / 'bad.flow.yaml'}:3)"
    assert "'trap_of_a_flow'" in failed.reason
    with pytest.raises(SchemaRefPolicyError):
        registry.load_from_directory(tmp_path, policy=allowed if whose == "directory" else None)


def test_a_directory_may_be_trusted_less_than_the_registry_and_never_more(tmp_path):
    """api.md: SchemaRefAllowlist; what is permitted has to be permitted by both."""
    for module in ("shop", "shop.models", "other"):
        write(tmp_path / f"{module}.flow.json", a_flow(module, input_schema_ref=f"{module}:X"))
    for modules, added in ((("shop.models", "other"), ["shop.models"]), (("other",), [])):
        registry = FlowRegistry(schema_ref_policy=SchemaRefAllowlist(modules=("shop",)))
        report = registry.reload_from_directory(tmp_path, policy=SchemaRefAllowlist(modules=modules))
        assert [name for name, _ in report.added] == added
    with pytest.raises(TypeError, match="not list"):
        registry.reload_from_directory(tmp_path, policy=["shop"])


def test_a_registry_with_a_policy_lets_no_flow_in_that_breaks_it(trap, tmp_path):
    """api.md: SchemaRefPolicy; by hand, from a store, after a refresh."""
    bad = a_flow("bad", context_schema_ref="trap_of_a_flow:Model")
    registry = FlowRegistry(store := InMemoryStore(), schema_ref_policy=SchemaRefAllowlist())
    with pytest.raises(SchemaRefPolicyError, match=r"flow 'bad' 1\.0, /context_schema_ref"):
        registry.register_flow(bad)
    store.save_flow(bad)
    for load in (registry.refresh, lambda: FlowRegistry(store, schema_ref_policy=SchemaRefAllowlist())):
        with pytest.raises(SchemaRefPolicyError):
            load()
    assert len(registry) == 0
    assert not trap.exists()
    with pytest.raises(TypeError, match="not list"):
        FlowRegistry(schema_ref_policy=["shop"])  # type: ignore[arg-type]  # the point of the test
    assert FlowRegistry(store).get_flow("bad").context_schema is not None
    assert trap.exists()


def test_what_is_no_flow_file_is_passed_over(tmp_path):
    """Hot reload: locks and copies that editors and systems leave behind are no files of flows."""
    write(tmp_path / "a.flow.json", a_flow())
    put(tmp_path / "._a.flow.json", "a fork of resources")
    put(tmp_path / "a.flow.json~", "a backup")
    (tmp_path / "gone.flow.json").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.flow.json").mkdir()
    assert FlowRegistry().reload_from_directory(tmp_path) == ReloadReport(added=(("a", "1.0"),))


def test_a_link_in_a_circle_is_a_broken_file(tmp_path):
    """Hot reload: one entry that the system cannot make sense of takes no other down."""
    write(tmp_path / "a.flow.json", a_flow())
    (tmp_path / "b.flow.json").symlink_to(tmp_path / "b.flow.json")
    report = FlowRegistry().reload_from_directory(tmp_path)
    assert report.added == (("a", "1.0"),)
    assert reasons(report)["b.flow.json"].startswith("OSError")
