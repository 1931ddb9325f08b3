"""From what was typed to flows, tools and input values.

A flow comes from a file, or by its name from the modules that were given. Tools come from the modules that were given
with `--tools`; a command that runs flows otherwise takes the Python file beside the flow file that has the same stem.
Nothing is imported that was not named in one of these two ways. Called by the commands.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chainweaver.exceptions import CommandLineError, FlowNotFoundError, suggest
from chainweaver.flow import AnyFlow, DAGFlow, Flow
from chainweaver.formats import FlowFile, read_flow_file
from chainweaver.tools import Tool

FLOW_SUFFIXES = (".flow.yaml", ".flow.yml", ".flow.json")
_FILE_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True)
class Source:
    """A flow and where it was found.

    Attributes:
        flow: The flow.
        name: The file, or the module that defines it.
        file: The file with its places; None for a flow of a module.
    """

    flow: AnyFlow
    name: str
    file: FlowFile | None = None

    def place(self, step_id: str) -> str:
        """Where a step stands: "invoice.flow.yaml:14", or just the source where there are no lines."""
        if self.file is None:
            return self.name
        if isinstance(self.flow, DAGFlow):
            position = next((at for at, step in enumerate(self.flow.steps) if step.step_id == step_id), None)
        else:
            position = int(step_id)
        return self.name if position is None else self.file.step_place(position)


@dataclass(frozen=True, slots=True)
class Module:
    """A module that was loaded for its tools.

    Attributes:
        name: As it was asked for.
        tools: Its `Tool` objects, in the order of definition.
        flows: Its flows, in the order of definition.
    """

    name: str
    tools: tuple[Tool, ...]
    flows: tuple[AnyFlow, ...]


# ---- flows


def read_source(given: str, modules: Sequence[Module] = (), version: str | None = None) -> Source:
    """The flow that a FILE or a NAME stands for.

    A name means `NAME.flow.yaml` (or .yml, .json) in the current directory, else a flow that one of the modules has.

    Raises:
        CommandLineError: There is no such file.
        FlowNotFoundError: There is no flow of this name, or none in this version.
        FlowSerializationError: The file holds no flow.
    """
    path = given if _looks_like_path(given) else _file_of(given)
    if path is not None:
        source = read_file(path)
        if version is not None and source.flow.version != version:
            raise FlowNotFoundError(source.flow.name, version, known=[source.flow.version], where=path)
        return source
    return _flow_of_modules(given, modules, version)


def read_file(path: str) -> Source:
    """The flow in a file.

    Raises:
        CommandLineError: There is no such file, or it cannot be read.
        FlowSerializationError: It holds no flow.
    """
    try:
        file = read_flow_file(path)
    except FileNotFoundError:
        raise CommandLineError(f"There is no file '{path}'", fix=near_file(path)) from None
    except OSError as exc:
        raise CommandLineError(f"File '{path}' cannot be read: {exc.strerror}") from exc
    return Source(file.flow, path, file)


def _looks_like_path(given: str) -> bool:
    return given.endswith(_FILE_SUFFIXES) or os.sep in given or "/" in given or os.path.exists(given)


def _file_of(name: str) -> str | None:
    return next((name + suffix for suffix in FLOW_SUFFIXES if os.path.isfile(name + suffix)), None)


def near_file(path: str, suffixes: tuple[str, ...] = _FILE_SUFFIXES) -> str | None:
    """What to say about a file that is not there; names are compared without suffix, which they all have in common."""
    folder, name = os.path.split(path)
    try:
        names = {one.split(".")[0]: one for one in sorted(os.listdir(folder or ".")) if one.endswith(suffixes)}
    except OSError:
        return f"there is no directory '{folder}' either"
    near = suggest(name.split(".")[0], names)
    return None if near is None else f"did you mean '{os.path.join(folder, names[near])}'?"


def _flow_of_modules(name: str, modules: Sequence[Module], version: str | None) -> Source:
    from chainweaver.registry import FlowRegistry

    registry = FlowRegistry()
    places: dict[tuple[str, str], str] = {}
    for module in modules:
        for flow in module.flows:
            registry.register_flow(flow, overwrite=True)
            places[flow.name, flow.version] = module.name
    try:
        flow = registry.get_flow(name, version=version)
    except FlowNotFoundError as exc:
        fix = f"give a file, put {name}{FLOW_SUFFIXES[0]} here, or name the module that defines it with --tools"
        raise exc.with_facts(fix=fix) if not exc.known else exc from None
    return Source(flow, places[flow.name, flow.version])


# ---- tools


def companion_of(path: str) -> str | None:
    """The Python file with the same stem beside a flow file; None when there is none.

    `audit.py` belongs to `audit.flow.yaml`, to `audit.flow.json` and to `audit.yaml`.
    """
    folder, name = os.path.split(path)
    ending = next((one for one in (*FLOW_SUFFIXES, *_FILE_SUFFIXES) if name.endswith(one)), "")
    beside = os.path.join(folder, name.removesuffix(ending) + ".py")
    return beside if os.path.isfile(beside) else None


def load_modules(names: Iterable[str]) -> list[Module]:
    """Import the modules and find what they define.

    Raises:
        CommandLineError: A module does not exist, fails when it is imported, or two define different tools of a name.
    """
    modules = [_load(name) for name in names]
    tools_of(modules)
    return modules


def tools_of(modules: Iterable[Module]) -> dict[str, Tool]:
    """Name -> tool over all modules; a tool that one module imports from another is one tool.

    Raises:
        CommandLineError: Two modules define different tools of a name.
    """
    found: dict[str, Tool] = {}
    origin: dict[str, str] = {}
    for module in modules:
        for tool in module.tools:
            if found.setdefault(tool.name, tool) is not tool:
                raise CommandLineError(
                    f"Tool '{tool.name}' is defined twice: in '{origin[tool.name]}' and in '{module.name}'",
                    invalid=True,
                    fix="rename one of them, or leave one of the modules out",
                )
            origin.setdefault(tool.name, module.name)
    return found


def _load(name: str) -> Module:
    # A file that was written a moment ago may not be in the listings that the import system keeps.
    importlib.invalidate_caches()
    module = _import_file(name) if name.endswith(".py") or os.sep in name or "/" in name else _import_name(name)
    values = list(vars(module).values())
    return Module(
        name,
        tuple({id(one): one for one in values if isinstance(one, Tool)}.values()),
        tuple({id(one): one for one in values if isinstance(one, (Flow, DAGFlow))}.values()),
    )


def _import_name(name: str) -> Any:
    # As `python -m` does: modules of the current directory can be named.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not (name == exc.name or name.startswith(f"{exc.name}.")):
            raise _failed(name, exc) from exc
        near = f"{name}.py" if os.path.isfile(f"{name}.py") else None
        fix = f"did you mean '{near}'?" if near else "give a Python file, or the dotted name of an installed module"
        raise CommandLineError(f"There is no module '{name}'", fix=fix) from None
    except (Exception, SystemExit) as exc:
        raise _failed(name, exc) from exc


def _import_file(name: str) -> Any:
    path = Path(name).resolve()
    if not path.is_file():
        raise CommandLineError(f"There is no file '{name}'", fix=near_file(name, (".py",)))
    # As for a script: modules beside it can be imported.
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        return _module_at(path)
    except (Exception, SystemExit) as exc:
        raise _failed(name, exc) from exc


def _module_at(path: Path) -> Any:
    """The module in a file, under the name of its stem, so that references such as "audit:Report" mean this module.

    Where another module has that name already, the file gets a name of its own.
    """
    if path.stem.isidentifier():
        if path.stem not in sys.modules:
            spec = importlib.util.find_spec(path.stem)
            if spec is not None and spec.origin is not None and Path(spec.origin) == path:
                return importlib.import_module(path.stem)
        elif _is_of(sys.modules[path.stem], path):
            return sys.modules[path.stem]
    own_name = f"_{path.stem}_{hashlib.blake2b(os.fsencode(path), digest_size=8).hexdigest()}"
    if own_name in sys.modules:
        return sys.modules[own_name]
    spec = importlib.util.spec_from_file_location(own_name, path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    # Annotations of models are resolved through sys.modules while the file is still running.
    sys.modules[own_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[own_name]
        raise
    return module


def _is_of(module: Any, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve() == path


def _failed(name: str, exc: BaseException) -> CommandLineError:
    error = CommandLineError(
        f"Module '{name}' cannot be imported: {type(exc).__name__}: {exc}",
        invalid=True,
        where=_line_of(exc),
        fix="correct the module; --traceback shows the whole way to the error",
    )
    error.__cause__ = exc
    return error


def _line_of(exc: BaseException) -> str | None:
    """The file and line that an exception came from; for a syntax error those that it is about."""
    if isinstance(exc, SyntaxError) and exc.filename:
        return f"{exc.filename}:{exc.lineno}"
    frame = exc.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return None if frame is None else f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}"


# ---- values


def read_input(given: str) -> dict[str, Any]:
    """The input of a flow: a JSON object as text, `@file` to read it from, or `@-` for stdin.

    Raises:
        CommandLineError: The file does not exist, or this is no JSON object.

    >>> read_input('{"n": 1}')
    {'n': 1}
    """
    in_file = given.startswith("@")
    text, what = (_text_of(given[1:]), f"--input {given}") if in_file else (given, "--input")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as exc:
        raise CommandLineError(
            f"{what} is no JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}",
            invalid=in_file,
            fix="""write an object such as --input '{"name": "value"}', or --input @file.json""",
        ) from None
    except (ValueError, RecursionError) as exc:
        raise CommandLineError(f"{what} is no JSON: {exc}", invalid=in_file) from None
    if not isinstance(value, dict):
        raise CommandLineError(
            f"{what} is a JSON {_JSON_NAMES[type(value)]}, not an object",
            invalid=in_file,
            fix="""write {"name": value, ...}""",
        )
    return value


_JSON_NAMES = {list: "array", str: "string", int: "number", float: "number", bool: "truth value", type(None): "null"}


def _text_of(path: str) -> str:
    try:
        if path == "-":
            return sys.stdin.read()
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise CommandLineError(f"There is no file '{path}' to read the input from") from None
    except (OSError, UnicodeDecodeError) as exc:
        is_there = isinstance(exc, UnicodeDecodeError)
        raise CommandLineError(f"The input cannot be read from '{path}': {exc}", invalid=is_there) from exc


def read_params(given: Iterable[str], flow: AnyFlow) -> dict[str, Any]:
    """Dynamic parameters from `name=value` pairs; a value that is JSON is read as such, any other is text.

    Raises:
        CommandLineError: A pair has no name or no `=`, a name comes twice, or the flow has no such parameter.

    >>> flow = Flow(name="f", description="", steps=[], dynamic_params=("region", "limit"))
    >>> read_params(["region=eu", "limit=3"], flow)
    {'region': 'eu', 'limit': 3}
    """
    values: dict[str, Any] = {}
    for pair in given:
        name, sign, text = pair.partition("=")
        if not sign or not name:
            raise CommandLineError(f"--param '{pair}' is not of the form name=value")
        if name in values:
            raise CommandLineError(f"--param '{name}' is given twice")
        if name not in flow.dynamic_params:
            near = suggest(name, flow.dynamic_params)
            raise CommandLineError(
                f"--param '{name}' is no dynamic parameter of flow '{flow.name}'",
                known=flow.dynamic_params,
                fix=f"did you mean '{near}'?" if near else "values of the context are given with --input",
            )
        try:
            values[name] = json.loads(text)
        except (ValueError, RecursionError):
            values[name] = text
    return values
