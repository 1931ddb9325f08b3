"""A flow together with the tools it is run with: what `run` and `explain` begin with.

Says which modules were taken and why; imports nothing but those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
from chainweaver.tools import Tool


@dataclass(frozen=True, slots=True)
class Ready:
    """A flow and its tools.

    Attributes:
        tools: Name -> tool.
        modules: Where the tools come from.
    """

    source: Source
    tools: Mapping[str, Tool]
    modules: Sequence[Module]

    def loaded(self) -> str:
        """Which tools come from where: "8 tools from audit.py"."""
        return ", ".join(f"{counted(len(module.tools), 'tool')} from {module.name}" for module in self.modules)


def make_ready(given: str, tools: Sequence[str] | None, version: str | None) -> Ready:
    """Find the flow and load its tools: the modules that are named, else the Python file beside the flow file.

    Raises:
        CommandLineError: A file or module does not exist, or there are no tools at all.
        FlowNotFoundError: There is no flow of this name, or none in this version.
    """
    if tools:
        modules = load_modules(tools)
        source = read_source(given, modules, version)
    else:
        source = read_source(given, (), version)
        beside = companion_of(source.name)
        if beside is None:
            stem = source.name.rsplit("/", 1)[-1].split(".")[0]
            raise CommandLineError(
                f"There are no tools for '{source.name}'",
                missing=True,
                fix=f"put them into {stem}.py beside it, or name their module with --tools",
            )
        modules = load_modules([beside])
    return Ready(source, tools_of(modules), modules)
