"""Runs in a database: admitted before their first step, committed step by step, claimed by whoever executes them.

A run has one row, and one row for each finished step. Every change of hands is a new epoch of the run (`claims`), and a
step is committed by one statement that asks for the epoch of its owner. So what somebody commits who was taken for dead
is refused, and nothing else.

Called by the executor from any thread, and by the command line. What may be resumed is decided there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from types import NoneType
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from chainweaver.checkpoint import ExecutionSnapshot, StepDelta
from chainweaver.checkpoint.store import RUN_STATUSES, RunInfo, RunStatus
from chainweaver.exceptions import (
    ArtifactCorruptError,
    CheckpointNotFoundError,
    RunClaimedError,
    RunClaimLostError,
    RunKeyError,
)
from chainweaver.sql.claims import Claim, Claims
from chainweaver.sql.database import Database, Row, Session
from chainweaver.sql.rows import content_of, header, read_header, read_step, step_row
from chainweaver.sql.texts import is_text, legible, storable, text_of

__all__ = ["SqlRuns"]

T = TypeVar("T")

_STEP = (
    "path, step_index, step_id, tool_name, fingerprint, status, outputs, blobs, more, started_at, duration_ns, checksum"
)
_INFO = (
    "trace_id, flow_name, flow_version, status, run_key, error, started_at, changed_at, owner, lease_until, "
    "(select count(*) from chainweaver_steps where run_id = chainweaver_runs.id and path = '')"
)

_NO_STEP: Final = "not exists (select 1 from chainweaver_steps where run_id = chainweaver_runs.id)"
_AT_ONCE: Final = 500
"""Runs that one transaction forgets, so that others wait for none for long."""


_StepRow: TypeAlias = "tuple[Row, list[tuple[str, bytes]]]"


class _Taken(NamedTuple):
    """The run that has a key already."""

    trace_id: str
    flow_name: str
    input_digest: str | None


class SqlRuns:
    """The runs of a store: checkpoints, and a log of what ran.

    Safe to use from many threads and processes. It is an `AppendingCheckpointer` and a `RunStore`.

    Args:
        database: Where they are.
        lease_s: How long a claim holds without being renewed; it is renewed three times as often.
    """

    wants_plain = True

    def __init__(self, database: Database, *, lease_s: float) -> None:
        self._database = database
        self._claims = Claims(database, lease_s)
        words = database.dialect
        self._now = words.now
        # Of a parameter that stands in a SELECT, PostgreSQL cannot guess that it is a byte string.
        values = ", ".join(f"cast(? as {words.blob})" if name == "blobs" else "?" for name in _STEP.split(", "))
        replaced = ", ".join(f"{name} = excluded.{name}" for name in _STEP.split(", ")[2:])
        commit = (
            f"insert into chainweaver_steps (run_id, {_STEP}) select id, {values} from chainweaver_runs where {{}}"
            f"{words.shared} on conflict (run_id, path, step_index) do update set {replaced}"
        )
        self._commit_claimed = commit.format("id = ? and epoch = ?")
        self._commit_unclaimed = commit.format("trace_id = ? and is_kept = 1 and owner is null")

    @property
    def owner(self) -> str:
        """What claims of this object say: host, process and a number of its own. Another one after a fork."""
        return self._claims.owner

    def at_once(self, call: Callable[[], T]) -> T:
        """What a call of this object gives, where the database answers without waiting for anybody.

        Raises:
            BlockingIOError: It does not. The call may be made again, by a thread that may wait.
        """
        return self._database.at_once(call)

    # ---- a checkpointer

    def save(self, snapshot: ExecutionSnapshot) -> None:
        """Keep a run without claiming it; an older one of the same id is replaced, steps and all.

        A run that is executed here stays so, with its key: what is replaced is what it goes on from.

        Raises:
            CheckpointEncodeError: A value is not plain and has no codec. Nothing is changed.
            RunClaimedError: Somebody else executes the run.
            RunClaimLostError: It was executed here, and somebody else has claimed it since.
        """
        claim = self._claims.of(snapshot.trace_id)
        if claim is None:
            self._write(snapshot, key=None, claims=False)
        else:
            self._rewrite(snapshot, claim)

    def admit(
        self, snapshot: ExecutionSnapshot, *, key: str | None = None, input_digest: str | None = None
    ) -> str | None:
        """Keep a run that is about to begin, and claim it: both or neither.

        Args:
            key: A name of the caller's that at most one run has.
            input_digest: Says whether two inputs are equal; compared where the key is taken.

        Returns:
            None; or the id of the run that has the key already, and nothing was written.

        Raises:
            RunKeyError: The run that has the key is of another flow, or had another input.
            RunClaimedError: A run of this id is executed, here or elsewhere.
            CheckpointEncodeError: A value is not plain and has no codec. Nothing is written.
        """
        taken = self._write(snapshot, key=key, claims=True, input_digest=input_digest)
        if taken is None:
            return None
        if taken.flow_name != snapshot.flow_name:
            raise RunKeyError(str(key), taken.trace_id, f"it runs flow '{taken.flow_name}'")
        if None not in (input_digest, taken.input_digest) and input_digest != taken.input_digest:
            raise RunKeyError(str(key), taken.trace_id, "it was begun with another input")
        return str(taken.trace_id)

    def append(self, trace_id: str, delta: StepDelta) -> None:
        """Commit one finished step, in one statement; with large objects, in one transaction.

        Raises:
            CheckpointNotFoundError: Nothing is kept for this run.
            CheckpointEncodeError: An output is not plain and has no codec. Nothing is changed.
            RunClaimLostError: Somebody else has claimed the run since, and may have ended or forgotten it.
            RunClaimedError: The run was not claimed here, and somebody else executes it.
        """
        row, artifacts = step_row(trace_id, delta)
        claim = self._claims.of(trace_id)
        statement, where = (
            (self._commit_unclaimed, (text_of(trace_id),)) if claim is None else (self._commit_claimed, claim)
        )
        if not artifacts:
            committed = self._database.run(statement, (*row, *where))
        else:

            def commit(session: Session) -> int:
                done = session.run(statement, (*row, *where))
                if done:
                    run_id = claim.run_id if claim is not None else _id_of(session, trace_id)
                    _put_artifacts(session, run_id, artifacts)
                return done

            committed = self._database.atomically(commit)
        if not committed:
            self._refuse(trace_id, claim)

    def load(self, trace_id: str) -> ExecutionSnapshot:
        """The run as its last committed step left it, steps in plan order.

        Raises:
            CheckpointNotFoundError: Nothing is kept for this run, or only that it has ended.
            ArtifactCorruptError: A row is damaged; the message names it.
            RunClaimLostError: It was claimed here, and somebody else has claimed it since.
        """
        claim, began = self._claims.of(trace_id), time.monotonic()
        # All of one moment, large objects included: the run may go on, or end, while it is read.
        snapshot = self._database.atomically(lambda session: self._read(session, trace_id), snapshot=True)
        if snapshot is None:
            raise self._not_found(trace_id)
        # Whoever had to wait for the database may have waited for longer than the claim held, and would go on with what
        # others went on with meanwhile. From now on it holds for a whole lease.
        was_slow = time.monotonic() - began > self._claims.lease_s / 3
        if claim is not None and was_slow and not self._claims.renew([claim.run_id]):
            raise RunClaimLostError(trace_id)
        return snapshot

    def _read(self, session: Session, trace_id: str) -> ExecutionSnapshot | None:
        found = session.rows(
            "select id, flow_name, flow_version, flow_digest, header, header_blobs, checksum from chainweaver_runs "
            "where trace_id = ? and is_kept = 1",
            (text_of(trace_id),),
        )
        if not found:
            return None
        [(run_id, flow_name, flow_version, flow_digest, text, blobs, checksum)] = found

        def artifact(name: str) -> bytes | None:
            content = session.rows(
                "select content from chainweaver_artifacts where run_id = ? and name = ?", (run_id, name)
            )
            return content_of(content)

        place = f"run {trace_id} in {self._database.name}"
        columns = {
            "trace_id": trace_id, "flow_name": flow_name, "flow_version": flow_version, "flow_digest": flow_digest,
        }  # fmt: skip
        snapshot = read_header(columns, text, blobs, checksum, place, artifact)
        rows = session.rows(f"select {_STEP} from chainweaver_steps where run_id = ?", (run_id,))
        steps = [read_step(trace_id, row, place, artifact) for row in rows]
        # Steps of the flow itself stand before those of nested runs.
        snapshot.steps = sorted(steps, key=lambda step: (step.path, step.step_index))
        return snapshot

    def delete(self, trace_id: str) -> None:
        """Forget a run, the log included. Nothing happens when it is unknown."""

        def forget(session: Session) -> None:
            _delete_runs(session, "trace_id = ?", (text_of(trace_id),))

        self._database.atomically(forget)
        self._claims.let_go(trace_id)

    def list_trace_ids(self) -> list[str]:
        """The ids of all runs that can be loaded, sorted."""
        found = self._database.rows("select trace_id from chainweaver_runs where is_kept = 1 order by trace_id")
        # A row whose id is no text is damage, and no run that anybody could ask for.
        return [trace_id for (trace_id,) in found if is_text(trace_id)]

    # ---- claims

    def claim(self, trace_id: str) -> None:
        """Make the run one that is executed here.

        Raises:
            CheckpointNotFoundError: Nothing is kept for this run.
            RunClaimedError: Somebody executes it, here or elsewhere.
        """
        if not self._claims.take(trace_id):
            self._refuse(trace_id, None)

    def claim_orphan(self, flow_names: Collection[str], passed_over: Collection[str] = ()) -> str | None:
        """Claim the oldest run that has neither ended nor anybody who executes it; its id, or None.

        Args:
            flow_names: Runs of these flows only.
            passed_over: Ids of runs that were looked at already.
        """
        return self._claims.take_orphan(flow_names, passed_over)

    def finish(self, trace_id: str, status: RunStatus | None, *, error: str | None = None, keep: bool = True) -> None:
        """End the claim of a run.

        Args:
            status: How the run ended; "running" hands it back, so that others may go on with it. None: it was not gone
                on with, and stands as before.
            error: The code of what it ended with, and where.
            keep: Whether its steps are kept, so that it can be loaded. A run with a key keeps them in any case: they
                are the answer to whoever asks for the key again.

        Raises:
            RunClaimLostError: Somebody else has claimed the run since.
        """
        claim = self._claims.of(trace_id)
        if claim is None:
            return

        handed_back = False

        def end(session: Session) -> int:
            nonlocal handed_back
            stands = "status = coalesce(before, status)" if status is None else "status = ?, error = ?"
            given = () if status is None else (status, None if error is None else legible(error))
            kept = "is_kept" if keep else "case when run_key is null then 0 else is_kept end"
            done = session.run(
                f"update chainweaver_runs set owner = null, lease_until = null, {stands}, "
                f"changed_at = {self._now}, is_kept = {kept} where id = ? and epoch = ?",
                (*given, *claim),
            )
            if not done and handed_back:
                # The answer to the commit was lost, and somebody has taken the run since. Of a run that has ended this
                # cannot be told from a claim that was lost before, so that one is reported.
                return 1
            handed_back = done > 0 and status in (None, "running")
            if done and not keep:
                gone = "in (select id from chainweaver_runs where id = ? and is_kept = 0)"
                for table in ("steps", "artifacts"):
                    session.run(f"delete from chainweaver_{table} where run_id {gone}", (claim.run_id,))
                session.run(
                    "update chainweaver_runs set header = '', header_blobs = null where id = ? and is_kept = 0",
                    (claim.run_id,),
                )
            return done

        try:
            done = self._database.atomically(end)
        except BlockingIOError:  # nothing was done, and whoever was in a hurry asks again
            raise
        except BaseException:
            self._claims.let_go(trace_id)
            raise
        self._claims.let_go(trace_id)
        if not done:
            raise RunClaimLostError(trace_id)

    # ---- the log

    def list_runs(
        self,
        *,
        status: RunStatus | None = None,
        flow_name: str | None = None,
        key: str | None = None,
        orphaned: bool | None = None,
        limit: int | None = 100,
    ) -> list[RunInfo]:
        """Runs, the latest first. One whose row is damaged is left out, and named on the logger `chainweaver.sql`.

        Args:
            status: Only such.
            flow_name: Only runs of this flow.
            key: Only the run with this key.
            orphaned: Only runs that nobody executes and that have not ended, or only others.
            limit: How many at most; None for all there are.

        Raises:
            ValueError: There is no such status, or the limit is negative.
            TypeError: The limit is no int.
        """
        if status is not None and status not in RUN_STATUSES:
            raise ValueError(f"status has to be one of {', '.join(RUN_STATUSES)}, not {status!r}.")
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool)):
            raise TypeError(f"limit has to be an int, or None for all runs, not {limit!r}.")
        if limit is not None and limit < 0:
            raise ValueError(f"limit has to be 0 or more, not {limit}.")
        wanted = {"status": status, "flow_name": flow_name, "run_key": key}
        given = {column: text_of(value) for column, value in wanted.items() if value is not None}
        terms = [f"{column} = ?" for column in given]
        if orphaned is not None:
            is_orphan = f"(status = 'running' and (owner is null or lease_until < {self._now}))"
            terms.append(is_orphan if orphaned else f"not {is_orphan}")
        where = f" where {' and '.join(terms)}" if terms else ""
        bound = "" if limit is None else " limit ?"
        found = self._database.rows(
            f"select {_INFO}, {self._now} from chainweaver_runs{where} order by id desc{bound}",
            (*given.values(), *(() if limit is None else (min(limit, 2**62),))),
        )
        runs = []
        for row in found:
            try:
                runs.append(self._info(row))
            except ArtifactCorruptError as exc:
                logging.getLogger("chainweaver.sql").warning("A run is left out of the list: %s", exc)
        return runs

    def info(self, trace_id: str) -> RunInfo:
        """One run.

        Raises:
            CheckpointNotFoundError: There is no such run.
            ArtifactCorruptError: Its row is damaged.
        """
        found = self._database.rows(
            f"select {_INFO}, {self._now} from chainweaver_runs where trace_id = ?", (text_of(trace_id),)
        )
        if not found:
            raise CheckpointNotFoundError(trace_id)
        return self._info(found[0])

    def prune(
        self, *, keep_last: int | None = None, older_than: timedelta | float | None = None, dry_run: bool = False
    ) -> int:
        """Forget runs that have ended; how many.

        Args:
            keep_last: Of each flow, the latest that many stay.
            older_than: Only runs that ended longer ago than this; a timedelta, or seconds.
            dry_run: Only count those that would be forgotten.

        Raises:
            ValueError: Neither is given, or one is negative.
            TypeError: One is no number.
        """
        if keep_last is None and older_than is None:
            raise ValueError("prune() needs keep_last=, older_than= or both: it forgets nothing by itself.")
        if not isinstance(keep_last, (int, NoneType)) or not isinstance(older_than, (int, float, timedelta, NoneType)):
            raise TypeError("keep_last has to be an int, older_than a timedelta or a number of seconds.")
        seconds = older_than.total_seconds() if isinstance(older_than, timedelta) else older_than
        if not ((keep_last or 0) >= 0 and (seconds or 0) >= 0):  # what is no number is not 0 or more either
            raise ValueError("keep_last and older_than have to be 0 or more.")
        has_ended = "status <> 'running' and owner is null"
        terms, params = [has_ended], []
        if seconds is not None:
            terms.append(f"changed_at < {self._now} - ?")
            params.append(seconds)
        if keep_last is not None:
            terms.append(
                "id not in (select id from (select id, row_number() over (partition by flow_name order by id desc) "
                "as place from chainweaver_runs where status <> 'running') as ended where place <= ?)"
            )
            params.append(keep_last)
        found = f"from chainweaver_runs where {' and '.join(terms)}"
        if dry_run:
            [(number,)] = self._database.rows(f"select count(*) {found}", params)
            return int(number)
        # Asked for twice: somebody may go on with a failed run between the two.
        where = f"{has_ended} and id in (select id {found} order by id limit {_AT_ONCE})"
        forgotten = 0
        while True:
            # When the answer to its commit is lost, the number is that of the second time, which may be too low.
            done = self._database.atomically(lambda session: _delete_runs(session, where, params))
            forgotten += done
            if not done:
                return forgotten

    def close(self) -> None:
        """Stop renewing claims. Runs that are still executed lose theirs when it runs out."""
        self._claims.close()

    # ---- inside

    def _write(
        self, snapshot: ExecutionSnapshot, *, key: str | None, claims: bool, input_digest: str | None = None
    ) -> _Taken | None:
        """Keep a run; None where it was kept, else what has its key."""
        columns, rows, artifacts = _encoded(snapshot)
        trace_id = storable("trace id", snapshot.trace_id)
        columns |= {
            "trace_id": trace_id,
            "run_key": None if key is None else storable("key", key),
            "status": "running",
            "is_kept": 1,
            "input_digest": input_digest,
            "started_at": snapshot.started_at.timestamp(),
            "owner": self.owner if claims else None,
            "epoch": 1,
        }
        lease = f"{self._now} + ?" if claims else "?"
        insert = (
            f"insert into chainweaver_runs ({', '.join(columns)}, lease_until, changed_at) "
            f"values ({', '.join('?' * len(columns))}, {lease}, {self._now}) on conflict do nothing returning id"
        )
        params = (*columns.values(), self._claims.lease_s if claims else None)

        def write(session: Session) -> int | _Taken | None:
            # Also what an attempt has written whose answer was lost, and which has no step then. When somebody has
            # taken the run since, it is said to be executed elsewhere, which is true.
            free = f"trace_id = ? and (owner is null or owner = ? and {_NO_STEP})"
            _delete_runs(session, free, (trace_id, self.owner))
            written = session.rows(insert, params)
            if not written:
                found = session.rows(
                    "select trace_id, flow_name, input_digest from chainweaver_runs where run_key = ?", (key,)
                )
                return _Taken(*found[0]) if found else None
            [(run_id,)] = written
            _put_steps(session, run_id, rows)
            _put_artifacts(session, run_id, artifacts)
            return int(run_id)

        done = self._database.atomically(write)
        if isinstance(done, _Taken):
            return done
        if done is None:
            self._refuse(trace_id, None)
        elif claims:
            self._claims.hold(trace_id, Claim(done, 1))
        else:
            self._claims.let_go(trace_id)
        return None

    def _rewrite(self, snapshot: ExecutionSnapshot, claim: Claim) -> None:
        """Put another snapshot in the place of that of a run which is executed here, all or nothing."""
        columns, rows, artifacts = _encoded(snapshot)
        update = (
            f"update chainweaver_runs set {', '.join(f'{name} = ?' for name in columns)}, changed_at = {self._now} "
            "where id = ? and epoch = ?"
        )

        def rewrite(session: Session) -> int:
            done = session.run(update, (*columns.values(), *claim))
            if done:
                for table in ("steps", "artifacts"):
                    session.run(f"delete from chainweaver_{table} where run_id = ?", (claim.run_id,))
                _put_steps(session, claim.run_id, rows)
                _put_artifacts(session, claim.run_id, artifacts)
            return done

        if not self._database.atomically(rewrite):
            self._refuse(snapshot.trace_id, claim)

    def _info(self, row: Row) -> RunInfo:
        *columns, steps_done, now = row
        trace_id, flow_name, flow_version, status, key, error, started_at, changed_at, owner, lease_until = columns
        texts = (trace_id, flow_name, flow_version, key or "", error or "", owner or "")
        try:
            if status not in RUN_STATUSES or not all(type(text) is str for text in texts):
                raise ValueError(f"'{status}' is no status of a run, or a column holds no text")
            is_orphan = status == "running" and (owner is None or lease_until < now)
            return RunInfo(
                trace_id=trace_id,
                flow_name=flow_name,
                flow_version=flow_version,
                status=status,
                key=key,
                error=error,
                started_at=_date(started_at),
                changed_at=_date(changed_at),
                steps_done=steps_done,
                owner=None if is_orphan else owner,
                is_orphan=is_orphan,
                seconds_left=None if is_orphan or owner is None else lease_until - now,
            )
        except (ValueError, TypeError, OverflowError, OSError) as exc:  # a date that is none is an OSError
            detail = f"its line in the log is damaged: {exc}."
            raise ArtifactCorruptError(f"run {trace_id} in {self._database.name}", detail) from exc

    def _refuse(self, trace_id: str, claim: Claim | None) -> None:
        if claim is not None:
            # The claim is kept in mind until the run ends here: without it a later commit would not be asked for it.
            raise RunClaimLostError(trace_id)
        found = self._database.rows(
            f"select owner, lease_until - {self._now} from chainweaver_runs where trace_id = ? and is_kept = 1",
            (text_of(trace_id),),
        )
        if not found:
            raise self._not_found(trace_id)
        owner, seconds_left = found[0]
        raise RunClaimedError(trace_id, owner or "somebody", seconds_left)

    def _not_found(self, trace_id: str) -> CheckpointNotFoundError:
        with suppress(ValueError):
            found = self._database.rows("select status from chainweaver_runs where trace_id = ?", (text_of(trace_id),))
            if found:
                why = f"the run has ended ({found[0][0]}), and its steps were not kept"
                return CheckpointNotFoundError(trace_id, why=why, fix="use delete_on_success=False to keep them")
        known = self._database.rows("select trace_id from chainweaver_runs where is_kept = 1 order by id desc limit 20")
        return CheckpointNotFoundError(trace_id, known=[one for (one,) in known])


def _encoded(snapshot: ExecutionSnapshot) -> tuple[dict[str, Any], list[_StepRow], list[tuple[str, bytes]]]:
    """How a run began as columns, its steps as rows, and its artifacts."""
    text, blobs, checksum, artifacts = header(snapshot)
    columns = {
        "flow_name": storable("flow name", snapshot.flow_name),
        "flow_version": storable("version", snapshot.flow_version),
        "flow_digest": storable("digest", snapshot.flow_digest),
        "header": text,
        "header_blobs": blobs,
        "checksum": checksum,
    }
    return columns, [step_row(snapshot.trace_id, step) for step in snapshot.steps], artifacts


def _date(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def _delete_runs(session: Session, where: str, params: Sequence[Any]) -> int:
    # The runs first: what is deleted is what is free at that moment, and from then on nobody can add a step to it.
    ids = [run_id for (run_id,) in session.rows(f"delete from chainweaver_runs where {where} returning id", params)]
    for run_id in ids:
        for table in ("steps", "artifacts"):
            session.run(f"delete from chainweaver_{table} where run_id = ?", (run_id,))
    return len(ids)


def _put_steps(session: Session, run_id: int, rows: Sequence[_StepRow]) -> None:
    for row, artifacts in rows:
        marks = ", ".join("?" * (len(row) + 1))
        session.run(f"insert into chainweaver_steps (run_id, {_STEP}) values ({marks})", (run_id, *row))
        _put_artifacts(session, run_id, artifacts)


def _put_artifacts(session: Session, run_id: int, artifacts: list[tuple[str, bytes]]) -> None:
    for name, content in artifacts:
        session.run(
            "insert into chainweaver_artifacts (run_id, name, content) values (?, ?, ?) on conflict do nothing",
            (run_id, name, content),
        )


def _id_of(session: Session, trace_id: str) -> int:
    [(run_id,)] = session.rows("select id from chainweaver_runs where trace_id = ?", (trace_id,))
    return int(run_id)
