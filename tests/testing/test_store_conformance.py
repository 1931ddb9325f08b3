"""The contracts of stores: ours keep them, and each clause catches a store that breaks it."""

from __future__ import annotations

import contextlib
import tempfile
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from chainweaver import (
    CheckpointEncodeError,
    CheckpointNotFoundError,
    FileCheckpointer,
    FileStepCache,
    FileStore,
    FileTraceStore,
    FlowAlreadyExistsError,
    FlowNotFoundError,
    InMemoryCheckpointer,
    InMemoryStepCache,
    InMemoryStore,
    InMemoryTraceStore,
    StepCacheKey,
    TraceNotFoundError,
)
from chainweaver.cache import Uncacheable
from chainweaver.checkpoint import StepDelta
from chainweaver.exceptions import RunClaimLostError
from chainweaver.testing import (
    CheckpointerConformance,
    RegistryStoreConformance,
    RunStoreConformance,
    StepCacheConformance,
    TraceStoreConformance,
)
from tests.conftest import PROOF
from tests.sql.faults import failing_file_call
from tests.testing import broken
from tests.testing.broken import Stumbling

KILLS = 20 if PROOF else 1


def directory() -> Path:
    return Path(tempfile.mkdtemp(prefix="chainweaver-test-"))


# ---- ours keep them


class TestInMemoryStepCache(StepCacheConformance):
    def make_store(self):
        return InMemoryStepCache()


class TestFileStepCache(StepCacheConformance):
    kills = KILLS

    def make_store(self):
        return FileStepCache(directory())

    def reopen_store(self, store):
        return FileStepCache(store._root)

    def failing(self, store, after):
        return failing_file_call(store._root, after)

    def opened_elsewhere(self, store):
        return "tests.sql.opening:file_cache", str(store._root)


class TestInMemoryCheckpointer(CheckpointerConformance):
    def make_store(self):
        return InMemoryCheckpointer()


class TestFileCheckpointer(CheckpointerConformance):
    kills = KILLS

    def make_store(self):
        return FileCheckpointer(directory(), fsync=False)

    def reopen_store(self, store):
        return FileCheckpointer(store.root, fsync=False)

    def failing(self, store, after):
        return failing_file_call(store.root, after)

    def opened_elsewhere(self, store):
        return "tests.sql.opening:file_runs", str(store.root)


class SavingCheckpointer:
    """A store without append, which the executor serves with growing snapshots."""

    def __init__(self):
        kept = InMemoryCheckpointer()
        self.save, self.load, self.delete, self.list_trace_ids = kept.save, kept.load, kept.delete, kept.list_trace_ids


class TestSavingCheckpointer(CheckpointerConformance):
    def make_store(self):
        return SavingCheckpointer()


class TestInMemoryStore(RegistryStoreConformance):
    def make_store(self):
        return InMemoryStore()


class TestFileStore(RegistryStoreConformance):
    kills = KILLS

    def make_store(self):
        return FileStore(directory())

    def reopen_store(self, store):
        return FileStore(store.base_dir)

    def failing(self, store, after):
        return failing_file_call(store.base_dir, after)

    def opened_elsewhere(self, store):
        return "tests.sql.opening:file_flows", str(store.base_dir)


class TestInMemoryTraceStore(TraceStoreConformance):
    def make_store(self):
        return InMemoryTraceStore()


class TestFileTraceStore(TraceStoreConformance):
    def make_store(self):
        return FileTraceStore(directory())

    def reopen_store(self, store):
        return FileTraceStore(store.root)


# ---- each clause catches a store that breaks it


class NoClear:
    def get(self, key):
        return None

    def set(self, key, output):
        pass


class RaisingCache(InMemoryStepCache):
    def get(self, key):
        found = super().get(key)
        if found is None:
            raise KeyError(key)
        return found


class JsonCache(InMemoryStepCache):
    """Loses types, as a store that writes plain JSON does."""

    def set(self, key, output):
        super().set(key, {name: list(value) if type(value) is tuple else value for name, value in output.items()})


class SortingCache(InMemoryStepCache):
    def get(self, key):
        found = super().get(key)
        return None if found is None else dict(sorted(found.items()))


class FalsyCache(InMemoryStepCache):
    def get(self, key):
        return super().get(key) or None


class ToolOnlyCache(InMemoryStepCache):
    def get(self, key):
        return super().get(StepCacheKey(key.tool_name, "", ""))

    def set(self, key, output):
        super().set(StepCacheKey(key.tool_name, "", ""), output)


class PathCache(InMemoryStepCache):
    """Takes names of tools for file names, and so mixes some up."""

    def _flat(self, key):
        return key._replace(tool_name=key.tool_name.replace("/", "").replace("\\", "").strip()[:255])

    def get(self, key):
        return super().get(self._flat(key))

    def set(self, key, output):
        super().set(self._flat(key), output)


class FirstWinsCache(InMemoryStepCache):
    def set(self, key, output):
        super().set(key, {**output, **(self.get(key) or {})})


class SharingCache:
    """Hands out what it keeps, and keeps what it is given."""

    def __init__(self, *, copies_in: bool = False, copies_out: bool = False) -> None:
        self.entries: dict[Any, Any] = {}
        self.copies_in, self.copies_out = copies_in, copies_out

    def get(self, key):
        found = self.entries.get(key)
        return deepcopy(found) if self.copies_out else found

    def set(self, key, output):
        try:
            self.entries[key] = deepcopy(output) if self.copies_in else output
        except TypeError as exc:
            raise Uncacheable(str(exc)) from exc

    def clear(self):
        self.entries.clear()


class ForgetfulClear(InMemoryStepCache):
    def clear(self):
        self._entries.popitem()


class TakesAllCache(InMemoryStepCache):
    def set(self, key, output):
        try:
            super().set(key, output)
        except Uncacheable:
            super().set(key, {"n": 0})


class ThawingCache(InMemoryStepCache):
    def get(self, key):
        found = super().get(key)
        return found and {k: v.model_dump() if hasattr(v, "model_dump") else v for k, v in found.items()}


class TornCache(SharingCache):
    """Writes an entry bit by bit."""

    def set(self, key, output):
        entry = self.entries[key] = {}
        for name, value in output.items():
            entry[name] = value
            time.sleep(0.0005)


class CacheContract(StepCacheConformance):
    def __init__(self, make: Any) -> None:
        self.make = make

    def make_store(self):
        return self.make()


class AmnesiacCacheContract(CacheContract):
    def reopen_store(self, store):
        return InMemoryStepCache()


class HalfCheckpointer:
    def save(self, snapshot):
        pass

    def load(self, trace_id):
        pass


class LosingFields(InMemoryCheckpointer):
    def save(self, snapshot):
        super().save(snapshot.model_copy(update={"step_fingerprints": {}}))


class LosingTimes(InMemoryCheckpointer):
    def append(self, trace_id, delta):
        super().append(trace_id, delta._replace(started_at=0.0))


class LateCommits(InMemoryCheckpointer):
    def __init__(self):
        super().__init__()
        self.waiting: dict[str, StepDelta] = {}

    def append(self, trace_id, delta):
        if trace_id in self.waiting:
            super().append(trace_id, self.waiting[trace_id])
        elif trace_id not in self.list_trace_ids():
            super().append(trace_id, delta)
        self.waiting[trace_id] = delta


class Unordered(InMemoryCheckpointer):
    def load(self, trace_id):
        snapshot = super().load(trace_id)
        snapshot.steps = list(reversed(snapshot.steps))
        return snapshot


class TwiceCheckpointer(InMemoryCheckpointer):
    def load(self, trace_id):
        snapshot, kept = super().load(trace_id), self._runs[trace_id]
        snapshot.steps = list(kept.deltas)
        return snapshot


class AddingCheckpointer(InMemoryCheckpointer):
    def save(self, snapshot):
        try:
            before = self.load(snapshot.trace_id).steps
        except CheckpointNotFoundError:
            before = []
        super().save(snapshot.model_copy(update={"steps": [*snapshot.steps, *before[len(snapshot.steps) :]]}))


class SharingCheckpointer(InMemoryCheckpointer):
    def __init__(self):
        super().__init__()
        self.runs: dict[str, Any] = {}

    def save(self, snapshot):
        self.runs[snapshot.trace_id] = snapshot.model_copy(update={"steps": list(snapshot.steps)})

    def append(self, trace_id, delta):
        self.runs[trace_id].steps.append(delta)

    def load(self, trace_id):
        return self.runs[trace_id]


class KeyErrorCheckpointer(InMemoryCheckpointer):
    def load(self, trace_id):
        try:
            return super().load(trace_id)
        except CheckpointNotFoundError:
            raise KeyError(trace_id) from None


class ShuffledIds(InMemoryCheckpointer):
    def list_trace_ids(self):
        return list(reversed(super().list_trace_ids()))


class StrictDelete(InMemoryCheckpointer):
    def delete(self, trace_id):
        self.load(trace_id)
        super().delete(trace_id)


class PrefixCheckpointer(InMemoryCheckpointer):
    def append(self, trace_id, delta):
        for one in self.list_trace_ids():
            if one.startswith(trace_id):
                super().append(one, delta)


class CutsWhatItCannotKeep(InMemoryCheckpointer):
    def append(self, trace_id, delta):
        try:
            super().append(trace_id, delta)
        except CheckpointEncodeError:
            super().append(trace_id, delta._replace(outputs={"fine": 1}))


class CutsInputs(InMemoryCheckpointer):
    def save(self, snapshot):
        try:
            super().save(snapshot)
        except CheckpointEncodeError:
            super().save(snapshot.model_copy(update={"initial_input": {}}))


class RacingCheckpointer(InMemoryCheckpointer):
    """Reads, waits and writes the whole table, as a store without a lock does."""

    def save(self, snapshot):
        before = dict(self._runs)
        time.sleep(0.01)
        self._runs = before
        super().save(snapshot)


class CheckpointContract(CheckpointerConformance):
    def __init__(self, make: Any) -> None:
        self.make = make

    def make_store(self):
        return self.make()


class AmnesiacCheckpointContract(CheckpointContract):
    def reopen_store(self, store):
        return InMemoryCheckpointer()


class HalfStore:
    def save_flow(self, flow, *, overwrite=False):
        pass


class DescribesNothing(InMemoryStore):
    def load_flow(self, name, version):
        return super().load_flow(name, version).model_copy(update={"description": ""})


class SharingStore:
    def __init__(self):
        self.flows: dict[tuple[str, str], Any] = {}

    def save_flow(self, flow, *, overwrite=False):
        self.flows[flow.name, flow.version] = flow

    def load_flow(self, name, version):
        return self.flows[name, version]

    def has_flow(self, name, version):
        return (name, version) in self.flows

    def list_keys(self):
        return sorted(self.flows)

    def delete_flow(self, name, version):
        del self.flows[name, version]


class ReplacingStore(InMemoryStore):
    def save_flow(self, flow, *, overwrite=False):
        super().save_flow(flow, overwrite=True)


class StubbornStore(InMemoryStore):
    def save_flow(self, flow, *, overwrite=False):
        super().save_flow(flow)


class NormalisingStore(InMemoryStore):
    """Takes 1.0.0 for 1.0."""

    def save_flow(self, flow, *, overwrite=False):
        super().save_flow(flow.model_copy(update={"version": flow.version.replace(".0.0", ".0")}), overwrite=True)

    def load_flow(self, name, version):
        return super().load_flow(name, version.replace(".0.0", ".0"))


class UnsortedStore(InMemoryStore):
    def list_keys(self):
        return list(reversed(super().list_keys()))


class NamesOnly(InMemoryStore):
    def has_flow(self, name, version):
        return any(one == name for one, _ in self.list_keys())


class DeletesNames(InMemoryStore):
    def delete_flow(self, name, version):
        if not self.has_flow(name, version):
            super().delete_flow(name, version)
        for one, other in self.list_keys():
            if one == name:
                super().delete_flow(one, other)


class GivesNone(InMemoryStore):
    def load_flow(self, name, version):
        return super().load_flow(name, version) if self.has_flow(name, version) else None


class DeletesAnything(InMemoryStore):
    def delete_flow(self, name, version):
        with contextlib.suppress(FlowNotFoundError):
            super().delete_flow(name, version)


class ShortStore(InMemoryStore):
    def save_flow(self, flow, *, overwrite=False):
        super().save_flow(flow.model_copy(update={"steps": flow.steps[:1000]}), overwrite=overwrite)


class RacingStore(InMemoryStore):
    def save_flow(self, flow, *, overwrite=False):
        if not overwrite and self.has_flow(flow.name, flow.version):
            raise FlowAlreadyExistsError(flow.name, flow.version)
        time.sleep(0.01)
        super().save_flow(flow, overwrite=True)


class RegistryContract(RegistryStoreConformance):
    def __init__(self, make: Any) -> None:
        self.make = make

    def make_store(self):
        return self.make()


class AmnesiacRegistryContract(RegistryContract):
    def reopen_store(self, store):
        return InMemoryStore()


class SavesOnly:
    def save(self, result):
        pass


class ForgetsRetries(InMemoryTraceStore):
    def save(self, result):
        log = [record.model_copy(update={"retry_errors": []}) for record in result.execution_log]
        super().save(result.model_copy(update={"execution_log": log}))


class SharingTraces(InMemoryTraceStore):
    """Keeps the results themselves."""

    def __init__(self):
        super().__init__()
        self.results: dict[str, Any] = {}

    def save(self, result):
        super().save(result)
        self.results[result.trace_id] = result

    def load(self, trace_id):
        super().load(trace_id)
        return self.results[trace_id]


class FirstTraceWins(InMemoryTraceStore):
    def save(self, result):
        if result.trace_id not in self._kept:
            super().save(result)


class OldestFirst(InMemoryTraceStore):
    def list(self, flow_name=None, status=None, limit=100):
        return super().list(flow_name, status, None)[::-1][:limit]


class ByTimeOfSaving(InMemoryTraceStore):
    def list(self, flow_name=None, status=None, limit=100):
        order = list(self._kept)
        return sorted(super().list(flow_name, status, limit), key=lambda entry: -order.index(entry.trace_id))


class LosesParents(InMemoryTraceStore):
    def list(self, flow_name=None, status=None, limit=100):
        return [entry._replace(parent_trace_id=None) for entry in super().list(flow_name, status, limit)]


class LimitsFirst(InMemoryTraceStore):
    def list(self, flow_name=None, status=None, limit=100):
        return [entry for entry in super().list(None, status, limit) if flow_name in (None, entry.flow_name)][:1]


class ListsAll(InMemoryTraceStore):
    def list(self, flow_name=None, status=None, limit=None):
        return super().list(flow_name, status, limit)


class KeyErrorTraces(InMemoryTraceStore):
    def load(self, trace_id):
        try:
            return super().load(trace_id)
        except TraceNotFoundError:
            raise KeyError(trace_id) from None


class StrictTraceDelete(InMemoryTraceStore):
    def delete(self, trace_id):
        self.load(trace_id)
        super().delete(trace_id)


class RacingTraces(InMemoryTraceStore):
    def save(self, result):
        before = self._kept.copy()
        time.sleep(0.002)
        self._kept = before
        super().save(result)


class TraceContract(TraceStoreConformance):
    def __init__(self, make: Any) -> None:
        self.make = make

    def make_store(self):
        return self.make()


class AmnesiacTraceContract(TraceContract):
    def reopen_store(self, store):
        return InMemoryTraceStore()


class FaultyContract:
    """Hooks for stores that count their own operations."""

    lease_s: Any = 0.1
    kills = 1

    def failing(self, store, after):
        return store.failing(after) if isinstance(store, Stumbling) else None


class StumblingCacheContract(FaultyContract, CacheContract):
    pass


class StumblingCheckpointContract(FaultyContract, CheckpointContract):
    pass


class StumblingRegistryContract(FaultyContract, RegistryContract):
    pass


class KilledContract:
    """A store that a child process writes to: acknowledged first, and written later."""

    kills = 1

    def make_store(self):
        return self.make(str(directory() / "data"))

    def reopen_store(self, store):
        return self.make(store.path)

    def opened_elsewhere(self, store):
        return f"tests.testing.broken:{self.make.__name__}", store.path


class KilledCacheContract(KilledContract, CacheContract):
    pass


class KilledCheckpointContract(KilledContract, CheckpointContract):
    pass


class KilledRegistryContract(KilledContract, RegistryContract):
    pass


class TestSharedRuns(FaultyContract, RunStoreConformance):
    """The store that the broken ones are made of keeps the contract itself; two of them have one set of data."""

    make: Any = broken.SharedRuns

    def make_store(self):
        return self.make(lease_s=self.lease_s)

    def reopen_store(self, store):
        return self.make(store.data, lease_s=self.lease_s)


class RunContract(TestSharedRuns):
    __test__ = False

    def __init__(self, make: Any) -> None:
        self.make = make


class KilledRunContract(RunContract):
    def make_store(self):
        return self.make(path=str(directory() / "data"))

    def reopen_store(self, store):
        return self.make(path=store.path)

    def opened_elsewhere(self, store):
        return f"tests.testing.broken:{self.make.__name__}", store.path


BROKEN: list[tuple[Any, str]] = [
    (StumblingCacheContract(broken.HalfSet), "test_a_set_that_fails_leaves_a_whole_entry_or_none"),
    (StumblingCacheContract(broken.MadeUpGet), "test_a_get_that_fails_gives_no_other_entry"),
    (KilledCacheContract(broken.LazyCache), "test_what_a_killed_process_kept_is_a_hit"),
    (StumblingCheckpointContract(broken.HalfCommit),
     "test_a_commit_that_fails_leaves_whole_steps_and_can_be_made_again"),
    (StumblingCheckpointContract(broken.SilentCommit),
     "test_a_commit_that_fails_leaves_whole_steps_and_can_be_made_again"),
    (StumblingCheckpointContract(broken.HalfSave), "test_a_save_that_fails_leaves_a_whole_run_and_can_be_made_again"),
    (StumblingCheckpointContract(broken.ShortLoad), "test_a_load_that_fails_gives_no_other_run"),
    (KilledCheckpointContract(broken.LazyCheckpointer), "test_what_a_killed_process_committed_is_there"),
    (StumblingRegistryContract(broken.DeletesFirst), "test_a_save_that_fails_leaves_a_whole_definition"),
    (StumblingRegistryContract(broken.MadeUpFlow), "test_a_load_that_fails_gives_no_other_definition"),
    (KilledRegistryContract(broken.LazyRegistry), "test_what_a_killed_process_saved_is_there"),
    (RunContract(broken.NoHandBack), "test_the_store_follows_the_protocol_of_shared_runs"),
    (RunContract(broken.AdmitsUnclaimed), "test_an_admitted_run_is_there_and_claimed"),
    (RunContract(broken.KeepsKeyFirst), "test_a_run_that_cannot_be_kept_is_not_admitted"),
    (RunContract(broken.ForgetsKeys), "test_a_key_belongs_to_one_run"),
    (RunContract(broken.AnyRunOfAKey), "test_a_key_that_means_another_run_is_refused"),
    (RunContract(broken.RacingKeys), "test_of_many_threads_one_is_admitted_with_a_key"),
    (RunContract(broken.ClaimsAnything), "test_a_claim_is_exclusive_until_it_ends"),
    (RunContract(broken.ClaimsTheUnknown), "test_an_unknown_run_cannot_be_claimed"),
    (RunContract(broken.RacingClaims), "test_of_many_threads_one_claims_a_run"),
    (RunContract(broken.NeverRenews), "test_a_claim_is_renewed_while_its_owner_lives"),
    (RunContract(broken.NoEpochs), "test_a_claim_that_ran_out_is_taken_over_and_its_owner_refused"),
    (RunContract(broken.EndsAnything), "test_the_end_of_a_lost_claim_is_refused"),
    (RunContract(broken.NeverEnds), "test_a_run_that_has_ended_is_no_orphan_and_can_be_gone_on_with"),
    (RunContract(broken.OrphansOnce), "test_a_run_that_is_handed_back_is_an_orphan"),
    (RunContract(broken.OpensAgain), "test_a_run_that_was_not_gone_on_with_stands_as_before"),
    (RunContract(broken.KeepsAll), "test_a_run_that_is_not_kept_cannot_be_loaded"),
    (RunContract(broken.KeepsNone), "test_a_run_with_a_key_keeps_its_steps"),
    (RunContract(broken.AnyOrphan), "test_only_orphans_that_are_asked_for_are_claimed"),
    (RunContract(broken.RacingOrphans), "test_of_many_threads_each_orphan_is_claimed_once"),
    (RunContract(broken.OldestFirst), "test_the_log_says_how_runs_stand"),
    (RunContract(broken.ListsAll), "test_the_log_can_be_narrowed"),
    (RunContract(broken.PrunesAll), "test_pruning_forgets_what_has_ended_and_nothing_else"),
    (RunContract(broken.HalfAdmission), "test_an_admission_that_fails_can_be_made_again"),
    (RunContract(broken.RenewsForEver), "test_an_end_that_fails_leaves_a_run_that_somebody_can_go_on_with"),
    (KilledRunContract(broken.LazyRuns), "test_runs_of_a_killed_process_are_whole_and_can_be_taken_over"),
    (TraceContract(SavesOnly), "test_the_store_follows_the_protocol"),
    (TraceContract(ForgetsRetries), "test_a_loaded_result_is_what_was_saved"),
    (TraceContract(SharingTraces), "test_values_without_a_json_form_are_kept_as_texts"),
    (TraceContract(SharingTraces), "test_nothing_is_shared_with_the_caller"),
    (TraceContract(FirstTraceWins), "test_a_later_result_of_the_same_run_replaces_the_earlier_one"),
    (TraceContract(OldestFirst), "test_the_latest_run_comes_first"),
    (TraceContract(ByTimeOfSaving), "test_the_latest_run_comes_first"),
    (TraceContract(LosesParents), "test_a_list_says_what_there_is_to_know"),
    (TraceContract(LimitsFirst), "test_a_list_can_be_narrowed"),
    (TraceContract(ListsAll), "test_a_list_is_short_unless_asked_for_more"),
    (TraceContract(KeyErrorTraces), "test_an_unknown_run_is_told_as_such"),
    (TraceContract(StrictTraceDelete), "test_a_deleted_run_is_gone_and_deleting_it_again_is_nothing"),
    (TraceContract(RacingTraces), "test_many_runs_are_saved_at_once"),
    (AmnesiacTraceContract(InMemoryTraceStore), "test_the_next_process_finds_the_traces"),
    (CacheContract(NoClear), "test_the_store_follows_the_protocol"),
    (CacheContract(RaisingCache), "test_an_unknown_key_is_a_miss"),
    (CacheContract(JsonCache), "test_what_was_set_is_what_is_got"),
    (CacheContract(SortingCache), "test_what_was_set_is_what_is_got"),
    (CacheContract(FalsyCache), "test_empty_outputs_are_a_hit"),
    (CacheContract(ToolOnlyCache), "test_each_part_of_the_key_counts"),
    (CacheContract(PathCache), "test_odd_names_are_keys_like_others"),
    (CacheContract(FirstWinsCache), "test_a_second_set_replaces_the_first"),
    (CacheContract(lambda: SharingCache(copies_in=True)), "test_a_hit_is_shared_with_nobody"),
    (CacheContract(lambda: SharingCache(copies_out=True)), "test_what_is_kept_is_shared_with_nobody"),
    (CacheContract(ForgetfulClear), "test_clear_forgets_everything"),
    (CacheContract(SharingCache), "test_what_cannot_be_kept_is_refused_and_the_old_entry_stays"),
    (CacheContract(TakesAllCache), "test_what_cannot_be_kept_is_refused_and_the_old_entry_stays"),
    (CacheContract(ThawingCache), "test_a_store_of_live_objects_gives_copies_of_them"),
    (CacheContract(TornCache), "test_many_threads_see_whole_entries"),
    (AmnesiacCacheContract(InMemoryStepCache), "test_the_next_process_hits"),
    (CheckpointContract(HalfCheckpointer), "test_the_store_follows_the_protocol"),
    (CheckpointContract(LosingFields), "test_a_loaded_run_is_what_was_saved"),
    (CheckpointContract(LosingTimes), "test_committed_steps_are_loaded_as_they_were"),
    (CheckpointContract(LateCommits), "test_a_step_counts_from_its_commit_on"),
    (CheckpointContract(Unordered), "test_steps_are_loaded_in_plan_order"),
    (CheckpointContract(TwiceCheckpointer), "test_a_step_that_is_committed_again_counts_as_it_was_last"),
    (CheckpointContract(AddingCheckpointer), "test_a_saved_run_replaces_the_one_before"),
    (CheckpointContract(SharingCheckpointer), "test_nothing_is_shared_with_the_caller"),
    (CheckpointContract(KeyErrorCheckpointer), "test_an_unknown_run_is_told_as_such"),
    (CheckpointContract(ShuffledIds), "test_runs_are_listed_sorted"),
    (CheckpointContract(StrictDelete), "test_a_deleted_run_is_gone_and_deleting_it_again_is_nothing"),
    (CheckpointContract(PrefixCheckpointer), "test_runs_are_kept_apart"),
    (CheckpointContract(CutsWhatItCannotKeep),
     "test_an_output_that_cannot_be_kept_is_refused_and_the_checkpoint_stays"),
    (CheckpointContract(CutsInputs), "test_an_input_that_cannot_be_kept_is_refused"),
    (CheckpointContract(RacingCheckpointer), "test_many_runs_commit_at_once"),
    (AmnesiacCheckpointContract(InMemoryCheckpointer), "test_another_process_goes_on_where_this_one_ended"),
    (RegistryContract(HalfStore), "test_the_store_follows_the_protocol"),
    (RegistryContract(DescribesNothing), "test_what_is_saved_comes_back_equal"),
    (RegistryContract(SharingStore), "test_nothing_is_shared_with_the_caller"),
    (RegistryContract(ReplacingStore), "test_a_taken_name_is_refused"),
    (RegistryContract(StubbornStore), "test_a_taken_name_is_replaced_when_asked_to"),
    (RegistryContract(NormalisingStore), "test_versions_of_one_name_are_kept_apart"),
    (RegistryContract(UnsortedStore), "test_keys_are_sorted"),
    (RegistryContract(NamesOnly), "test_a_store_knows_what_it_has"),
    (RegistryContract(DeletesNames), "test_a_deleted_flow_is_gone"),
    (RegistryContract(GivesNone), "test_what_is_not_there_cannot_be_loaded"),
    (RegistryContract(DeletesAnything), "test_what_is_not_there_cannot_be_deleted"),
    (RegistryContract(ShortStore), "test_a_flow_of_many_steps_comes_back"),
    (RegistryContract(RacingStore), "test_of_many_threads_one_creates_the_flow"),
    (AmnesiacRegistryContract(InMemoryStore), "test_the_next_process_finds_the_flows"),
]  # fmt: skip


# What a store raises itself where the clause expects none of it.
THEIR_OWN = (
    KeyError,
    RunClaimLostError,
    CheckpointNotFoundError,
    FlowNotFoundError,
    FlowAlreadyExistsError,
    TraceNotFoundError,
)


def name_of(value: Any) -> str:
    return value if isinstance(value, str) else getattr(value.make, "__name__", "store")


@pytest.mark.parametrize(("contract", "clause"), BROKEN, ids=name_of)
def test_a_store_that_breaks_a_clause_is_caught_by_it(contract: Any, clause: str):
    """Conformance: a clause that a broken store keeps would prove nothing."""
    with pytest.raises((AssertionError, *THEIR_OWN)):
        getattr(contract, clause)()


@pytest.mark.parametrize(
    "contract",
    [
        StepCacheConformance,
        CheckpointerConformance,
        RegistryStoreConformance,
        TraceStoreConformance,
        RunStoreConformance,
    ],
    ids=lambda one: one.__name__,
)
def test_every_clause_is_shown_to_catch_something(contract: type):
    """Conformance: the table above leaves no clause out."""
    clauses = {name for name in vars(contract) if name.startswith("test_")}
    shown = {clause for broken, clause in BROKEN if isinstance(broken, contract)}
    assert clauses - shown == set()


def test_a_contract_without_a_store_says_what_to_override():
    """Conformance: three lines, and the missing one is named."""

    class Mine(StepCacheConformance):
        pass

    with pytest.raises(NotImplementedError, match=r"Mine has to say how a store is made: override make_store\(\)"):
        Mine().test_an_unknown_key_is_a_miss()


def test_stores_are_given_back_whatever_a_clause_finds():
    """Conformance: a failing clause leaves nothing open."""
    closed = []

    class Mine(StepCacheConformance):
        def make_store(self):
            return SharingCache()

        def close_store(self, store):
            closed.append(store)

    with pytest.raises(AssertionError):
        Mine().test_a_hit_is_shared_with_nobody()
    assert len(closed) == 1
