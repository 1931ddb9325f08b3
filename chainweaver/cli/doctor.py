"""`chainweaver doctor`: what this installation has, and what keeps it from working."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Any

from chainweaver.cli._answer import FAILED, OK, Answer, Fault
from chainweaver.cli._options import Format, OutputOption
from chainweaver.cli._screen import Screen, counted
from chainweaver.exceptions import ChainWeaverError, MissingExtraError, PluginDiscoveryError
from chainweaver.registry.plugins import GROUP as FLOW_PLUGINS

CORE = ("pydantic", "pydantic_core", "anyio", "packaging", "typing_extensions")
EXTRAS = {"yaml": ("pyyaml",), "cli": ("typer", "rich", "pyyaml"), "postgres": ("psycopg",)}
PLUGINS = ("chainweaver.tools", FLOW_PLUGINS)


def doctor(output: OutputOption = Format.TEXT) -> Answer:
    """Show versions, extras, plugins and directories, and what is wrong with them."""
    packages = {name: version_of(name) for name in CORE}
    extras = {name: {package: version_of(package) for package in needed} for name, needed in EXTRAS.items()}
    plugins, plugin_errors = _plugins()
    directories = {path: os.access(path, os.W_OK | os.X_OK) for path in _directories()}
    errors: list[ChainWeaverError] = [
        *(MissingExtraError(name, f"Package '{name}'", fix="pip install chainweaver") for name in _absent(packages)),
        *plugin_errors,
    ]
    data = {
        "chainweaver": sys.modules["chainweaver"].__version__,
        "location": os.path.dirname(str(sys.modules["chainweaver"].__file__)),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "stdout_encoding": getattr(sys.stdout, "encoding", None),
        "packages": packages,
        "extras": extras,
        "plugins": plugins,
        "writable": directories,
    }
    faults = [Fault.of(error) for error in errors]
    return Answer(
        data=data, faults=faults, exit_code=FAILED if faults else OK, text=lambda screen: _show(screen, data, faults)
    )


def version_of(package: str) -> str | None:
    """The installed version of a package; None when it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _absent(packages: dict[str, str | None]) -> list[str]:
    return [name for name, found in packages.items() if found is None]


def _plugins() -> tuple[dict[str, str], list[PluginDiscoveryError]]:
    """Every entry point with "ok" or what is wrong with it."""
    found: dict[str, str] = {}
    errors = []
    for group in PLUGINS:
        for point in sorted(entry_points(group=group), key=lambda point: point.name):
            name = f"{group}:{point.name}"
            try:
                point.load()
            except Exception as exc:
                error = PluginDiscoveryError(name, f"{type(exc).__name__}: {exc}", where=point.value)
                errors.append(error)
                found[name] = error.detail
            else:
                found[name] = "ok"
    return found, errors


def _directories() -> list[str]:
    return list(dict.fromkeys([os.getcwd(), tempfile.gettempdir()]))


def _show(screen: Screen, data: dict[str, Any], faults: Sequence[Fault]) -> None:
    screen.pairs({name: data[name] for name in ("chainweaver", "location", "python", "executable", "platform")})
    screen.table(
        "packages", ("package", "version"), [(name, found or "missing") for name, found in data["packages"].items()]
    )
    screen.table(
        "extras",
        ("extra", "status", "needs"),
        [
            (
                name,
                "ok" if not _absent(needed) else "missing",
                ", ".join(f"{one} {found}" if found else f"{one} (not installed)" for one, found in needed.items()),
            )
            for name, needed in data["extras"].items()
        ],
    )
    if data["plugins"]:
        screen.table("plugins", ("plugin", "status"), list(data["plugins"].items()))
    writable = [(path, "yes" if is_writable else "no") for path, is_writable in data["writable"].items()]
    screen.table("directories", ("directory", "writable"), writable)
    screen.line()
    screen.line("everything is fine" if not faults else f"{counted(len(faults), 'problem')}")
