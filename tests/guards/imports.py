"""Reads imports out of source text and says which of them break the house rules. Imports nothing it judges.

Two rules are checked, both on a mapping from path ("chainweaver/flow/steps.py") to source text, so that a planted
violation can be checked just as the real package is:

* the layer rule: a room imports only rooms below it (`LAYERS`), apart from the reviewed `EXEMPTIONS`;
* the import contract: nothing that performs can be reached from the run core and the plan (`FORBIDDEN`).

An import under `TYPE_CHECKING` does not happen at run time, so the contract ignores it; it is knowledge about another
room all the same, so the layer rule counts it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import NamedTuple

PACKAGE = "chainweaver"

LAYERS: tuple[frozenset[str], ...] = tuple(
    map(
        frozenset,
        (
            {"exceptions", "_lazy"},
            {"canonical", "runtime"},
            {"flow"},
            {"formats", "viz"},
            {"plan"},
            {"tools", "_execution"},
            {"registry"},
            {"objects"},
            {"compiler"},
            {"results"},
            {"cache", "checkpoint", "observe"},
            {"sql"},
            {"lanes"},
            {"executor"},
            {"testing"},
            {"contrib", "integrations", "cli", "export"},
            {"__main__"},
        ),
    )
)
"""The rooms, lowest first. A room may import rooms of lower layers and itself, not its neighbours in the same layer."""

HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}

FORBIDDEN = frozenset(
    (
        *("asyncio", "anyio", "trio", "sniffio", "threading", "_thread", "concurrent", "multiprocessing"),
        *("subprocess", "queue", "sched", "signal", "select", "selectors"),
        *("time", "datetime", "zoneinfo", "calendar", "timeit"),
        *("random", "_random", "secrets", "uuid"),
        *("socket", "socketserver", "ssl", "http", "urllib", "ftplib", "smtplib", "imaplib", "poplib", "xmlrpc"),
        *("requests", "httpx", "aiohttp", "urllib3", "websockets", "grpc"),
        *("openai", "anthropic", "langchain", "langchain_core", "llama_index", "litellm", "cohere", "mistralai"),
        *("google", "transformers", "ollama", "mcp"),
        *("sqlite3", "logging", "pathlib", "tempfile", "shutil", "glob"),
    )
)
"""Top-level modules that must not be reachable from the run core and the plan."""

CORE_ROOTS = ("chainweaver._execution", "chainweaver.plan")


class Import(NamedTuple):
    """One import statement, or one dynamic import whose argument is a literal."""

    importer: str  # dotted name of the module that imports
    target: str  # dotted name that is imported, as far as the source tells: "chainweaver.flow.Flow"
    line: int
    function: str  # qualified name of the enclosing function; "" at module level
    typing_only: bool


class Violation(NamedTuple):
    """One broken rule. `str()` is the sentence that the failing test shows."""

    path: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


def module_name(path: str) -> str:
    """`chainweaver/flow/__init__.py` is `chainweaver.flow`."""
    parts = path.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The second part of the dotted name; "" for the package itself and for other packages."""
    parts = module.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else ""


def imports_of(path: str, source: str) -> list[Import]:
    """All imports of a file, wherever they stand, relative ones resolved against the package of the file."""
    reader = _Reader(module_name(path), is_package=path.endswith("/__init__.py"))
    reader.visit(ast.parse(source, filename=path))
    return reader.found


class _Reader(ast.NodeVisitor):
    """Walks one file and remembers in which function, and whether under TYPE_CHECKING, an import stands."""

    def __init__(self, module: str, *, is_package: bool) -> None:
        self.module = module
        self.package = module if is_package else module.rpartition(".")[0]
        self.scope: list[str] = []
        self.functions = 0
        self.typing_only = False
        self.found: list[Import] = []

    def _add(self, target: str, line: int) -> None:
        function = ".".join(self.scope) if self.functions else ""
        self.found.append(Import(self.module, target, line, function, self.typing_only))

    def _absolute(self, level: int, name: str) -> str:
        if level == 0:
            return name
        parts = self.package.split(".")
        base = ".".join(parts[: len(parts) - (level - 1)])
        return f"{base}.{name}" if name else base

    def visit_Import(self, statement: ast.Import) -> None:
        for alias in statement.names:
            self._add(alias.name, statement.lineno)

    def visit_ImportFrom(self, statement: ast.ImportFrom) -> None:
        base = self._absolute(statement.level, statement.module or "")
        for alias in statement.names:
            self._add(base if alias.name == "*" else f"{base}.{alias.name}", statement.lineno)

    def visit_Call(self, call: ast.Call) -> None:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name in ("import_module", "__import__") and call.args:
            first = call.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                dots = len(first.value) - len(first.value.lstrip("."))
                self._add(self._absolute(dots, first.value.lstrip(".")), call.lineno)
        self.generic_visit(call)

    def visit_If(self, statement: ast.If) -> None:
        test = ast.unparse(statement.test)
        if test not in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            self.generic_visit(statement)
            return
        outer, self.typing_only = self.typing_only, True
        for inner in statement.body:
            self.visit(inner)
        self.typing_only = outer
        for inner in statement.orelse:
            self.visit(inner)

    def _nested(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, functions: int) -> None:
        self.scope.append(node.name)
        self.functions += functions
        self.generic_visit(node)
        self.functions -= functions
        self.scope.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._nested(node, 1)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._nested(node, 1)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._nested(node, 0)


def layer_violations(files: Mapping[str, str], exemptions: Mapping[tuple[str, str], str]) -> list[Violation]:
    """Imports that go upwards or sideways.

    Args:
        files: Source text by path.
        exemptions: Reviewed exceptions: (place, room) to the reason. A place is "module:Qualified.function"; only an
            import inside that function is excused, never one at module level.
    """
    broken: list[Violation] = []
    for path, source in sorted(files.items()):
        own = room_of(module_name(path))
        if own == "":
            continue  # the root names every room; what it loads at import is measured by test_import_cost
        if own not in HEIGHT:
            broken.append(Violation(path, 1, f"room '{own}' has no place in LAYERS"))
            continue
        for one in imports_of(path, source):
            room = room_of(one.target)
            if one.target == PACKAGE or (one.target.startswith(f"{PACKAGE}.") and room not in HEIGHT):
                broken.append(Violation(path, one.line, f"'{own}' imports '{one.target}' through the root"))
            elif room and room != own and HEIGHT[room] >= HEIGHT[own] and _excuse(one, room) not in exemptions:
                broken.append(Violation(path, one.line, f"'{own}' imports '{one.target}' from a room not below it"))
    return broken


def _excuse(one: Import, room: str) -> tuple[str, str]:
    place = "TYPE_CHECKING" if one.typing_only and not one.function else one.function
    return (f"{one.importer}:{place}", room)


def unused_exemptions(files: Mapping[str, str], exemptions: Mapping[tuple[str, str], str]) -> list[tuple[str, str]]:
    """Exemptions that no import needs any more."""
    used = {
        _excuse(one, room_of(one.target))
        for path, source in files.items()
        for one in imports_of(path, source)
        if one.function or one.typing_only
    }
    return sorted(set(exemptions) - used)


def contract_violations(files: Mapping[str, str], roots: tuple[str, ...] = CORE_ROOTS) -> list[Violation]:
    """Forbidden modules that can be reached from the roots, each with the way to it.

    Follows imports inside the package, at module level and inside functions alike: a lazy import is still a way to
    perform something.
    """
    modules = {module_name(path): path for path in files}
    graph = {
        module: [one for one in imports_of(path, files[path]) if not one.typing_only]
        for module, path in modules.items()
    }
    start = [module for module in modules if any(module == root or module.startswith(f"{root}.") for root in roots)]
    ways: dict[str, tuple[str, ...]] = {module: (module,) for module in sorted(start)}
    todo = sorted(start)
    broken: list[Violation] = []
    while todo:
        module = todo.pop(0)
        for one in graph[module]:
            top = one.target.split(".")[0]
            if top in FORBIDDEN:
                way = " -> ".join((*ways[module], one.target))
                broken.append(Violation(modules[module], one.line, f"the run core reaches '{top}': {way}"))
            for reached in _reached(one.target, modules):
                if reached not in ways:
                    ways[reached] = (*ways[module], reached)
                    todo.append(reached)
    return broken


def _reached(target: str, modules: Mapping[str, str]) -> Iterator[str]:
    """Modules of the package that run when the target is imported: its packages from outside in, then itself.

    The root package is left out: it loads every room lazily and nothing by itself.
    """
    parts = target.split(".")
    for length in range(2, len(parts) + 1):
        name = ".".join(parts[:length])
        if name in modules:
            yield name
