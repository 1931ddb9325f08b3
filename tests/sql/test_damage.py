"""Database files that are not what was written: cut short, or with a bit turned round in any of their pages.

What is read is right or a typed error, a step may be missing but is never another one, and a run that goes on ends with
the outputs of one that was not damaged. One bit a page; with CHAINWEAVER_PROOF=1 forty.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from chainweaver import ArtifactCorruptError, ChainWeaverError, ExecutionSnapshot, FlowExecutor, StepCacheKey
from chainweaver.exceptions import FlowSerializationError
from chainweaver.flow import AnyFlow
from chainweaver.sql import open_store
from tests.conftest import PROOF
from tests.sql.kit import KEYS, Stop, Tools, entry, flow, url_of

FLIPS = 40 if PROOF else 1
PAGE = 4_096


class Whole(NamedTuple):
    """A database file, and what it holds."""

    path: Path
    runs: dict[str, ExecutionSnapshot]
    flows: dict[tuple[str, str], AnyFlow]
    cached: dict[StepCacheKey, Any]
    outputs: dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Runs that were interrupted at different steps, flows and cached outputs in one file, and nothing beside it."""
    path = tmp_path_factory.mktemp("whole") / "chainweaver.db"
    runs: dict[str, ExecutionSnapshot] = {}
    outputs: dict[str, Any] = {}
    with open_store(url_of(path)) as store:
        for last in range(1, 6):
            with FlowExecutor(tools=Tools(last).all(), flows=[flow()], checkpointer=store.runs) as executor:
                with pytest.raises(Stop):
                    executor.execute_flow("chain", {"n": last})
            known = set(runs)
            [trace_id] = set(store.runs.list_trace_ids()) - known
            runs[trace_id] = store.runs.load(trace_id)
            with FlowExecutor(tools=Tools().all(), flows=[flow()]) as executor:
                outputs[trace_id] = executor.execute_flow("chain", {"n": last}).final_output
        flows: dict[tuple[str, str], AnyFlow] = {
            (name, "1.0.0"): flow(name) for name in ("chain", "other", "x'; drop table flows; --")
        }
        for one in flows.values():
            store.flows.save_flow(one)
        for number, key in enumerate(KEYS):
            store.cache.set(key, entry(number))
    with sqlite3.connect(path) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
        connection.execute("pragma journal_mode = delete")
    connection.close()
    return Whole(path, runs, flows, {key: entry(number) for number, key in enumerate(KEYS)}, outputs)


def damaged(whole: Whole, folder: Path, data: bytes) -> Path:
    path = folder / "damaged.db"
    for left in folder.glob("damaged.db*"):
        left.unlink()
    path.write_bytes(data)
    return path


def check(whole: Whole, path: Path) -> int:
    """Read everything; how many things were refused."""
    refusals = 0
    try:
        store = open_store(url_of(path), patience_s=0.2)
    except ChainWeaverError:
        return 1
    try:
        for trace_id, wanted in whole.runs.items():
            try:
                found = store.runs.load(trace_id)
            except ChainWeaverError:
                refusals += 1
                continue
            assert found.model_copy(update={"steps": []}) == wanted.model_copy(update={"steps": []})
            assert [step for step in found.steps if step not in wanted.steps] == []
        for key, definition in whole.flows.items():
            try:
                assert store.flows.load_flow(*key) == definition
            except ChainWeaverError:
                refusals += 1
        for cached, outputs in whole.cached.items():
            try:
                assert store.cache.get(cached) in (None, outputs)
            except ChainWeaverError:
                refusals += 1
        for ask in (store.runs.list_runs, store.flows.list_keys, store.flows.load_flows, store.runs.list_trace_ids):
            try:
                ask()
            except ChainWeaverError:
                refusals += 1
        refusals += go_on(whole, store)
    finally:
        store.close()
    return refusals


def go_on(whole: Whole, store: Any) -> int:
    refusals = 0
    with FlowExecutor(tools=Tools().all(), flows=[flow()], checkpointer=store.runs, step_cache=store.cache) as executor:
        for trace_id, outputs in whole.outputs.items():
            try:
                result = executor.resume_flow(trace_id)
            except ChainWeaverError:
                refusals += 1
                continue
            if result.success:
                assert result.final_output == outputs
            else:
                refusals += 1
    return refusals


def test_a_whole_file_gives_everything_back(whole: Whole, tmp_path: Path) -> None:
    """R32, R34: what the checks below compare with is what an undamaged file gives."""
    assert check(whole, damaged(whole, tmp_path, whole.path.read_bytes())) == 0


def test_a_bit_that_is_turned_round_in_any_page_is_never_read_as_another_value(whole: Whole, tmp_path: Path) -> None:
    """R34: damage is a typed error, a miss, or a step that runs again with the same outputs."""
    data = whole.path.read_bytes()
    chance = random.Random(None if PROOF else 5)
    refusals = 0
    for page in range(0, len(data), PAGE):
        for _ in range(FLIPS):
            at, bit = page + chance.randrange(PAGE), chance.randrange(8)
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            try:
                refusals += check(whole, damaged(whole, tmp_path, bytes(changed))) > 0
            except BaseException:
                print(f"bit {bit} of byte {at} of {len(data)}")
                raise
    assert refusals > 0, "some of it is noticed"


def test_a_bit_that_is_turned_round_inside_of_a_value_is_noticed(whole: Whole, tmp_path: Path) -> None:
    """R34: in outputs, input, definition, blobs and large objects alike, by the checksum of the row."""
    data = whole.path.read_bytes()
    path = damaged(whole, tmp_path, data)
    columns = (
        ("chainweaver_steps", "outputs"), ("chainweaver_steps", "blobs"), ("chainweaver_steps", "step_id"),
        ("chainweaver_steps", "tool_name"), ("chainweaver_steps", "fingerprint"), ("chainweaver_runs", "header"),
        ("chainweaver_runs", "flow_name"), ("chainweaver_runs", "flow_version"), ("chainweaver_flows", "definition"),
        ("chainweaver_cache", "output"), ("chainweaver_artifacts", "content"),
        ("chainweaver_cache_artifacts", "content"),
    )  # fmt: skip
    for table, column in columns:
        shutil.copy(whole.path, path)
        with sqlite3.connect(path) as connection:
            found = connection.execute(f"select {column} from {table} where length({column}) > 0").fetchall()
            for (value,) in found:
                raw = bytearray(value if isinstance(value, bytes) else value.encode())
                raw[len(raw) // 2] ^= 1
                new = bytes(raw) if isinstance(value, bytes) else raw.decode()
                connection.execute(f"update {table} set {column} = ? where {column} = ?", (new, value))
        connection.close()
        with open_store(url_of(path)) as store:
            if table == "chainweaver_flows":
                with pytest.raises(FlowSerializationError, match="digest"):
                    store.flows.load_flow("chain", "1.0.0")
            elif "cache" in table:
                key = KEYS[3]
                assert store.cache.get(key) is None
            else:
                longest = max(whole.runs.values(), key=lambda run: len(run.steps))
                with pytest.raises(ArtifactCorruptError, match=r"checksum|digest"):
                    store.runs.load(longest.trace_id)


def test_a_text_that_no_encoding_has_is_damage(whole: Whole, tmp_path: Path) -> None:
    """R34: in the tables' own description, which SQLite repeats when it complains, and in a column."""
    data = whole.path.read_bytes().replace(b"primary key (name, version)", b"primary k\xc2y (name, version)", 1)
    with pytest.raises(ArtifactCorruptError):
        open_store(url_of(damaged(whole, tmp_path, data)))
    path = damaged(whole, tmp_path, whole.path.read_bytes())
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("update chainweaver_steps set outputs = cast(x'ff7b' as text)")
    connection.close()
    with open_store(url_of(path)) as store, pytest.raises(ArtifactCorruptError, match="UTF-8"):
        store.runs.load(max(whole.runs.values(), key=lambda run: len(run.steps)).trace_id)


def test_a_file_that_is_cut_short_is_a_typed_error_or_holds_what_it_says(whole: Whole, tmp_path: Path) -> None:
    """R34: at every page, and in the middle of one."""
    data = whole.path.read_bytes()
    for length in range(0, len(data), PAGE if PROOF else 5 * PAGE):
        for more in (0, 1, PAGE // 2):
            check(whole, damaged(whole, tmp_path, data[: length + more]))


def test_a_write_ahead_log_with_a_torn_tail_or_a_turned_bit_loses_its_end_and_nothing_else(tmp_path: Path) -> None:
    """R32: what stands before the damage is there; nothing behind it is half there."""
    path = tmp_path / "chainweaver.db"
    with open_store(url_of(path)) as store:
        with sqlite3.connect(path) as connection:
            connection.execute("pragma wal_checkpoint(truncate)")
        connection.close()
        with FlowExecutor(tools=Tools(5).all(), flows=[flow()], checkpointer=store.runs) as executor:
            with pytest.raises(Stop):
                executor.execute_flow("chain", {"n": 1})
        [trace_id] = store.runs.list_trace_ids()
        steps = store.runs.load(trace_id).steps
        data, log = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    chance = random.Random(3)
    torn = [log[: chance.randrange(len(log))] for _ in range(10 * FLIPS)]
    for _ in range(10 * FLIPS):
        changed = bytearray(log)
        changed[chance.randrange(len(log))] ^= 1 << chance.randrange(8)
        torn.append(bytes(changed))
    counts = set()
    for number, tail in enumerate(torn):
        copy = tmp_path / f"copy{number}.db"
        copy.write_bytes(data)
        Path(f"{copy}-wal").write_bytes(tail)
        with open_store(url_of(copy)) as store:
            if store.runs.list_trace_ids():
                found = store.runs.load(trace_id).steps
                assert found == steps[: len(found)]
                counts.add(len(found))
        for left in tmp_path.glob(f"{copy.name}*"):
            left.unlink()
    assert len(counts) > 1, "some lost less than others"
