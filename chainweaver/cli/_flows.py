"""The flows that a flow names: found beside its file, below the directories of --flows, and in the modules of --tools.

Nothing is read before a flow names another one, and a file is taken by the name that its flow has, whatever the file is
called. A file that holds no flow is passed over; it is told when a flow is looked for and not found.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from chainweaver.cli._loading import FLOW_SUFFIXES, Module, Source, read_file
from chainweaver.exceptions import ChainWeaverError, CommandLineError, FlowNotFoundError
from chainweaver.flow import AnyFlow


class Shelf:
    """Flows by name, in all their versions; files are read when somebody asks for a name.

    Args:
        beside: The directory of the flow that names the others; its subdirectories are not searched.
        below: Directories that are searched to any depth.

    Raises:
        CommandLineError: One of the directories does not exist.
    """

    def __init__(self, beside: str | None, below: Sequence[str] = (), modules: Sequence[Module] = ()) -> None:
        for directory in below:
            check_directory(directory)
        self._beside = beside
        self._below = below
        self._modules = modules
        self._found: dict[str, list[Source]] | None = None
        self.broken: list[str] = []

    def named(self, name: str) -> list[Source]:
        """All versions of a flow that there are.

        Raises:
            CommandLineError: Two files define one version differently.
        """
        versions: dict[str, Source] = {}
        for source in self._look().get(name, ()):
            first = versions.setdefault(source.flow.version, source)
            if first.flow != source.flow:
                raise CommandLineError(
                    f"Flow '{name}' {source.flow.version} is defined twice: in '{first.name}' and in '{source.name}'",
                    invalid=True,
                    fix="give one of them another version, or leave it out of the directory",
                )
        return list(versions.values())

    def everything(self) -> list[Source]:
        """All versions of all flows that there are.

        Raises:
            CommandLineError: Two files define one version differently.
        """
        return [source for name in self._look() for source in self.named(name)]

    def _look(self) -> dict[str, list[Source]]:
        if self._found is None:
            self._found = {}
            for source in self._sources():
                self._found.setdefault(source.flow.name, []).append(source)
        return self._found

    def names(self) -> list[str]:
        """The names of all flows that were found."""
        return sorted(self._found or ())

    def _sources(self) -> Iterator[Source]:
        for path in dict.fromkeys(os.path.normpath(path) for path in self._files()):
            try:
                yield read_file(path)
            except ChainWeaverError:
                self.broken.append(path)
        for module in self._modules:
            yield from (Source(flow, module.name) for flow in module.flows)

    def _files(self) -> Iterator[str]:
        for directory in self._below:
            yield from flow_files(directory)
        if self._beside is not None:
            folder = self._beside or os.curdir
            yield from (
                os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith(FLOW_SUFFIXES)
            )


def flow_files(directory: str) -> Iterator[str]:
    """Every flow file below a directory, in alphabetical order; hidden directories are left out."""
    for folder, inside, names in os.walk(directory):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        yield from (os.path.join(folder, name) for name in sorted(names) if name.endswith(FLOW_SUFFIXES))


def check_directory(directory: str) -> None:
    """Refuse what is no directory.

    Raises:
        CommandLineError: It does not exist, or is something else.
    """
    if not os.path.isdir(directory):
        what = "is no directory" if os.path.exists(directory) else "does not exist"
        raise CommandLineError(f"Directory '{directory}' {what}")


def shelf_for(source: Source, flows: Sequence[str] | None, modules: Sequence[Module]) -> Shelf:
    """Where the flows are looked for that this one names."""
    beside = None if source.file is None else os.path.dirname(source.name)
    return Shelf(beside, flows or (), modules)


def reached_from(source: Source, shelf: Shelf, *, needed: bool = True) -> list[Source]:
    """A flow and all that its steps name, directly and through others.

    Args:
        needed: A flow that is not found is an error here; otherwise the compiler will tell.

    Raises:
        FlowNotFoundError: There is no flow of this name, or none in this version.
        CommandLineError: A version is defined twice.
    """
    reached, seen = [source], {source.flow.name}
    for one in reached:
        for position, step in enumerate(one.flow.steps):
            name = step.flow_name
            if name is None or name in seen:
                continue
            found = shelf.named(name)
            versions = [other.flow.version for other in found]
            if needed and (not found or step.flow_version not in (None, *versions)):
                raise _not_found(one, position, shelf, versions)
            seen.add(name)
            reached += found
    return reached


def _not_found(source: Source, position: int, shelf: Shelf, versions: Sequence[str]) -> FlowNotFoundError:
    step = source.flow.steps[position]
    name = step.flow_name or ""
    place = source.name if source.file is None else source.file.step_place(position)
    fix = None
    if not versions:
        fix = f"put its file beside that of '{source.flow.name}', or name its directory with --flows"
    return FlowNotFoundError(
        name,
        step.flow_version if versions else None,
        known=versions or shelf.names(),
        where=f"flow '{source.flow.name}' {source.flow.version} calls it ({place})",
        why=f"cannot be read: {', '.join(shelf.broken)}" if shelf.broken else None,
        fix=fix,
    )


def flows_of(sources: Sequence[Source]) -> list[AnyFlow]:
    """The flows themselves."""
    return [source.flow for source in sources]
