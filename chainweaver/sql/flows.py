"""Flow definitions in a database: one row holds a whole definition, and loading one is one statement.

A definition of a name and version stays what it is; its state changes only for whoever saw the last state. Other
processes learn of a change by the database's own notice, or by looking at a counter. Called by the registry.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

from chainweaver.exceptions import FlowAlreadyExistsError, FlowNotFoundError, FlowSerializationError, StaleFlowError
from chainweaver.flow import AnyFlow
from chainweaver.formats import FlowParseLimits, flow_from_json, flow_to_json
from chainweaver.registry.snapshot import FlowKey
from chainweaver.sql.database import Database, Session
from chainweaver.sql.texts import storable, text_of

__all__ = ["SqlFlows"]

_UNBOUNDED: Final = 2**62
# What was registered has to come back, also a generated flow that nobody would write as a file.
_LIMITS: Final = FlowParseLimits(max_bytes=_UNBOUNDED, max_nodes=_UNBOUNDED, max_steps=_UNBOUNDED)


class SqlFlows:
    """The flows of a store; a `RegistryStore`. Safe to use from many threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save_flow(self, flow: AnyFlow, *, overwrite: bool = False) -> None:
        """Keep a definition; see `RegistryStore.save_flow`.

        Raises:
            ValueError: No database holds the name or version.
        """
        text, columns = self._columns(flow)
        on_conflict = (
            "(name, version) do update set digest = excluded.digest, status = excluded.status, "
            "definition = excluded.definition, changed_at = excluded.changed_at"
        )
        statement = (
            "insert into chainweaver_flows (name, version, digest, status, definition, changed_at) "
            f"values (?, ?, ?, ?, ?, {self._database.dialect.now}) "
            f"on conflict {on_conflict if overwrite else 'do nothing'}"
        )
        key = (flow.name, flow.version)
        if not self._change(statement, (*key, *columns, text), key, columns[0]):
            raise FlowAlreadyExistsError(flow.name, flow.version, where=f"store '{self._database.name}'")

    def swap_flow(self, flow: AnyFlow, *, instead_of: AnyFlow) -> None:
        """Put a definition in the place of the one that was read, unless somebody else was faster.

        Raises:
            StaleFlowError: What is kept is not what was read.
            FlowNotFoundError: It is there no longer.
        """
        text, columns = self._columns(flow)
        _, (read, _) = self._columns(instead_of)
        statement = (
            f"update chainweaver_flows set digest = ?, status = ?, definition = ?, changed_at = "
            f"{self._database.dialect.now} where name = ? and version = ? and digest = ?"
        )
        key = (flow.name, flow.version)
        if self._change(statement, (*columns, text, *key, read), key, columns[0]):
            return
        if not self.has_flow(flow.name, flow.version):
            raise self._not_found(flow.name, flow.version)
        raise StaleFlowError(flow.name, flow.version, where=f"store '{self._database.name}'")

    def load_flow(self, name: str, version: str) -> AnyFlow:
        """A definition; see `RegistryStore.load_flow`.

        Raises:
            FlowSerializationError: The row holds no flow, or another one than it says.
        """
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
        while (number := self.changes()) == seen and not stopped() and (left_s := ends - time.monotonic()) > 0:
            self._database.wait_for_change(left_s, stopped)
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
                kept = session.rows("select digest from chainweaver_flows where name = ? and version = ?", key)
                return kept == ([] if digest is None else [(digest,)])
            has_tried = changed
            if changed:
                session.run("update chainweaver_changes set number = number + 1 where what = 'flows'")
                if self._database.dialect.notify is not None:
                    session.run(self._database.dialect.notify)
            return changed

        return self._database.atomically(change)

    def _columns(self, flow: AnyFlow) -> tuple[str, tuple[str, str]]:
        """The definition as text, its digest and its status."""
        storable("name of the flow", flow.name)
        storable("version of the flow", flow.version)
        text = flow_to_json(flow)
        return text, (_digest(text), flow.status.value)

    def _read(self, name: str, version: str, digest: object, text: object) -> AnyFlow:
        place = f"flow '{name}' {version} in {self._database.name}"
        if not isinstance(text, str) or _digest(text) != digest:
            detail = "the digest of the definition does not match: it is not what was stored"
            raise FlowSerializationError(detail, source=place, fix="push the flow again, with overwrite")
        flow = flow_from_json(text, source=place, limits=_LIMITS)
        if (flow.name, flow.version) != (name, version):
            detail = f"it holds flow '{flow.name}' version '{flow.version}', not what its row says"
            raise FlowSerializationError(detail, source=place)
        return flow

    def _not_found(self, name: str, version: str) -> FlowNotFoundError:
        return FlowNotFoundError(name, version, where=f"store '{self._database.name}'")


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
