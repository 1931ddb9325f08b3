"""How a tool is found again in a fresh process: by importing its module and looking under a name.

Code is never sent. What has no name that an import leads to cannot run there, and is told so before anything starts.
Called by the executor (before a run), by `processes` (which sends the names) and by `worker` (which follows them).
"""

from __future__ import annotations

import contextvars
import importlib
import inspect
import os
import pickle
import runpy
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from chainweaver.lanes.wire import MAINS
from chainweaver.tools.definition import Tool

if TYPE_CHECKING:
    from chainweaver.plan import PlannedTool


class Name(NamedTuple):
    """Where something is found.

    Attributes:
        module: The module, as `import` knows it.
        path: Attributes from there on, with dots.
        item: Position or key in the container that these lead to; None where they lead to the thing itself.
    """

    module: str
    path: str
    item: int | str | None = None


class ToolName(NamedTuple):
    """Where a tool is found.

    Attributes:
        tool: A tool object, or a bare function.
        attribute: Which function of the tool is called: "fn" or "dry_run_fn".
        schema: Its input model, where `tool` is a bare function.
    """

    tool: Name
    attribute: str
    schema: Name | None = None


class Nameless(Exception):
    """No name leads there; says why."""


def name_of(planned: PlannedTool) -> ToolName:
    """Where a worker finds a tool.

    Raises:
        Nameless: It has no name in its module, or its module cannot be imported again.
        RuntimeError: The program is being loaded in a worker, and would start workers again.
    """
    _refuse_while_loading()
    tool = planned.origin
    if tool is None:
        raise Nameless("it belongs to no registered tool")
    if planned.streams:
        raise Nameless(f"its field '{planned.streams[0]}' is a stream, which is read and made in one process")
    attribute = "fn" if planned.fn is tool.fn else "dry_run_fn"
    if planned.fn is not getattr(tool, attribute):
        raise Nameless("its function was replaced")
    home = _home_of(tool)
    module = sys.modules.get(home)
    if module is None:
        raise Nameless(f"its module '{home}' is not there to be imported")
    _check_importable(home)
    found = _listed(tool, home, module)
    if found is not None:
        return ToolName(found, attribute)
    function, schema = _own_name(planned.fn), _own_name(tool.input_schema)
    if function is not None and schema is not None:
        return ToolName(function, attribute, schema)
    where = getattr(inspect.unwrap(planned.fn), "__qualname__", "")
    if "<locals>" in where or "<lambda>" in where:
        raise Nameless(f"it is made inside a function, and module '{home}' has no name for it")
    raise Nameless(f"module '{home}' has no name for it")


def _home_of(tool: Any) -> str:
    own = vars(tool).get("__module__")
    if own is None:
        own = getattr(inspect.unwrap(tool.fn), "__module__", None)
    return str(own)


def _check_importable(module: str) -> None:
    if module == "__main__":
        main_of_program()
    elif getattr(sys.modules.get(module), "__spec__", None) is None:
        raise Nameless(f"its module '{module}' was not imported from anywhere")


def _listed(tool: Any, home: str, module: object) -> Name | None:
    """The name of a tool object, or its place in a list or dict of tools that has a name."""
    path = vars(tool).get("__qualname__")
    if isinstance(path, str) and _walk(module, path) is tool:
        return Name(home, path)
    for name, value in list(vars(module).items()):
        if value is tool:
            return Name(home, name)
        if type(value) in (list, tuple):
            for place, item in enumerate(value):
                if item is tool:
                    return Name(home, name, place)
        elif isinstance(value, Mapping) and type(value) is dict:
            for key, item in value.items():
                if item is tool and isinstance(key, (int, str)):
                    return Name(home, name, key)
        elif type(value).__name__ == "FlowExecutor" and value.registered_tools.get(tool.name) is tool:
            return Name(home, f"{name}.registered_tools", tool.name)
    return None


def _own_name(thing: Any) -> Name | None:
    """The name that a function or class has of itself, when it is true."""
    home, path = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(home, str) or not isinstance(path, str):
        return None
    module = sys.modules.get(home)
    if module is None or _walk(module, path) is not thing:
        return None
    return Name(home, path)


def _walk(found: Any, path: str) -> Any:
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


# ---- in the worker


class Found(NamedTuple):
    """A tool, in a worker.

    Attributes:
        schema: Its input model.
        gives: Its output model, where known.
    """

    fn: Any
    schema: Any
    gives: Any


def find(name: ToolName) -> Found:
    """The tool of a name.

    Raises:
        Exception: Whatever importing the module raises.
        LookupError: The name leads to nothing, or to something else.
    """
    found = _follow(name.tool)
    if name.schema is not None:
        return Found(found, _follow(name.schema), None)
    if not isinstance(found, Tool):
        raise LookupError(f"'{name.tool.path}' of module '{name.tool.module}' is no tool here")
    return Found(getattr(found, name.attribute), found.input_schema, found.output_schema)


def _follow(name: Name) -> Any:
    found = _walk(imported(name.module), name.path)
    if name.item is not None and found is not None:
        found = found[name.item]
    if found is None:
        raise LookupError(f"module '{name.module}' has no '{name.path}' here")
    return found


def imported(module: str) -> Any:
    """A module of the program; the one that was started as a program goes by another name in a worker."""
    if module == "__main__" and MAINS[0] in sys.modules:
        return sys.modules[MAINS[0]]
    return importlib.import_module(module)


# ---- the program itself


def main_of_program() -> tuple[str, str]:
    """How the program is loaded again: ("name", its module) or ("path", its file).

    Raises:
        Nameless: It is no file: a notebook, an interactive session, a text on the command line.
    """
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return "name", str(spec.name)
    path = getattr(main, "__file__", None)
    if path is None or not os.path.exists(path):
        raise Nameless("it is defined in a program that is no file; put it into a module")
    return "path", os.path.abspath(path)


IS_LOADING = False
"""This process is a worker, about to load the program of its owner."""


def load_main(kind: str, place: str) -> None:
    """Load the program of the owner here, under a name that keeps `if __name__ == "__main__"` from running."""
    global IS_LOADING
    if MAINS[0] in sys.modules:
        return
    module = type(sys)(MAINS[0])
    IS_LOADING = True
    try:
        # The loader puts the module under this name while it runs, and takes it away afterwards.
        run = runpy.run_module if kind == "name" else runpy.run_path
        vars(module).update(run(place, run_name=MAINS[0]))
    finally:
        IS_LOADING = False
    # For whoever looks a class up by the name that it has in the owner.
    sys.modules[MAINS[0]] = sys.modules["__main__"] = module


def _refuse_while_loading() -> None:
    """Keep a program that runs flows when it is imported from starting workers that import it, and so on for ever."""
    if IS_LOADING:
        raise RuntimeError(
            "A worker process loads this program to find its tools, and the program starts worker processes again. Put "
            "what it runs below `if __name__ == '__main__':`."
        )


# ---- context variables

SentVariables = Sequence[tuple[str, str, bytes]]


def variables_of(name: ToolName) -> SentVariables:
    """The context variables that a call takes along: those that the module of the tool has a name for.

    A tool reaches a variable by a name in its module. Values that cannot be pickled stay behind.
    """
    module = sys.modules.get(name.tool.module)
    sent = []
    for key, variable in list(vars(module).items()) if module is not None else ():
        if type(variable) is contextvars.ContextVar:
            try:
                sent.append((name.tool.module, key, pickle.dumps(variable.get(), protocol=5)))
            except Exception:  # not set, or of a kind that stays where it is
                continue
    return sent


def set_variables(sent: SentVariables) -> None:
    """Give context variables the values that they have for the caller."""
    for module, key, value in sent:
        variable = getattr(imported(module), key, None)
        if type(variable) is contextvars.ContextVar:
            variable.set(pickle.loads(value))  # noqa: S301 - from our own process, see `wire`
