"""How a tool is found again in a fresh process: by importing its module and looking under a name.

Code is never sent. What has no name that an import leads to cannot run there, and is told so before anything starts.
Called by the executor (before a run), by `processes` (which sends the names) and by `worker` (which follows them).
"""

from __future__ import annotations

import contextvars
import functools
import importlib
import inspect
import os
import pickle
import runpy
import sys
from collections.abc import Iterable, Mapping, Sequence
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
    raise Nameless(_why_nameless(tool, planned.fn, home))


def led_to(planned: PlannedTool, name: ToolName) -> tuple[Any, ...]:
    """What a name of a tool leads to here; something else once the tool was replaced."""
    return (planned.origin,) if name.schema is None else (planned.fn, planned.origin.input_schema)


def _why_nameless(tool: Any, function: Any, home: str) -> str:
    where = vars(tool).get("__qualname__") or getattr(inspect.unwrap(function), "__qualname__", "")
    if "<locals>" in where or "<lambda>" in where:
        return f"it is made inside a function, and module '{home}' has no name for it; define it at the top level"
    if home == "__main__" and where.partition(".")[0] in _below_guard():
        return "it is defined below `if __name__ == '__main__'`, which a worker does not run; define it above"
    if isinstance(_walk(sys.modules[home], where), Tool):
        return f"module '{home}' has another tool of its name now, as after a reload; register that one"
    return f"module '{home}' has no name for it"


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
    hidden = _below_guard() if home == "__main__" else ()
    path = vars(tool).get("__qualname__")
    if isinstance(path, str) and _walk(module, path) is tool and path.partition(".")[0] not in hidden:
        return Name(home, path)
    for name, value in list(vars(module).items()):
        if name in hidden:
            continue
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
    if home == "__main__" and path.partition(".")[0] in _below_guard():
        return None
    return Name(home, path)


def _walk(found: Any, path: str) -> Any:
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


# ---- names that only the program itself has


def _below_guard() -> frozenset[str]:
    """The names of the program that a worker does not have, since it does not run what is below the guard."""
    path = getattr(sys.modules["__main__"], "__file__", None)
    try:
        return frozenset() if path is None else _read_below_guard(path, os.stat(path).st_mtime_ns)
    except OSError:
        return frozenset()


@functools.lru_cache(maxsize=1)
def _read_below_guard(path: str, changed_ns: int) -> frozenset[str]:
    import ast

    try:
        with open(path, "rb") as file:
            program = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):  # no Python in this file: what it is made of cannot be known
        return frozenset()
    below, elsewhere = set[str](), set[str]()
    for statement in program.body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) in GUARDS:
            below |= _bound_by(statement.body)
            elsewhere |= _bound_by(statement.orelse)
        else:
            elsewhere |= _bound_by([statement])
    return frozenset(below - elsewhere)


GUARDS = ("__name__ == '__main__'", "'__main__' == __name__")


def _bound_by(statements: Iterable[Any]) -> set[str]:
    """The names that statements give something to, apart from those inside of functions and classes."""
    import ast

    found, left = set[str](), list(statements)
    while left:
        node = left.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        left += ast.iter_child_nodes(node)
    return found


# ---- in the worker


class NotThere(LookupError):
    """A name leads to nothing in this process."""


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
        NotThere: The name leads to nothing, or to something else.
    """
    found = _follow(name.tool)
    if name.schema is not None:
        return Found(found, _follow(name.schema), None)
    if not isinstance(found, Tool):
        raise _not_there(name.tool)
    return Found(getattr(found, name.attribute), found.input_schema, found.output_schema)


def _follow(name: Name) -> Any:
    found = _walk(imported(name.module), name.path)
    if name.item is not None and found is not None:
        try:
            found = found[name.item]
        except LookupError:
            found = None
    if found is None:
        raise _not_there(name)
    return found


def _not_there(name: Name) -> NotThere:
    item = "" if name.item is None else f"[{name.item!r}]"
    return NotThere(
        f"a worker that imports module '{name.module}' finds no tool at '{name.path}{item}'; define it at the top "
        "level of the module, above `if __name__ == '__main__':`"
    )


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
