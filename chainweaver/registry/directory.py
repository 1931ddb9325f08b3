"""Flow files of a directory: reading all of them, and comparing them with what a registry holds.

A file that cannot be read as a flow is noted with its reason and hides none of the others; whether it stops the whole
reading is decided by the registry, which calls this; `flows push` compares a file in the same way. Nothing here changes
a registry.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chainweaver.exceptions import ChainWeaverError, FlowSerializationError, told
from chainweaver.flow import DEFAULT_REF_POLICY, AnyFlow, SchemaRefPolicy, copy_flow
from chainweaver.registry.snapshot import FlowKey, RegistrySnapshot
from chainweaver.tools.drift import tools_named_by

if TYPE_CHECKING:
    from chainweaver.formats import FlowParseLimits

__all__ = [
    "Comparison",
    "FailedFile",
    "Reading",
    "Remembered",
    "ReloadReport",
    "compare",
    "flow_files",
    "read_flows",
    "with_state",
]

_SUFFIXES: Final = (".flow.json", ".flow.yaml", ".flow.yml")
_STATE: Final = ("status", "tool_schema_hashes")
"""What is set in a registry while flows are in use; see `FlowRegistry.update_flow_state`."""


@dataclass(frozen=True, slots=True)
class FailedFile:
    """A flow file that could not be used; the registry keeps what it held before.

    Attributes:
        path: The file.
        reason: What is wrong with it, with places; more than one line when it is more than one thing.
        error: The error behind it.
    """

    path: Path
    reason: str
    error: Exception = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ReloadReport:
    """What a reading of a directory did to the registry; name and version of the flows, in the order of their files.

    Attributes:
        added: Flows that the registry did not have.
        updated: Flows that the registry had in another form.
        unchanged: Flows that the registry had already.
        failed: Files that could not be used.
        gone: Flows that the directory held at an earlier reading and holds no more. They stay registered: a file that
            is moved or written anew is missing for a moment. `unregister_flow` takes them out.
    """

    added: tuple[FlowKey, ...] = ()
    updated: tuple[FlowKey, ...] = ()
    unchanged: tuple[FlowKey, ...] = ()
    failed: tuple[FailedFile, ...] = ()
    gone: tuple[FlowKey, ...] = ()


@dataclass(slots=True)
class Reading:
    """What stood in the flow files of a directory, in the order of the files.

    Attributes:
        flows: File -> flow.
        failed: The files that hold none that could be used.
    """

    flows: dict[Path, AnyFlow] = field(default_factory=dict)
    failed: list[FailedFile] = field(default_factory=list)

    def fail(self, path: Path, error: Exception) -> None:
        """Note that a file cannot be used."""
        self.flows.pop(path, None)
        reason = str(error) if isinstance(error, ChainWeaverError) else told(error)
        self.failed.append(FailedFile(path, reason, error))

    def raise_for_failures(self, directory: str | os.PathLike[str]) -> None:
        """Raise what is wrong: the only error itself, or one that names all files."""
        errors = {id(one.error): one.error for one in self.failed}
        if len(errors) == 1:
            raise next(iter(errors.values()))
        if errors:
            lines = [f"'{one.path.name}': {told(one.error)}" for one in self.failed]
            raise FlowSerializationError(
                "\n".join([f"{len(lines)} files cannot be read", *lines]), source=str(directory)
            )


def flow_files(directory: str | os.PathLike[str]) -> list[Path]:
    """The flow files that lie directly in a directory, ordered by name; hidden ones, such as `._a.flow.json`, are none.

    Raises:
        OSError: There is no such directory, or it cannot be read.
    """
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries if _is_flow_file(entry))
    return [Path(directory) / name for name in names]


def _is_flow_file(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith(".") or not entry.name.endswith(_SUFFIXES):
        return False
    try:
        return entry.is_file()
    except OSError:
        # A link in a circle, for instance. Opening it says what is wrong, without a word about the other files.
        return True


def read_flows(
    directory: str | os.PathLike[str],
    *,
    limits: FlowParseLimits | None = None,
    policy: SchemaRefPolicy = DEFAULT_REF_POLICY,
    accept: Callable[[AnyFlow], AnyFlow] = copy_flow,
) -> Reading:
    """Read all flow files of a directory.

    Two files that hold the same flow both fail: the order of files decides nothing.

    Args:
        directory: The directory.
        limits: Bounds for each file; None: the usual ones.
        policy: Which classes the flows may name.
        accept: Returns what to keep of a flow, or raises why it is not accepted.

    Raises:
        OSError: There is no such directory, or it cannot be read.
    """
    from chainweaver.formats import FlowParseLimits, load_flow_file

    bounds = FlowParseLimits() if limits is None else limits
    reading = Reading()
    for path in flow_files(directory):
        try:
            reading.flows[path] = accept(load_flow_file(path, limits=bounds, policy=policy))
        except FileNotFoundError:
            # It went between the listing and the reading: the same as if it had gone before.
            continue
        except ChainWeaverError as exc:
            reading.fail(path, exc if str(path) in str(exc) else exc.with_facts(where=str(path)))
        except OSError as exc:
            reading.fail(path, exc)
    _fail_the_same(reading, str(directory))
    return reading


def _fail_the_same(reading: Reading, source: str) -> None:
    places: dict[FlowKey, list[Path]] = {}
    for path, flow in reading.flows.items():
        places.setdefault((flow.name, flow.version), []).append(path)
    for (name, version), paths in places.items():
        if len(paths) > 1:
            files = " and ".join(f"'{path.name}'" for path in paths)
            detail = f"flow '{name}' version '{version}' is in {files}"
            error = FlowSerializationError(detail, source=source, fix="keep one file per flow and version")
            for path in paths:
                reading.fail(path, error)


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a registry remembers of the last reading of a directory.

    Attributes:
        keys: File -> the flow that it held, also when it holds none that can be used now.
        flows: The flows, as they stood in the files.
    """

    keys: Mapping[Path, FlowKey] = field(default_factory=dict)
    flows: Mapping[FlowKey, AnyFlow] = field(default_factory=dict)


@dataclass(slots=True)
class Comparison:
    """What a reading means for a registry.

    Attributes:
        added, updated: File -> flow to put into the registry.
        unchanged: The flows that it holds already.
    """

    added: dict[Path, AnyFlow] = field(default_factory=dict)
    updated: dict[Path, AnyFlow] = field(default_factory=dict)
    unchanged: list[FlowKey] = field(default_factory=list)

    def leave_out(self, path: Path) -> None:
        """Let the flow of a file stay out of the registry after all."""
        self.added.pop(path, None)
        self.updated.pop(path, None)

    def report(self, reading: Reading, gone: list[FlowKey]) -> ReloadReport:
        """The comparison in words."""
        added, updated = (
            tuple((flow.name, flow.version) for flow in flows.values()) for flows in (self.added, self.updated)
        )
        return ReloadReport(added, updated, tuple(self.unchanged), tuple(reading.failed), tuple(gone))


def compare(reading: Reading, snapshot: RegistrySnapshot, last: Remembered) -> Comparison:
    """What the flows that were read mean for a registry.

    A file that says what it said at its last reading leaves its flow alone, whatever became of it since. One that says
    something else replaces it, but for state that was set since and that the file leaves as it was.
    """
    found = Comparison()
    for path, flow in reading.flows.items():
        key = (flow.name, flow.version)
        registered, before = snapshot.get(key), last.flows.get(key)
        if registered is None:
            found.added[path] = flow
            continue
        own = flow if flow == before else with_state(flow, registered, before)
        if flow == before or own == registered:
            found.unchanged.append(key)
        else:
            found.updated[path] = own
    return found


def with_state(flow: AnyFlow, registered: AnyFlow, before: AnyFlow | None) -> AnyFlow:
    """The flow of a file with the state that somebody gave the registered one, where the file says nothing new of it.

    A flow that was disabled at run time is not switched on again by a better description, and the schemas of the tools
    that it still names stay accepted.

    Args:
        flow: As it stands in the file.
        registered: As it is known under its name and version.
        before: As it stood in the file at the last reading; None where this is the first one.
    """
    said = flow.model_fields_set
    kept = {
        name: getattr(registered, name)
        for name in _STATE
        if (name not in said if before is None else getattr(flow, name) == getattr(before, name))
    }
    hashes = kept.get("tool_schema_hashes")
    if hashes and hashes != flow.tool_schema_hashes:
        named = set(tools_named_by(flow))
        kept["tool_schema_hashes"] = {name: one for name, one in hashes.items() if name in named}
    return copy_flow(flow, **kept)


def remember(reading: Reading, last: Remembered, held: RegistrySnapshot) -> tuple[Remembered, list[FlowKey]]:
    """What to remember of a reading, and the flows that are gone from the directory since the last one.

    Args:
        reading: The files as they are, those left out that the registry could not take.
        last: What was remembered before.
        held: The registry after the reading.
    """
    keys = {path: (flow.name, flow.version) for path, flow in reading.flows.items()}
    flows = {(flow.name, flow.version): flow for flow in reading.flows.values()}
    # A file that cannot be used now still stands for what it held.
    broken = {one.path: last.keys[one.path] for one in reading.failed if one.path in last.keys}
    gone = [key for key in last.flows if key in held and key not in flows and key not in broken.values()]
    kept = {key: last.flows[key] for key in (*gone, *broken.values()) if key not in flows and key in last.flows}
    return Remembered({**keys, **broken}, {**kept, **flows}), gone
