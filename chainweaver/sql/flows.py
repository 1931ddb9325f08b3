"""Flow definitions in a database: one row holds a whole definition, and loading one is one statement.

A definition of a name and version stays what it is; its state changes only for whoever saw the last state. Other
processes learn of a change by the database's own notice, or by looking at a counter. Called by the registry.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Final, TypeAlias

from chainweaver.exceptions import FlowAlreadyExistsError, FlowNotFoundError, FlowSerializationError, StaleFlowError
from chainweaver.flow import AnyFlow
from chainweaver.formats import FlowParseLimits, flow_from_json, flow_to_json
from chainweaver.registry.snapshot import FlowKey
from chainweaver.sql.database import Database, Row, Session
from chainweaver.sql.texts import storable, text_of

__all__ = ["SqlFlows"]

_UNBOUNDED: Final = 2**62
# What was registered has to come back, also a generated flow that nobody would write as a file.
_LIMITS: Final = FlowParseLimits(max_bytes=_UNBOUNDED, max_nodes=_UNBOUNDED, max_steps=_UNBOUNDED)
_PUT_AGAIN: Final = "put it there again: chainweaver flows push FILE --overwrite"

Write: TypeAlias = "tuple[str, str, tuple[object, ...]]"
"""Digest of what is to be kept, the statement that does so, and its parameters."""


class SqlFlows:
    """The flows of a store; a `RegistryStore`. Safe to use from many threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Another one after each change by this object, of which no database tells its own connection.
        self._last_change = object()

    def save_flow(self, flow: AnyFlow, *, overwrite: bool = False) -> None:
        """Keep a definition; see `RegistryStore.save_flow`.

        Raises:
            ValueError: No database holds the name or version.
        """
        digest, statement, params = self._insert(flow, overwrite=overwrite)
        if not self._change(statement, params, (flow.name, flow.version), digest):
            raise FlowAlreadyExistsError(flow.name, flow.version, where=f"store '{self._database.name}'")

    def swap_flow(self, flow: AnyFlow, *, instead_of: AnyFlow) -> None:
        """Put a definition in the place of the one that was read, unless somebody else was faster.

        Raises:
            StaleFlowError: What is kept is not what was read.
            FlowNotFoundError: It is there no longer.
        """
        digest, statement, params = self._update(flow, instead_of)
        if self._change(statement, params, (flow.name, flow.version), digest):
            return
        if not self.has_flow(flow.name, flow.version):
            raise self._not_found(flow.name, flow.version)
        raise StaleFlowError(flow.name, flow.version, where=f"store '{self._database.name}'")

    def put_flows(self, flows: Iterable[tuple[AnyFlow, AnyFlow | None]]) -> None:
        """Keep definitions, each in the place of the one that was read, in one transaction; all of them or none.

        What is kept already just as it is to be is left alone.

        Args:
            flows: What to keep, with what was read of this name and version; None where there was nothing.

        Raises:
            StaleFlowError: What is kept is not what was read.
            ValueError: No database holds a name or version.
        """
        # In one order for everybody, so that no two wait for each other.
        listed = sorted(flows, key=lambda one: (one[0].name, one[0].version))
        writes = [(flow, *(self._insert(flow) if read is None else self._update(flow, read))) for flow, read in listed]

        def put(session: Session) -> None:
            has_changed = False
            for flow, digest, statement, params in writes:
                if session.run(statement, params):
                    has_changed = True
                elif _kept(session, (flow.name, flow.version)) != [(digest,)]:
                    raise StaleFlowError(flow.name, flow.version, where=f"store '{self._database.name}'")
            if has_changed:
                self._count(session)

        self._database.atomically(put)
        self._last_change = object()

    def load_flow(self, name: str, version: str) -> AnyFlow:
        """A definition; see `RegistryStore.load_flow`.

        Raises:
            FlowSerializationError: The row holds no flow, or another one than it says.
        """
        if not (isinstance(name, str) and isinstance(version, str)):
            # As `list_keys` found it: SQLite takes bytes where a text is to be.
            raise FlowSerializationError("its name or version is no text", source=self._place(name, version))
        found = self._database.rows(
            "select digest, definition from chainweaver_flows where name = ? and version = ?",
            (text_of(name), text_of(version)),
        )
        if not found:
            raise self._not_found(name, version)
        return self._read(name, version, *found[0])

    def load_flows(self) -> list[AnyFlow]:
        """Every definition, sorted by name and version, in one statement.

        Raises:
            FlowSerializationError: A row holds no flow, or another one than it says.
        """
        found = self._database.rows(
            "select name, version, digest, definition from chainweaver_flows order by name, version"
        )
        return [self._read(*row) for row in found]

    def has_flow(self, name: str, version: str) -> bool:
        """Whether there is a definition of this name and version."""
        return bool(
            self._database.rows(
                "select 1 from chainweaver_flows where name = ? and version = ?", (text_of(name), text_of(version))
            )
        )

    def list_keys(self) -> list[FlowKey]:
        """Name and version of every definition, sorted as text."""
        found = self._database.rows("select name, version from chainweaver_flows order by name, version")
        return [(name, version) for name, version in found]

    def delete_flow(self, name: str, version: str) -> None:
        """Forget a definition; see `RegistryStore.delete_flow`."""
        statement = "delete from chainweaver_flows where name = ? and version = ?"
        if not self._change(statement, (text_of(name), text_of(version)), (name, version), None):
            raise self._not_found(name, version)

    # ---- change notice

    def changes(self) -> int:
        """How often flows were changed in this store; one statement."""
        [(number,)] = self._database.rows("select number from chainweaver_changes where what = 'flows'")
        return int(number)

    def wait_for_change(self, seen: int, timeout_s: float, stopped: Callable[[], bool] = lambda: False) -> int:
        """Wait until flows were changed; how often they were by then.

        Args:
            seen: What `changes` said last.
            timeout_s: How long to wait for.
            stopped: Asked now and then whether to wait no longer.
        """
        ends = time.monotonic() + timeout_s
        last = self._last_change

        def is_over() -> bool:
            return stopped() or self._last_change is not last

        while (number := self.changes()) == seen and not stopped() and (left_s := ends - time.monotonic()) > 0:
            self._database.wait_for_change(left_s, is_over)
            last = self._last_change
        return number

    # ---- inside

    def _change(self, statement: str, params: tuple[object, ...], key: FlowKey, digest: str | None) -> bool:
        """Run a statement that changes a flow, and count it where it did; whether the flow is as it was to be.

        Args:
            key: Name and version of the flow.
            digest: The digest that is kept afterwards; None for none.
        """
        has_tried = False

        def change(session: Session) -> bool:
            nonlocal has_tried
            changed = session.run(statement, params) > 0
            if not changed and has_tried:
                # The first attempt changed it, and the answer to its commit was lost. Who finds now what was to be
                # kept has either kept it then, or somebody else kept just the same: both is as it was to be.
                return _kept(session, key) == ([] if digest is None else [(digest,)])
            has_tried = changed
            if changed:
                self._count(session)
            return changed

        done = self._database.atomically(change)
        self._last_change = object()
        return done

    def _count(self, session: Session) -> None:
        """Count a change, and tell other processes of it."""
        session.run("update chainweaver_changes set number = number + 1 where what = 'flows'")
        if self._database.dialect.notify is not None:
            session.run(self._database.dialect.notify)

    def _insert(self, flow: AnyFlow, *, overwrite: bool = False) -> Write:
        """What keeps a definition that is not there, or whatever is there."""
        digest, status, text = self._columns(flow)
        on_conflict = (
            "(name, version) do update set digest = excluded.digest, status = excluded.status, "
            "definition = excluded.definition, changed_at = excluded.changed_at"
        )
        statement = (
            "insert into chainweaver_flows (name, version, digest, status, definition, changed_at) "
            f"values (?, ?, ?, ?, ?, {self._database.dialect.now}) "
            f"on conflict {on_conflict if overwrite else 'do nothing'}"
        )
        return digest, statement, (flow.name, flow.version, digest, status, text)

    def _update(self, flow: AnyFlow, instead_of: AnyFlow) -> Write:
        """What keeps a definition in the place of the one that was read."""
        digest, status, text = self._columns(flow)
        read, _, _ = self._columns(instead_of)
        statement = (
            f"update chainweaver_flows set digest = ?, status = ?, definition = ?, changed_at = "
            f"{self._database.dialect.now} where name = ? and version = ? and digest = ?"
        )
        return digest, statement, (digest, status, text, flow.name, flow.version, read)

    def _columns(self, flow: AnyFlow) -> tuple[str, str, str]:
        """The digest of a definition, its status, and itself as text."""
        storable("name of the flow", flow.name)
        storable("version of the flow", flow.version)
        text = flow_to_json(flow)
        return _digest(text), flow.status.value, text

    def _read(self, name: str, version: str, digest: object, text: object) -> AnyFlow:
        place = self._place(name, version)
        if not isinstance(text, str) or _digest(text) != digest:
            detail = "the digest of the definition does not match: it is not what was stored"
            raise FlowSerializationError(detail, source=place, fix=_PUT_AGAIN)
        flow = flow_from_json(text, source=place, limits=_LIMITS)
        if (flow.name, flow.version) != (name, version):
            detail = f"it holds flow '{flow.name}' version '{flow.version}', not what its row says"
            raise FlowSerializationError(detail, source=place, fix=_PUT_AGAIN)
        return flow

    def _place(self, name: object, version: object) -> str:
        return f"flow '{name}' {version} in {self._database.name}"

    def _not_found(self, name: str, version: str) -> FlowNotFoundError:
        return FlowNotFoundError(name, version, where=f"store '{self._database.name}'")


def _kept(session: Session, key: FlowKey) -> list[Row]:
    """The digest that is kept under a name and version; empty where there is none."""
    return session.rows("select digest from chainweaver_flows where name = ? and version = ?", key)


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
