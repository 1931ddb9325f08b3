"""Claims: which runs this process executes, as the database says and as is remembered here.

A claim is an owner, an epoch and the time at which it runs out; every change of hands is a new epoch. The database's
clock decides, and a thread renews the claims of this process while there are some. A fork inherits none.

Called by `runs` from any thread; what is committed under a claim, and what ends one, is said there.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple
from weakref import WeakSet

from chainweaver.exceptions import RunClaimedError
from chainweaver.sql.database import Database, Row, Session
from chainweaver.sql.texts import as_list, is_text, text_of

_AT_ONCE: Final = 500
"""Claims that one statement renews; databases take some thousand parameters at most."""

_LOGGER: Final = "chainweaver.sql"


class Claim(NamedTuple):
    """A run that is executed here."""

    run_id: int
    epoch: int


class Claims:
    """The runs that this process executes.

    Args:
        database: Where the runs are.
        lease_s: How long a claim holds without being renewed; it is renewed three times as often.

    Attributes:
        owner: What its claims say: host, process and a number of its own. Another one after a fork.
    """

    def __init__(self, database: Database, lease_s: float) -> None:
        self.lease_s = lease_s
        self._database = database
        self._nameless: set[int] = set()
        self._begin()
        _ALL.add(self)
        now = database.dialect.now
        self._until = f"{now} + ?"
        self._is_free = f"(owner is null or owner = ? or lease_until < {now})"
        self._is_nobodys = f"(owner is null or lease_until < {now})"
        self._take = (
            f"owner = ?, epoch = epoch + 1, lease_until = {now} + ?, changed_at = {now}, "
            "before = case when owner = ? then before else status end, status = 'running'"
        )

    def _begin(self) -> None:
        """Have no claims yet. Called again after a fork: the claims that came along are the parent's."""
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self._claims: dict[str, Claim] = {}
        self._lock = threading.Lock()
        # From the question whether a run is in the table above until it is, no other thread may claim: to the database
        # a claim of ours that nobody remembers is free to be taken by us.
        self._taking = threading.Lock()
        self._beat: threading.Thread | None = None
        self._stop = threading.Event()

    def of(self, trace_id: str) -> Claim | None:
        """The claim on a run; None where it is not executed here."""
        return self._claims.get(trace_id)

    def take(self, trace_id: str) -> bool:
        """Claim a run; False where it is not there, or somebody else executes it.

        Raises:
            RunClaimedError: It is executed here.
        """
        with self._taking:
            if trace_id in self._claims:
                raise RunClaimedError(trace_id, self.owner)
            # Whoever asks again, because the answer was lost, is the owner by then and takes it once more.
            taken = self._database.rows(
                f"update chainweaver_runs set {self._take} "
                f"where trace_id = ? and is_kept = 1 and {self._is_free} returning id, epoch",
                (*self._taker, text_of(trace_id), self.owner),
            )
            if taken:
                self.hold(trace_id, Claim(*taken[0]))
            return bool(taken)

    def take_orphan(self, flow_names: Collection[str], passed_over: Collection[str]) -> str | None:
        """Claim the oldest run of these flows that has neither ended nor anybody who executes it; its id, or None."""
        with self._taking:
            while (taken := self._take_orphan(flow_names, {*passed_over, *self._claims})) is not None:
                trace_id, run_id, epoch = taken
                if is_text(trace_id):
                    self.hold(trace_id, Claim(run_id, epoch))
                    return str(trace_id)
                # Nobody could pass it over by its id, and so it would be the next one for ever.
                self._nameless.add(run_id)
                logging.getLogger(_LOGGER).warning("Row %d of the runs has no id: %r", run_id, trace_id)
        return None

    def hold(self, trace_id: str, claim: Claim) -> None:
        """Remember a claim, and renew it until it is let go."""
        with self._lock:
            self._claims[trace_id] = claim
            # Not is_alive(): when Ctrl-C strikes in there, a thread counts as dead from then on.
            if self._beat is None:
                if self._stop.is_set():
                    self._stop = threading.Event()
                beat = threading.Thread(
                    target=self._keep_renewing, args=(self._stop,), name="chainweaver-claims", daemon=True
                )
                beat.start()
                self._beat = beat

    def let_go(self, trace_id: str) -> None:
        """Forget a claim."""
        with self._lock:
            self._claims.pop(trace_id, None)

    def renew(self, run_ids: Sequence[int]) -> int:
        """Have claims hold for another lease, those on runs that nobody else has claimed; how many."""
        return self._database.run(
            f"update chainweaver_runs set lease_until = {self._until} where owner = ? and id in ({_marks(run_ids)})",
            (self.lease_s, self.owner, *run_ids),
        )

    def close(self) -> None:
        """Stop renewing. Runs that are still executed lose their claims when these run out."""
        with self._lock:
            # Whoever claims a run from now on begins another thread: this one may be in the middle of a statement.
            beat, self._beat = self._beat, None
            self._stop.set()
        if beat is not None and beat is not threading.current_thread():
            beat.join(timeout=5)

    # ---- inside

    @property
    def _taker(self) -> tuple[str, float, str]:
        """The parameters of `_take`."""
        return self.owner, self.lease_s, self.owner

    def _take_orphan(self, flow_names: Collection[str], passed_over: Collection[str]) -> Row | None:
        words, nameless = self._database.dialect, sorted(self._nameless)
        others = f" and id not in ({_marks(nameless)})" if nameless else ""
        statement = (
            f"update chainweaver_runs set {self._take} where id = (select id from chainweaver_runs "
            f"where status = 'running' and is_kept = 1 and {self._is_nobodys} and flow_name in ({words.listed}) "
            f"and trace_id not in ({words.listed}){others} order by id limit 1{words.unlocked}) "
            "returning trace_id, id, epoch"
        )
        params = (*self._taker, as_list(flow_names), as_list(passed_over), *nameless)
        earlier: list[Row] = []

        def take(session: Session) -> list[Row]:
            if earlier:
                # The answer to a commit was lost. If it was done, that run is ours, and nobody would look for it.
                ours = session.rows(
                    f"update chainweaver_runs set lease_until = {self._until} "
                    "where trace_id = ? and id = ? and epoch = ? and owner = ? returning trace_id, id, epoch",
                    (self.lease_s, *earlier[0], self.owner),
                )
                if ours:
                    return ours
            earlier[:] = session.rows(statement, params)
            return list(earlier)

        taken = self._database.atomically(take)
        return taken[0] if taken else None

    def _keep_renewing(self, stop: threading.Event) -> None:
        """Renew the claims of this process until it is told to stop."""
        while not stop.wait(self.lease_s / 3):
            # Only what is executed here: a claim that nobody remembers, because the store was out of reach when it was
            # to end, has to run out.
            held = [claim.run_id for claim in list(self._claims.values())]
            try:
                for at in range(0, len(held), _AT_ONCE):
                    self.renew(held[at : at + _AT_ONCE])
            except Exception as exc:  # whatever it is, the next time may be better, and nobody else renews
                logging.getLogger(_LOGGER).warning("Claims of %s are not renewed: %s", self.owner, exc)


_ALL: Final[WeakSet[Claims]] = WeakSet()


def _begin_after_fork() -> None:
    for claims in list(_ALL):
        claims._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_after_fork)


def _marks(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))
