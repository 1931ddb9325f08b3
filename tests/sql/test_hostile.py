"""Stores that somebody else has written to: whatever stands in them, nothing runs, and what is refused has a type.

Every blob of the corpus in every column, with the checksum that belongs to it: 300 pairs, all with CHAINWEAVER_PROOF=1.
"""

from __future__ import annotations

import json
import random
import sqlite3
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chainweaver import ChainWeaverError, FileCheckpointer, FileStepCache, FileStore, FlowExecutor, FlowRegistry
from chainweaver.cache.file import _OUTPUT, _head
from chainweaver.sql import SqlStore, open_store
from chainweaver.sql.rows import header_checksum, step_checksum
from tests.conftest import PROOF
from tests.sql.hostile import BLOBS, OTHERS, TEXTS, marked
from tests.sql.kit import KEYS, Stop, Tools, entry, flow, url_of

PAIRS = None if PROOF else 300

COLUMNS = {
    "chainweaver_runs": (
        "trace_id", "run_key", "flow_name", "flow_version", "flow_digest", "status", "before", "error", "is_kept",
        "input_digest", "started_at", "changed_at", "header", "header_blobs", "owner", "epoch", "lease_until",
    ),
    "chainweaver_steps": (
        "path", "step_index", "step_id", "tool_name", "fingerprint", "status", "outputs", "blobs", "more", "started_at",
        "duration_ns",
    ),
    "chainweaver_flows": ("name", "version", "digest", "status", "definition"),
    "chainweaver_artifacts": ("content", "name"),
    "chainweaver_cache": ("output", "blobs", "checksum"),
    "chainweaver_cache_artifacts": ("content", "name"),
}  # fmt: skip

WRONG: tuple[Any, ...] = ([], {}, "x", -1, 1e300, None, True, 2**70)
"""Values for fields of a step, none of which takes them all."""

_RUNNING = {"os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "ctypes.dlopen"}
_seen: list[tuple[str, Any]] = []
_watching = False


def _audit(event: str, args: Any) -> None:
    if _watching and (event in _RUNNING or (event == "pickle.find_class" and args[0] in ("os", "posix", "nt", "io"))):
        _seen.append((event, args))


@pytest.fixture(autouse=True, scope="module")
def _nothing_runs() -> Iterator[None]:
    """Neither a payload, nor anything that could have been one."""
    global _watching
    marked()
    sys.addaudithook(_audit)
    _watching = True
    yield
    _watching = False
    assert not marked()
    assert _seen == []


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database with two runs, one of them with a key, a flow and four cached outputs."""
    path = tmp_path_factory.mktemp("whole") / "chainweaver.db"
    with open_store(url_of(path)) as store:
        for key, last in (("k", 4), (None, 2)):
            with FlowExecutor(tools=Tools(last).all(), flows=[flow()], checkpointer=store.runs) as executor:
                with pytest.raises(Stop):
                    executor.execute_flow("chain", {"n": 1}, key=key)
        store.flows.save_flow(flow())
        for number, cached in enumerate(KEYS):
            store.cache.set(cached, entry(number))
    with sqlite3.connect(path) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
        connection.execute("pragma journal_mode = delete")
    connection.close()
    return path.read_bytes()


def in_bytes() -> list[bytes]:
    """The blobs that a file can hold."""
    texts = [text.encode("utf-8", "surrogatepass") for text in TEXTS]
    return [*texts, *(blob for blob in OTHERS if isinstance(blob, bytes))]


def pairs() -> list[tuple[str, str, Any]]:
    every = [(table, column, blob) for table, columns in COLUMNS.items() for column in columns for blob in BLOBS]
    return every if PAIRS is None else random.Random(11).sample(every, PAIRS)


def put(connection: sqlite3.Connection, table: str, column: str, blob: Any) -> bool:
    """Write a blob into every row of a table, with checksums that agree with it; whether the column takes it."""
    try:
        connection.execute(f"update or ignore {table} set {column} = ?", (blob,))
        _sign(connection)
    except sqlite3.IntegrityError:
        return False
    return True


def _sign(connection: sqlite3.Connection) -> None:
    names = ", ".join(f"s.{name}" for name in COLUMNS["chainweaver_steps"])
    runs = {}
    for run_id, trace_id, *columns, text, blobs in connection.execute(
        "select id, trace_id, flow_name, flow_version, flow_digest, header, header_blobs from chainweaver_runs"
    ).fetchall():
        runs[run_id] = trace_id
        try:
            signed = header_checksum((trace_id, *columns), text, blobs)
        except TypeError:
            continue
        connection.execute("update chainweaver_runs set checksum = ? where id = ?", (signed, run_id))
    steps = connection.execute(f"select s.run_id, {names} from chainweaver_steps as s").fetchall()
    for run_id, *fields in steps:
        try:
            signed = step_checksum(runs[run_id], fields)
        except TypeError:
            continue
        connection.execute(
            "update chainweaver_steps set checksum = ? where run_id = ? and path = ? and step_index = ?",
            (signed, run_id, fields[0], fields[1]),
        )


def refused(ask: Any, *args: Any, **options: Any) -> bool:
    """Whether something is refused, as it may be: by an error of the package."""
    try:
        found = ask(*args, **options)
    except ChainWeaverError as exc:
        str(exc)
        return True
    return getattr(found, "success", True) is False


def read_everything(store: SqlStore, executor: FlowExecutor) -> int:
    """Read and go on with all there is; how many things were refused."""
    count = 0
    ids = store.runs.list_trace_ids() if not refused(store.runs.list_trace_ids) else []
    for trace_id in ids:
        count += refused(store.runs.load, trace_id) + refused(store.runs.info, trace_id)
    for ask in (
        store.runs.list_runs, store.flows.list_keys, store.flows.load_flows, store.flows.changes,
        lambda: store.runs.list_runs(orphaned=True), lambda: store.flows.load_flow("chain", "1.0.0"),
        lambda: FlowRegistry(store.flows),
    ):  # fmt: skip
        count += refused(ask)
    for key in KEYS:
        assert store.cache.get(key) in (None, entry(int(key.input_value_hash)))
    count += refused(executor.execute_flow, "chain", {"n": 1}, key="k")
    for trace_id in ids:
        count += refused(executor.resume_flow, trace_id)
        count += refused(executor.resume_flow, trace_id, force=True)
    return count + refused(executor.recover) + refused(store.runs.prune, keep_last=0)


def test_no_blob_in_any_column_runs_or_leaves_by_an_error_without_a_type(content: bytes, tmp_path: Path) -> None:
    """R34: a typed error or a miss, of every column that is read."""
    path = tmp_path / "chainweaver.db"
    path.write_bytes(content)
    whole, count = sqlite3.connect(path), 0
    with open_store("sqlite://") as store:
        connection = store._database._opened()  # type: ignore[attr-defined]  # a copy in memory spares the disk
        tools, stores = Tools().all(), {"checkpointer": store.runs, "step_cache": store.cache}
        with FlowExecutor(tools=tools, flows=[flow()], **stores) as executor:  # type: ignore[arg-type]
            for table, column, blob in pairs():
                whole.backup(connection)
                if not put(connection, table, column, blob):
                    continue
                try:
                    count += read_everything(store, executor) > 0
                except BaseException:
                    print(f"{table}.{column} = {blob!r:.200}")
                    raise
    whole.close()
    assert count > 0, "some of it is refused"


@pytest.mark.parametrize("trace_id", ["a\0b", b"\xff", b"abc"])
def test_a_run_whose_id_is_none_keeps_nobody_from_recovering_others(trace_id: Any, tmp_path: Path) -> None:
    """R34: it is claimed once and passed over, and not asked for again and again."""
    path = tmp_path / "chainweaver.db"
    with open_store(url_of(path)) as store:
        for n in (1, 2):
            with FlowExecutor(tools=Tools(2).all(), flows=[flow()], checkpointer=store.runs) as executor:
                with pytest.raises(Stop):
                    executor.execute_flow("chain", {"n": n})
        latest, oldest = (run.trace_id for run in store.runs.list_runs())
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("update chainweaver_runs set trace_id = ? where trace_id = ?", (trace_id, oldest))
        connection.close()
        with FlowExecutor(tools=Tools().all(), flows=[flow()], checkpointer=store.runs) as executor:
            for wanted in ([latest], []):
                assert [one.trace_id for one in executor.recover(limit=5)] == wanted


def test_artifacts_that_stand_in_each_others_rows_are_noticed(tmp_path: Path) -> None:
    """R34: a name is the digest of its content."""
    path = tmp_path / "chainweaver.db"
    with open_store(url_of(path)) as store:
        for n in (1, 2):
            with FlowExecutor(tools=Tools(5).all(), flows=[flow()], checkpointer=store.runs) as executor:
                with pytest.raises(Stop):
                    executor.execute_flow("chain", {"n": n})
    with sqlite3.connect(path) as connection:
        (one, first), (other, second) = connection.execute("select run_id, content from chainweaver_artifacts")
        connection.execute("update chainweaver_artifacts set content = ? where run_id = ?", (second, one))
        connection.execute("update chainweaver_artifacts set content = ? where run_id = ?", (first, other))
    connection.close()
    with open_store(url_of(path)) as store:
        for trace_id in store.runs.list_trace_ids():
            assert refused(store.runs.load, trace_id)


def test_steps_that_stand_in_the_rows_of_another_run_are_noticed(tmp_path: Path) -> None:
    """R34: a checksum is over the run as well."""
    path = tmp_path / "chainweaver.db"
    with open_store(url_of(path)) as store:
        for n in (1, 2):
            with FlowExecutor(tools=Tools(2).all(), flows=[flow()], checkpointer=store.runs) as executor:
                with pytest.raises(Stop):
                    executor.execute_flow("chain", {"n": n})
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("delete from chainweaver_steps where run_id = 2")
        connection.execute("update chainweaver_steps set run_id = 2 where run_id = 1")
        connection.close()
        assert [refused(store.runs.load, run.trace_id) for run in store.runs.list_runs()] == [True, False]


def test_no_blob_in_a_checkpoint_file_runs_or_leaves_by_an_error_without_a_type(tmp_path: Path) -> None:
    """R34: as a line with the checksum that belongs to it, as the header, and as the whole file."""
    store = FileCheckpointer(tmp_path, fsync=False)
    with FlowExecutor(tools=Tools(4).all(), flows=[flow()], checkpointer=store) as executor:
        with pytest.raises(Stop):
            executor.execute_flow("chain", {"n": 1})
    [trace_id] = store.list_trace_ids()
    [path] = tmp_path.glob("*.checkpoint")
    lines = path.read_bytes().split(b"\n")[:-1]
    payloads = in_bytes()
    step = json.loads(lines[1][9:])
    for field in ("step_index", "outputs", "error", "path", "attempts", "started_at", "inside", "decision", "step_id"):
        payloads += [json.dumps({**step, field: value}).encode() for value in WRONG]
    count = 0
    with FlowExecutor(tools=Tools().all(), flows=[flow()], checkpointer=store) as executor:
        for number, payload in enumerate(payloads):
            line = b"%08x %b" % (zlib.crc32(payload), payload)
            changed = [list(lines), list(lines)]
            changed[0][0] = changed[1][2] = line
            for written in (b"\n".join([*changed[0], b""]), b"\n".join([*changed[1], b""]), payload):
                path.write_bytes(written)
                try:
                    count += refused(FileCheckpointer(tmp_path).load, trace_id) + refused(
                        executor.resume_flow, trace_id
                    )
                except BaseException:
                    print(f"{number}: {payload!r:.200}")
                    raise
    assert count > 0, "some of it is refused"


def test_no_blob_in_a_cache_file_is_a_hit_or_runs(tmp_path: Path) -> None:
    """R34: what is not what was written is a miss, and a step computes its own outputs."""
    cache = FileStepCache(tmp_path)
    cache.set(KEYS[0], entry(0))
    path = cache._path(KEYS[0])
    for encoded in in_bytes():
        path.write_bytes(encoded)
        assert cache.get(KEYS[0]) is None
        path.write_bytes(_head(KEYS[0], encoded) + _OUTPUT + encoded + b"}")
        found = cache.get(KEYS[0])
        assert found is None or type(found) is dict


def test_no_blob_in_a_flow_file_runs_or_leaves_by_an_error_without_a_type(tmp_path: Path) -> None:
    """R34: a file that holds no flow says so."""
    store = FileStore(tmp_path)
    store.save_flow(flow())
    [path] = tmp_path.glob("*.flow.json")
    whole = json.loads(path.read_text())
    for data in in_bytes():
        path.write_bytes(data)
        assert refused(store.load_flow, "chain", "1.0.0")
    for blob in TEXTS:
        for field in ("steps", "input_schema_ref", "tool_schema_hashes", "determinism"):
            path.write_text(json.dumps({**whole, field: blob}))
            refused(store.load_flow, "chain", "1.0.0")
