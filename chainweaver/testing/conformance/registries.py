"""The contract of registry stores: definitions come back equal, under their name and version, and are never mixed up.

Subclassed by the tests of stores; the protocol is `chainweaver.registry.RegistryStore`.
"""

from __future__ import annotations

import threading
from typing import Any

from chainweaver.exceptions import FlowAlreadyExistsError, FlowNotFoundError
from chainweaver.flow import DAGFlow, DAGFlowStep, Flow, FlowStep, RetryPolicy, literal
from chainweaver.registry import RegistryStore
from chainweaver.testing.conformance.contract import StoreContract, at_once, refused, succeeds


def a_flow(name: str = "invoice", version: str = "1.0", **fields: Any) -> Flow:
    """A flow with something of everything that is easily lost."""
    step = FlowStep(
        tool_name="total",
        input_mapping={"rows": ["a", 1, 0.5, None], "head": literal("text"), "who": "/user/0/name"},
        retry=RetryPolicy(max_retries=1, backoff_seconds=0.25),
        on_error="fallback:other",
    )
    return Flow(**{"name": name, "version": version, "description": "Größe 10 €", "steps": [step], **fields})


def a_numbered_flow(number: int) -> Flow:
    """A flow that follows from a number."""
    steps = [FlowStep(tool_name=f"t{number}", input_mapping={"x": [one]}) for one in range(number % 20)]
    return a_flow(version=f"{number}.0", description=f"the {number}th", steps=steps)


def save_one(store: Any, number: int) -> None:
    """Save one more flow, as a process does that is to be killed."""
    store.save_flow(a_numbered_flow(number))


class RegistryStoreConformance(StoreContract):
    """What every registry store does. Override `make_store`, and `reopen_store` where flows outlive the object.

    >>> from chainweaver.registry import InMemoryStore
    >>> class TestMine(RegistryStoreConformance):
    ...     def make_store(self):
    ...         return InMemoryStore()
    >>> TestMine().test_keys_are_sorted()
    """

    def test_the_store_follows_the_protocol(self) -> None:
        """The registry knows the protocol only."""
        with self.opened() as store:
            wanted = "save_flow, load_flow, has_flow, list_keys and delete_flow"
            assert isinstance(store, RegistryStore), f"{type(store).__name__} has to have {wanted}"

    def test_what_is_saved_comes_back_equal(self) -> None:
        """Every field, of both kinds of flow."""
        with self.opened() as store:
            dag = DAGFlow(
                name="graph",
                version="1",
                description="",
                steps=[
                    DAGFlowStep(step_id="a", tool_name="t"),
                    DAGFlowStep(step_id="b", tool_name="t", depends_on=["a"]),
                ],
            )
            for flow in (a_flow(), dag):
                store.save_flow(flow)
                loaded = store.load_flow(flow.name, flow.version)
                assert type(loaded) is type(flow), f"a {type(flow).__name__} comes back as one"
                assert loaded == flow, "a definition comes back equal"

    def test_nothing_is_shared_with_the_caller(self) -> None:
        """Neither what is kept nor what is loaded."""
        with self.opened() as store:
            flow = a_flow()
            store.save_flow(flow)
            flow.steps.clear()
            loaded = store.load_flow("invoice", "1.0")
            assert loaded == a_flow(), "changing what was saved changes nothing"
            loaded.steps.clear()
            assert store.load_flow("invoice", "1.0") == a_flow(), "changing what was loaded changes nothing"

    def test_a_taken_name_is_refused(self) -> None:
        """`save_flow(flow)` never replaces."""
        with self.opened() as store:
            store.save_flow(a_flow())
            with refused(FlowAlreadyExistsError, "save_flow() of a taken name and version") as caught:
                store.save_flow(a_flow(description="new"))
            assert (caught.error.flow_name, caught.error.version) == ("invoice", "1.0"), "the error names the flow"
            assert store.load_flow("invoice", "1.0") == a_flow(), "a refused flow leaves the old one alone"

    def test_a_taken_name_is_replaced_when_asked_to(self) -> None:
        """`overwrite=True`, for new names as well."""
        with self.opened() as store:
            for description in ("first", "second"):
                store.save_flow(a_flow(description=description), overwrite=True)
                assert store.load_flow("invoice", "1.0").description == description, "the last one counts"
            assert list(store.list_keys()) == [("invoice", "1.0")], "it stands once"

    def test_versions_of_one_name_are_kept_apart(self) -> None:
        """As text: 1.0 and 1.0.0 are two keys."""
        with self.opened() as store:
            for version in ("1.0", "1.0.0", "2.0rc1"):
                store.save_flow(a_flow(version=version, description=version))
            for version in ("1.0", "1.0.0", "2.0rc1"):
                assert store.load_flow("invoice", version).description == version, f"version {version}"

    def test_keys_are_sorted(self) -> None:
        """By name, then by version, as text; and an empty store has none."""
        with self.opened() as store:
            assert list(store.list_keys()) == [], "a new store is empty"
            for name, version in (("b", "1.0"), ("a", "2.0"), ("a", "10.0")):
                store.save_flow(a_flow(name, version))
            assert list(store.list_keys()) == [("a", "10.0"), ("a", "2.0"), ("b", "1.0")], "keys are sorted as text"

    def test_a_store_knows_what_it_has(self) -> None:
        """`has_flow` looks at name and version."""
        with self.opened() as store:
            store.save_flow(a_flow())
            found = [store.has_flow(*key) for key in (("invoice", "1.0"), ("invoice", "2.0"), ("other", "1.0"))]
            assert found == [True, False, False], f"has_flow answered {found}"

    def test_a_deleted_flow_is_gone(self) -> None:
        """And no other with it."""
        with self.opened() as store:
            for version in ("1.0", "2.0"):
                store.save_flow(a_flow(version=version))
            store.delete_flow("invoice", "1.0")
            assert list(store.list_keys()) == [("invoice", "2.0")], "one version is gone, and one only"
            assert not store.has_flow("invoice", "1.0"), "has_flow sees it too"
            store.save_flow(a_flow())
            assert store.load_flow("invoice", "1.0") == a_flow(), "its name is free again"

    def test_what_is_not_there_cannot_be_loaded(self) -> None:
        """By the error that a registry is documented to raise."""
        with self.opened() as store:
            store.save_flow(a_flow())
            for key in (("nothing", "1.0"), ("invoice", "9.9")):
                with refused(FlowNotFoundError, f"load_flow{key}") as caught:
                    store.load_flow(*key)
                assert (caught.error.flow_name, caught.error.version) == key, "the error names the flow"

    def test_what_is_not_there_cannot_be_deleted(self) -> None:
        """By the same error."""
        with self.opened() as store:
            store.save_flow(a_flow())
            for key in (("nothing", "1.0"), ("invoice", "9.9")):
                with refused(FlowNotFoundError, f"delete_flow{key}"):
                    store.delete_flow(*key)

    def test_a_flow_of_many_steps_comes_back(self) -> None:
        """Limits for files that people write do not apply to what was saved."""
        with self.opened() as store:
            flow = a_flow(steps=[FlowStep(tool_name="t", input_mapping={"x": [n]}) for n in range(1_500)])
            store.save_flow(flow)
            assert store.load_flow("invoice", "1.0") == flow, "all of its steps"

    def test_of_many_threads_one_creates_the_flow(self) -> None:
        """`overwrite=False` holds when several save at once."""
        with self.opened() as store:
            created: list[str] = []
            lock = threading.Lock()

            def work(description: str) -> None:
                try:
                    store.save_flow(a_flow(description=description))
                except FlowAlreadyExistsError:
                    return
                with lock:
                    created.append(description)

            at_once([lambda name=str(number): work(name) for number in range(6)])  # type: ignore[misc]
            assert len(created) == 1, f"{len(created)} threads created the same flow"
            assert store.load_flow("invoice", "1.0").description == created[0], "and the store has that one"

    def test_the_next_process_finds_the_flows(self) -> None:
        """Concerns stores whose flows outlive the object; see `reopen_store`."""
        with self.opened() as store:
            store.save_flow(a_flow())
            with self.reopened(store) as other:
                assert list(other.list_keys()) == [("invoice", "1.0")], "a flow is there for others on the same data"
                assert other.load_flow("invoice", "1.0") == a_flow(), "and equal"

    def test_a_save_that_fails_leaves_a_whole_definition(self) -> None:
        """Concerns stores that can be made to fail; see `failing`. The old one or the new one."""
        with self.opened() as store:
            old, new = a_flow(), a_flow(description="new")
            for fault in self.faults(store):
                store.save_flow(old, overwrite=True)
                with fault:
                    done = succeeds(lambda: store.save_flow(new, overwrite=True))
                assert store.load_flow("invoice", "1.0") in ((new,) if done else (old, new)), (
                    "neither the old nor the new"
                )
                assert list(store.list_keys()) == [("invoice", "1.0")], "it stands once"
                store.save_flow(new, overwrite=True)
                assert store.load_flow("invoice", "1.0") == new, "what failed can be done again"

    def test_a_load_that_fails_gives_no_other_definition(self) -> None:
        """Concerns stores that can be made to fail; see `failing`. The definition or an error."""
        with self.opened() as store:
            store.save_flow(a_flow())
            for fault in self.faults(store):
                found: list[Any] = []
                with fault:
                    succeeds(lambda: found.append(store.load_flow("invoice", "1.0")))  # noqa: B023 - called at once
                assert found in ([], [a_flow()]), "what could not be read was made up"

    def test_what_a_killed_process_saved_is_there(self) -> None:
        """Concerns stores that a child process can open; see `opened_elsewhere`. And every definition is whole."""
        with self.opened() as store:
            first = 0
            for _ in range(self.kills):
                written = self.killed(store, f"{__name__}:save_one", first)
                if written is None:
                    return
                with self.reopened(store) as other:
                    saved = {f"{number}.0": number for number in range(first, written.last + 2)}
                    there = [version for _, version in other.list_keys() if version in saved]
                    assert len(there) >= len(saved) - 1, f"{len(saved) - 1} were saved, and {len(there)} are there"
                    for version in there:
                        found = other.load_flow("invoice", version)
                        assert found == a_numbered_flow(saved[version]), f"version {version} is not what was saved"
                first = written.last + 2
