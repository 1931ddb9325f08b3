"""A flow together with the tools and the flows it is run with: what `run`, `explain` and `replay` begin with.

Says which modules were taken and why; imports nothing but those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chainweaver.cli._flows import flows_of, reached_from, shelf_for
from chainweaver.cli._loading import (
    Module,
    Source,
    companion_of,
    load_modules,
    read_source,
    tools_of,
)
from chainweaver.cli._screen import counted
from chainweaver.exceptions import CommandLineError
from chainweaver.flow import AnyFlow
from chainweaver.tools import Tool


@dataclass(frozen=True, slots=True)
class Ready:
    """A flow that can be run or explained.

    Attributes:
        sources: The flow itself, and then all that it reaches.
        tools: Name -> tool.
        modules: Where the tools came from.
    """

    sources: Sequence[Source]
    tools: Mapping[str, Tool]
    modules: Sequence[Module]

    @property
    def source(self) -> Source:
        """The flow itself."""
        return self.sources[0]

    @property
    def flows(self) -> list[AnyFlow]:
        """The flow itself, and then all that it reaches."""
        return flows_of(self.sources)

    def source_of(self, name: str, version: str | None) -> Source | None:
        """Where one of the flows was found."""
        found = (one for one in self.sources if (one.flow.name, one.flow.version) == (name, version))
        return next(found, None)

    def loaded(self) -> str:
        """How many tools came from where: "8 tools from audit.py"."""
        return ", ".join(f"{counted(len(module.tools), 'tool')} from {module.name}" for module in self.modules)


def make_ready(
    given: str, tools: Sequence[str] | None, version: str | None, flows: Sequence[str] | None = None
) -> Ready:
    """Find the flow, those that it names, and the tools.

    Args:
        tools: The modules that hold them; None: the Python files beside the flow files.
        flows: Directories with the flows that steps name.

    Raises:
        CommandLineError: A file, directory or module does not exist, or there are no tools at all.
        FlowNotFoundError: There is no flow of this name, or none in this version.
    """
    if tools:
        modules = load_modules(tools)
        source = read_source(given, modules, version)
        sources = reached_from(source, shelf_for(source, flows, modules))
    else:
        source = read_source(given, (), version)
        sources = reached_from(source, shelf_for(source, flows, ()))
        modules = load_modules(_companions(sources))
    return Ready(sources, tools_of(modules), modules)


def _companions(sources: Sequence[Source]) -> list[str]:
    """The Python files beside the flow files."""
    found = [beside for source in sources if source.file is not None and (beside := companion_of(source.name))]
    if not found:
        name = sources[0].name
        stem = name.rsplit("/", 1)[-1].split(".")[0]
        raise CommandLineError(
            f"There are no tools for '{name}'",
            fix=f"put them into {stem}.py beside it, or name their module with --tools",
        )
    return list(dict.fromkeys(found))
