"""What installed packages offer: tools here, flows in `registry.plugins`, which asks the same way.

A package offers something by an entry point, in the group `chainweaver.tools` or `chainweaver.flows`, that names one
object, an iterable of them, a module that holds them, or a function without parameters that returns one of these.
All entry points are tried: a broken one hides none of the others. Called by the executor when it is told to look for
plugins, and by users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from chainweaver.exceptions import LISTED_NAMES, PluginDiscoveryError, told

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from chainweaver.tools.definition import Tool

__all__ = ["OnPluginError", "Plugin", "discover_tools", "offers_of", "once_each", "settle"]

GROUP: Final = "chainweaver.tools"

OnPluginError = Callable[[PluginDiscoveryError], object]
"""Told of a plugin that cannot be used; the others are used all the same."""


class Plugin(NamedTuple):
    """An entry point, in words.

    Attributes:
        name: Group and name, such as "chainweaver.tools:acme".
        package: The package that it belongs to, with version; None when nobody says.
    """

    name: str
    package: str | None

    def error(self, detail: str, cause: BaseException | None = None) -> PluginDiscoveryError:
        """The error that says what is wrong with this plugin."""
        what = "that package" if self.package is None else f"package '{self.package}'"
        fix = f"update or remove {what}, or switch discovery off"
        error = PluginDiscoveryError(self.name, detail, where=self.package and f"package {self.package}", fix=fix)
        error.__cause__ = cause
        return error


def discover_tools(*, on_error: OnPluginError | None = None) -> list[Tool]:
    """The tools that installed packages offer under the entry point group `chainweaver.tools`.

    Args:
        on_error: Called once for every plugin that cannot be used; the tools of the others are returned. None: raise
            when there is one.

    Returns:
        The tools in the order of the entry points' names. A tool that is offered twice is returned once.

    Raises:
        PluginDiscoveryError: Without `on_error`: an entry point cannot be loaded or offers something else, or two offer
            different tools of one name. All that is wrong is listed, after all entry points were tried.
    """
    from chainweaver.tools.definition import Tool

    errors: list[PluginDiscoveryError] = []
    offered = offers_of(GROUP, (Tool,), "Tool", errors)
    tools = once_each(offered, lambda tool: (tool.name, f"tool '{tool.name}'"), lambda one, other: False, errors)
    settle(errors, on_error)
    return tools


def offers_of(
    group: str, kinds: tuple[type[Any], ...], wanted: str, errors: list[PluginDiscoveryError]
) -> list[tuple[Plugin, Any]]:
    """All objects of all entry points of a group, each with the plugin it comes from.

    Args:
        kinds: The classes that may be offered.
        wanted: The same in words.
        errors: Gets what is wrong with the others.
    """
    from importlib.metadata import entry_points

    found: list[tuple[Plugin, Any]] = []
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        plugin = Plugin(f"{group}:{point.name}", _package_of(point))
        try:
            offer = list(_offer_of(point, kinds))
        except (Exception, SystemExit) as exc:
            # Whatever foreign code raises while it is imported, be it the end of the process, is the plugin's own.
            errors.append(plugin.error(told(exc), exc))
            continue
        strange = sorted({type(one).__name__ for one in offer if not isinstance(one, kinds)})
        if strange:
            errors.append(plugin.error(f"it offers {', '.join(strange)} instead of {wanted}"))
        else:
            found += [(plugin, one) for one in offer]
    return found


def _offer_of(point: EntryPoint, kinds: tuple[type[Any], ...]) -> Iterator[Any]:
    offer = point.load()
    # A tool can be called as well, so this question comes first.
    if callable(offer) and not isinstance(offer, (*kinds, type)):
        offer = offer()
    if isinstance(offer, ModuleType):
        # Names under which a module holds the same object twice are no two offers.
        yield from {id(one): one for one in vars(offer).values() if isinstance(one, kinds)}.values()
    elif isinstance(offer, kinds):
        yield offer
    else:
        yield from offer


def _package_of(point: EntryPoint) -> str | None:
    package = point.dist
    # Metadata without a name is no reason to refuse what the package offers.
    return f"{package.name} {package.version}" if package is not None and "Name" in package.metadata else None


def once_each(
    offered: Sequence[tuple[Plugin, Any]],
    key_of: Callable[[Any], tuple[object, str]],
    same: Callable[[Any, Any], bool],
    errors: list[PluginDiscoveryError],
) -> list[Any]:
    """The offered objects, each once; of two different ones that cannot both be there the first one stays.

    Args:
        key_of: From an object to what must be unique, and to its name in messages.
        same: Whether two of one key may stand for each other although they are two objects.
        errors: Gets an entry for every object that was dropped.
    """
    kept: dict[object, tuple[Plugin, Any]] = {}
    for plugin, one in offered:
        key, name = key_of(one)
        first, other = kept.setdefault(key, (plugin, one))
        if other is not one and not same(other, one):
            errors.append(plugin.error(f"it offers another {name} than plugin '{first.name}' does"))
    return [one for _, one in kept.values()]


def settle(errors: Sequence[PluginDiscoveryError], on_error: OnPluginError | None) -> None:
    """Tell of all errors, or raise one that lists them.

    Raises:
        PluginDiscoveryError: There are errors and nobody to tell.
    """
    if on_error is not None:
        for error in errors:
            on_error(error)
    elif errors:
        first, *others = errors
        lines = [error.sentence for error in others[:LISTED_NAMES]]
        if len(others) > LISTED_NAMES:
            lines.append(f"and {len(others) - LISTED_NAMES} more")
        if lines:
            first.with_facts(why="\n".join(["further plugins are broken:", *lines]))
        raise first
