"""RegistryStore: what every store does, and what a store of files does beyond that."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path

import pytest

from chainweaver.exceptions import FlowAlreadyExistsError, FlowNotFoundError, FlowSerializationError
from chainweaver.flow import DAGFlow, DAGFlowStep, Flow, FlowStep, RetryPolicy
from chainweaver.registry import FileStore, InMemoryStore, RegistryStore


def a_flow(name="invoice", version="1.0", **fields):
    steps = [FlowStep(tool_name="total", input_mapping={"rows": ["a"]}, retry=RetryPolicy(max_retries=1))]
    return Flow(**{"name": name, "version": version, "description": "Größe 10 €", "steps": steps, **fields})


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path) -> RegistryStore:
    return InMemoryStore() if request.param == "memory" else FileStore(tmp_path / "flows")


def test_a_store_is_what_the_protocol_says(store):
    """api.md: RegistryStore."""
    assert isinstance(store, RegistryStore)


def test_what_is_saved_comes_back_equal_and_shares_nothing(store):
    """api.md: save_flow, load_flow."""
    flow = a_flow()
    store.save_flow(flow)
    flow.steps.clear()
    loaded = store.load_flow("invoice", "1.0")
    assert loaded == a_flow()
    loaded.steps.clear()
    assert store.load_flow("invoice", "1.0") == a_flow()


def test_dags_come_back_as_dags(store):
    """api.md: stores keep both kinds."""
    dag = DAGFlow(name="d", version="1", description="", steps=[DAGFlowStep(step_id="a", tool_name="t")])
    store.save_flow(dag)
    assert store.load_flow("d", "1") == dag


def test_a_taken_name_is_replaced_only_when_asked_to(store):
    """api.md: save_flow(flow, *, overwrite=False)."""
    store.save_flow(a_flow())
    with pytest.raises(FlowAlreadyExistsError) as caught:
        store.save_flow(a_flow(description="new"))
    assert (caught.value.flow_name, caught.value.version) == ("invoice", "1.0")
    assert store.load_flow("invoice", "1.0").description == "Größe 10 €"
    store.save_flow(a_flow(description="new"), overwrite=True)
    assert store.load_flow("invoice", "1.0").description == "new"


def test_keys_are_sorted_and_deleted_flows_are_gone(store):
    """api.md: list_keys, has_flow, delete_flow."""
    for name, version in (("b", "1.0"), ("a", "2.0"), ("a", "10.0")):
        store.save_flow(a_flow(name, version))
    assert store.list_keys() == [("a", "10.0"), ("a", "2.0"), ("b", "1.0")]
    store.delete_flow("a", "2.0")
    assert store.list_keys() == [("a", "10.0"), ("b", "1.0")]
    assert (store.has_flow("a", "2.0"), store.has_flow("b", "1.0")) == (False, True)


def test_what_is_not_there_cannot_be_loaded_or_deleted(store):
    """api.md: E002."""
    for act in (store.load_flow, store.delete_flow):
        with pytest.raises(FlowNotFoundError) as caught:
            act("nothing", "1.0")
        assert (caught.value.flow_name, caught.value.version) == ("nothing", "1.0")


def test_a_file_is_called_after_name_and_version(tmp_path):
    """api.md: "<name>@<version>.flow.json"; nothing else is left behind."""
    FileStore(tmp_path).save_flow(a_flow("inv.oice-1", "1!2.0rc1+local.1"))
    assert [path.name for path in tmp_path.iterdir()] == ["inv.oice-1@1!2.0rc1+local.1.flow.json"]
    assert FileStore(str(tmp_path)).list_keys() == [("inv.oice-1", "1!2.0rc1+local.1")]


@pytest.mark.parametrize(
    "name", ["../up", "a/b", "a\\b", ".hidden", "..", "a b", "a@b", "a\n", "ä", "\u202e", "x" * 200]
)
def test_names_that_are_not_safe_are_refused(tmp_path, name):
    """api.md: "not safe"; for every operation."""
    store = FileStore(tmp_path / "flows")
    for act in (lambda: store.save_flow(a_flow(name)), lambda: store.load_flow(name, "1.0")):
        with pytest.raises(ValueError, match="not safe"):
            act()
    with pytest.raises(FlowSerializationError, match="not safe"):
        store.delete_flow(name, "1.0")
    with pytest.raises(FlowSerializationError, match="not safe"):
        store.has_flow("fine", f"1/{name}")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["con", "NUL", "com1", "Lpt9.txt"])
def test_names_that_are_reserved_are_refused(tmp_path, name):
    """api.md: "reserved"."""
    with pytest.raises(ValueError, match="reserved"):
        FileStore(tmp_path).save_flow(a_flow(name))


def test_the_refusal_can_be_pickled(tmp_path):
    """style: every error survives pickling."""
    with pytest.raises(ValueError) as caught:
        FileStore(tmp_path).has_flow("../up", "1.0")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_strange_files_are_passed_over(tmp_path):
    """api.md: list_keys lists flows."""
    store = FileStore(tmp_path)
    store.save_flow(a_flow())
    for name in ("notes.txt", "plain.flow.json", ".tmp@1.flow.json", "a@b c.flow.json"):
        (tmp_path / name).write_text("{}")
    assert store.list_keys() == [("invoice", "1.0")]


def test_a_file_with_another_flow_than_its_name_says_is_an_error(tmp_path):
    """api.md: name and file belong together."""
    store = FileStore(tmp_path)
    store.save_flow(a_flow())
    (tmp_path / "invoice@1.0.flow.json").rename(tmp_path / "other@1.0.flow.json")
    with pytest.raises(FlowSerializationError, match=r"flow 'invoice' version '1\.0'"):
        store.load_flow("other", "1.0")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b'{"type": "Flow"}'])
def test_a_damaged_file_is_a_typed_error_that_names_it(tmp_path, data):
    """api.md: E017 with the source."""
    path = tmp_path / "invoice@1.0.flow.json"
    path.write_bytes(data)
    with pytest.raises(FlowSerializationError, match=r"invoice@1\.0\.flow\.json"):
        FileStore(tmp_path).load_flow("invoice", "1.0")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    """api.md: atomic writes."""
    store = FileStore(tmp_path)
    store.save_flow(a_flow())

    def disk_full(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="disk full"):
        store.save_flow(a_flow(description="new"), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["invoice@1.0.flow.json"]
    assert store.load_flow("invoice", "1.0") == a_flow()


def test_without_links_a_new_file_is_renamed_into_place(tmp_path, monkeypatch):
    """api.md: atomic writes, also on file systems without links."""

    def no_links(old, new):
        raise PermissionError("links are not supported")

    monkeypatch.setattr(os, "link", no_links)
    store = FileStore(tmp_path)
    store.save_flow(a_flow())
    with pytest.raises(FlowAlreadyExistsError):
        store.save_flow(a_flow())
    assert [path.name for path in tmp_path.iterdir()] == ["invoice@1.0.flow.json"]


def test_a_generated_flow_of_any_length_comes_back(tmp_path):
    """api.md: what was saved can be loaded; the limits for files that people write do not apply."""
    flow = a_flow(steps=[FlowStep(tool_name="t", input_mapping={"x": [1, 2, 3]})] * 3_000)
    store = FileStore(tmp_path)
    store.save_flow(flow)
    assert store.load_flow("invoice", "1.0") == flow


def _save(base_dir: Path, description: str) -> bool:
    try:
        FileStore(base_dir).save_flow(a_flow(description=description))
    except FlowAlreadyExistsError:
        return False
    return True


def test_of_many_processes_one_creates_the_file(tmp_path):
    """api.md: overwrite=False holds between processes."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        created = pool.starmap(_save, [(tmp_path, str(i)) for i in range(8)])
    assert sum(created) == 1
    assert FileStore(tmp_path).load_flow("invoice", "1.0").description == str(created.index(True))
