"""Tools that audit a tree of Python modules, by default the standard library of the running interpreter.

Every tool is an ordinary typed function: it can be called, tested and reused without a flow. The flow that wires them
is in stdlib_audit.flow.yaml beside this file:

    find_modules -> (count_lines | measure_functions | collect_imports | check_docstrings) -> join_measures
                 -> rank_findings -> write_report

The code under audit is read and parsed, never imported.
"""

from __future__ import annotations

import ast
import json
import sys
import sysconfig
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel
from typing_extensions import TypedDict

from chainweaver import tool

SKIPPED_DIRECTORIES = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
TOP = 20
"""Rows of each ranking in the report."""
SHOWN = 3
"""Rows of each ranking in the table of findings."""
SINGLE_MODULES = "(single modules)"

Function = ast.FunctionDef | ast.AsyncFunctionDef


# What travels between the tools


class Module(BaseModel):
    """A source file and the dotted name it is imported by."""

    name: str
    path: str
    is_package: bool


class ModuleSize(BaseModel):
    """Lines of one module. `code` are lines that are neither blank nor comments only."""

    module: str
    lines: int
    code: int
    comments: int


class FunctionMeasure(BaseModel):
    """One function or method. Functions defined inside it are measured on their own and do not count here as branches.

    Attributes:
        branches: Number of decisions: `if`, loops, `except`, `match` cases, conditional expressions, comprehension
            conditions, and each `and` / `or`.
    """

    module: str
    name: str
    line: int
    lines: int
    branches: int


class ImportEdge(BaseModel):
    """Module `source` imports module `target`; both are under audit.

    Attributes:
        eager: Whether it happens while `source` itself is imported, as opposed to inside a function.
    """

    source: str
    target: str
    eager: bool


class DocumentedShare(BaseModel):
    """How many public modules, classes, functions and methods of one package have a docstring."""

    package: str
    public: int
    documented: int

    @property
    def percent(self) -> float:
        """Documented share in percent; 100 where nothing is public."""
        return round(100 * self.documented / self.public, 1) if self.public else 100.0


class ModuleProfile(BaseModel):
    """Everything measured about one module."""

    module: str
    lines: int
    code: int
    functions: int
    branches: int
    imports: int
    imported_by: int


class FoundModules(BaseModel):
    """Output of `find_modules`."""

    library_root: str
    modules: list[Module]


class LineCounts(BaseModel):
    """Output of `count_lines`."""

    sizes: list[ModuleSize]


class FunctionMeasures(BaseModel):
    """Output of `measure_functions`."""

    functions: list[FunctionMeasure]
    unparsable: list[str]


class ImportGraph(BaseModel):
    """Output of `collect_imports`."""

    imports: list[ImportEdge]


class DocstringCoverage(BaseModel):
    """Output of `check_docstrings`."""

    coverage: list[DocumentedShare]


class Profiles(BaseModel):
    """Output of `join_measures`."""

    profiles: list[ModuleProfile]


class Ranking(BaseModel):
    """The longest lists, cut to what a person reads. Cycles are shortest closed walks, one for each knot of modules."""

    modules: int
    lines: int
    functions: int
    longest_functions: list[FunctionMeasure]
    most_branches: list[FunctionMeasure]
    largest_modules: list[ModuleProfile]
    import_hubs: list[ModuleProfile]
    import_cycles: list[list[str]]
    least_documented: list[DocumentedShare]


class Finding(TypedDict):
    """A row of the table that the command line prints."""

    finding: str
    where: str
    value: str


class RankedFindings(BaseModel):
    """Output of `rank_findings`."""

    ranking: Ranking
    findings: list[Finding]


class Report(BaseModel):
    """Output of `write_report`: where the two files lie."""

    markdown_report: str
    json_report: str


# The tools, in the order of the flow


@tool
def find_modules(root: str = "") -> FoundModules:
    """List the modules below a directory in order of their names, tests and installed packages left out.

    An empty `root` means the standard library of the running interpreter.
    """
    top = Path(root or sysconfig.get_path("stdlib")).resolve()
    if not top.is_dir():
        raise NotADirectoryError(f"There is no directory to audit at '{top}'.")
    modules = [_module_at(path, top) for path in _source_files(top)]
    return FoundModules(library_root=str(top), modules=sorted(modules, key=lambda module: module.name))


@tool
def count_lines(modules: list[Module]) -> LineCounts:
    """Count the lines of every module."""
    return LineCounts(sizes=[_size_of(module) for module in modules])


@tool
def measure_functions(modules: list[Module]) -> FunctionMeasures:
    """Measure length and number of branches of every function."""
    functions: list[FunctionMeasure] = []
    unparsable: list[str] = []
    for module in modules:
        tree = _tree_of(module)
        if tree is None:
            unparsable.append(module.name)
        else:
            functions.extend(_measure(module.name, name, node) for name, node in _functions_in(tree))
    return FunctionMeasures(functions=functions, unparsable=unparsable)


@tool
def collect_imports(modules: list[Module]) -> ImportGraph:
    """Find which of the modules import which others, once per pair."""
    known = {module.name for module in modules}
    edges: list[ImportEdge] = []
    for module in modules:
        tree = _tree_of(module)
        if tree is None:
            continue
        eager_by_target: dict[str, bool] = {}
        for statement, eager in _import_statements(tree):
            for target in _targets_of(statement, module, known):
                eager_by_target[target] = eager_by_target.get(target, False) or eager
        eager_by_target.pop(module.name, None)
        edges.extend(
            ImportEdge(source=module.name, target=target, eager=eager)
            for target, eager in sorted(eager_by_target.items())
        )
    return ImportGraph(imports=edges)


@tool
def check_docstrings(modules: list[Module]) -> DocstringCoverage:
    """Count public objects with and without a docstring, by package."""
    public: Counter[str] = Counter()
    documented: Counter[str] = Counter()
    packages = {module.name for module in modules if module.is_package and "." not in module.name}
    for module in modules:
        tree = None if _is_private(module.name) else _tree_of(module)
        if tree is None:
            continue
        top = module.name.partition(".")[0]
        package = top if top in packages else SINGLE_MODULES
        for node in _public_objects(tree):
            public[package] += 1
            documented[package] += ast.get_docstring(node, clean=False) is not None
    return DocstringCoverage(
        coverage=[
            DocumentedShare(package=package, public=public[package], documented=documented[package])
            for package in sorted(public)
        ]
    )


@tool
def join_measures(sizes: list[ModuleSize], functions: list[FunctionMeasure], imports: list[ImportEdge]) -> Profiles:
    """Bring together what the measuring tools found about each module."""
    count = Counter(function.module for function in functions)
    branches: Counter[str] = Counter()
    for function in functions:
        branches[function.module] += function.branches
    leaving = Counter(edge.source for edge in imports)
    arriving = Counter(edge.target for edge in imports)
    return Profiles(
        profiles=[
            ModuleProfile(
                module=size.module,
                lines=size.lines,
                code=size.code,
                functions=count[size.module],
                branches=branches[size.module],
                imports=leaving[size.module],
                imported_by=arriving[size.module],
            )
            for size in sizes
        ]
    )


@tool
def rank_findings(
    profiles: list[ModuleProfile],
    functions: list[FunctionMeasure],
    imports: list[ImportEdge],
    coverage: list[DocumentedShare],
) -> RankedFindings:
    """Put the most remarkable of every kind first. Ties are settled by name, so two audits of one tree agree."""
    ranking = Ranking(
        modules=len(profiles),
        lines=sum(profile.lines for profile in profiles),
        functions=len(functions),
        longest_functions=sorted(functions, key=lambda f: (-f.lines, f.module, f.name, f.line))[:TOP],
        most_branches=sorted(functions, key=lambda f: (-f.branches, f.module, f.name, f.line))[:TOP],
        largest_modules=sorted(profiles, key=lambda p: (-p.lines, p.module))[:TOP],
        import_hubs=sorted(profiles, key=lambda p: (-p.imported_by, p.module))[:TOP],
        import_cycles=_import_cycles(imports)[:TOP],
        least_documented=sorted(coverage, key=lambda share: (share.percent, share.package))[:TOP],
    )
    return RankedFindings(ranking=ranking, findings=_findings(ranking))


@tool
def write_report(
    report_dir: str,
    library_root: str,
    ranking: Ranking,
    profiles: list[ModuleProfile],
    coverage: list[DocumentedShare],
    unparsable: list[str],
) -> Report:
    """Write stdlib_audit.md for people and stdlib_audit.json for programs into a directory, made when missing."""
    directory = Path(report_dir)
    directory.mkdir(parents=True, exist_ok=True)
    markdown = directory / "stdlib_audit.md"
    markdown.write_text(_markdown(library_root, ranking, unparsable), encoding="utf-8")
    data = directory / "stdlib_audit.json"
    document = {
        "library_root": library_root,
        "python": sys.version.split()[0],
        "ranking": ranking.model_dump(),
        "profiles": [profile.model_dump() for profile in profiles],
        "coverage": [{**share.model_dump(), "percent": share.percent} for share in coverage],
        "unparsable": unparsable,
    }
    data.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return Report(markdown_report=str(markdown), json_report=str(data))


# Files and syntax trees


def _source_files(directory: Path) -> Iterator[Path]:
    """The Python files below a directory that can be imported by name."""
    for path in sorted(directory.iterdir()):
        if path.is_dir():
            if path.name.isidentifier() and path.name not in SKIPPED_DIRECTORIES:
                yield from _source_files(path)
        elif path.suffix == ".py" and path.stem.isidentifier():
            yield path


def _module_at(path: Path, top: Path) -> Module:
    parts = path.relative_to(top).with_suffix("").parts
    is_package = parts[-1] == "__init__" and len(parts) > 1
    return Module(name=".".join(parts[:-1] if is_package else parts), path=str(path), is_package=is_package)


def _size_of(module: Module) -> ModuleSize:
    lines = [line.strip() for line in Path(module.path).read_bytes().splitlines()]
    comments = sum(line.startswith(b"#") for line in lines)
    return ModuleSize(module=module.name, lines=len(lines), code=sum(map(bool, lines)) - comments, comments=comments)


def _tree_of(module: Module) -> ast.Module | None:
    """The syntax tree of a module; None where the file is not valid Python for this interpreter."""
    try:
        return ast.parse(Path(module.path).read_bytes(), filename=module.path)
    except (SyntaxError, ValueError):
        return None


def _statements_in(node: ast.AST) -> Iterator[ast.AST]:
    """The statements directly inside a node. Expressions hold none and are most of a tree, so they are not visited."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        yield from getattr(node, field, ())


def _functions_in(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """Every function with its qualified name, those defined inside others included."""
    todo: list[tuple[str, ast.AST]] = [("", tree)]
    while todo:
        prefix, parent = todo.pop()
        for node in _statements_in(parent):
            if isinstance(node, Function):
                yield prefix + node.name, node
            inside = f"{prefix}{node.name}." if isinstance(node, ast.ClassDef | Function) else prefix
            todo.append((inside, node))


def _measure(module: str, name: str, node: Function) -> FunctionMeasure:
    end = node.end_lineno or node.lineno
    lines = end - node.lineno + 1
    return FunctionMeasure(module=module, name=name, line=node.lineno, lines=lines, branches=_branches_of(node))


_ONE_BRANCH = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)


def _branches_of(function: Function) -> int:
    branches = 0
    todo: list[ast.AST] = list(function.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.ClassDef | Function):
            continue
        if isinstance(node, _ONE_BRANCH):
            branches += 1
        elif isinstance(node, ast.BoolOp):
            branches += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            branches += len(node.ifs)
        todo.extend(ast.iter_child_nodes(node))
    return branches


def _public_objects(tree: ast.Module) -> Iterator[ast.Module | ast.ClassDef | Function]:
    """The module, its public functions and classes, and the public methods of those classes."""
    todo: list[ast.Module | ast.ClassDef] = [tree]
    while todo:
        scope = todo.pop()
        yield scope
        for node in scope.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                todo.append(node)
            elif isinstance(node, Function) and not node.name.startswith("_"):
                yield node


def _is_private(module: str) -> bool:
    return any(part.startswith("_") for part in module.split("."))


# Imports


def _import_statements(tree: ast.Module) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import statement, and whether it runs while the module is imported."""
    todo: list[tuple[ast.AST, bool]] = [(tree, True)]
    while todo:
        parent, eager = todo.pop()
        for node in _statements_in(parent):
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield node, eager
            else:
                todo.append((node, eager and not isinstance(node, Function) and not _is_idle_on_import(node)))


def _is_idle_on_import(node: ast.AST) -> bool:
    """Whether this is a block that importing the module does not run: for scripts or for type checkers only."""
    if not isinstance(node, ast.If):
        return False
    test = ast.unparse(node.test)
    return test.endswith("TYPE_CHECKING") or test.startswith("__name__ ==")


def _targets_of(statement: ast.Import | ast.ImportFrom, module: Module, known: set[str]) -> Iterator[str]:
    """The modules under audit that a statement imports."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            yield from _nearest(alias.name, known)
        return
    base = _base_of(statement, module)
    for alias in statement.names:
        submodule = f"{base}.{alias.name}" if base else alias.name
        yield from (submodule,) if submodule in known else _nearest(base, known)


def _base_of(statement: ast.ImportFrom, module: Module) -> str:
    """The absolute name of what stands between `from` and `import`."""
    if not statement.level:
        return statement.module or ""
    package = module.name.split(".")
    climb = statement.level - module.is_package
    above = package[: len(package) - climb] if climb else package
    return ".".join([*above, statement.module] if statement.module else above)


def _nearest(name: str, known: set[str]) -> Iterator[str]:
    """The module itself, or the closest package above it that is under audit."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    if name:
        yield name


def _import_cycles(imports: list[ImportEdge]) -> list[list[str]]:
    """One shortest cycle `[a, b, a]` for each knot of modules that import each other while being imported.

    Longest first, so that the surprising ones are on top.
    """
    after: dict[str, list[str]] = {}
    before: dict[str, list[str]] = {}
    for edge in imports:
        if edge.eager:
            after.setdefault(edge.source, []).append(edge.target)
            before.setdefault(edge.target, []).append(edge.source)
    cycles: list[list[str]] = []
    settled: set[str] = set()
    for start in sorted(after):
        if start in settled:
            continue
        knot = _reachable(start, after) & _reachable(start, before)
        settled |= knot
        if knot:
            cycles.append(_shortest_cycle(start, after, knot))
    return sorted(cycles, key=lambda cycle: (-len(cycle), cycle))


def _reachable(start: str, after: dict[str, list[str]]) -> set[str]:
    """What can be reached from `start` by one edge or more."""
    found: set[str] = set()
    todo = [start]
    while todo:
        for name in after.get(todo.pop(), ()):
            if name not in found:
                found.add(name)
                todo.append(name)
    return found


def _shortest_cycle(start: str, after: dict[str, list[str]], knot: set[str]) -> list[str]:
    """A shortest way from `start` back to itself inside its knot."""
    came_from: dict[str, str] = {}
    todo = deque([start])
    while start not in came_from:
        here = todo.popleft()
        for name in after[here]:
            if name in knot and name not in came_from:
                came_from[name] = here
                todo.append(name)
    way = [start]
    while len(way) == 1 or way[-1] != start:
        way.append(came_from[way[-1]])
    return way[::-1]


# The report


def _findings(ranking: Ranking) -> list[Finding]:
    """The top of every ranking as rows of one small table."""
    rows = [("longest function", f"{f.module}.{f.name}", f"{f.lines} lines") for f in ranking.longest_functions[:SHOWN]]
    rows += [("most branches", f"{f.module}.{f.name}", f"{f.branches} branches") for f in ranking.most_branches[:SHOWN]]
    rows += [("largest module", p.module, f"{p.lines} lines") for p in ranking.largest_modules[:SHOWN]]
    rows += [("import hub", p.module, f"imported by {p.imported_by}") for p in ranking.import_hubs[:SHOWN]]
    rows += [("import cycle", " > ".join(c), f"{len(c) - 1} modules") for c in ranking.import_cycles[:SHOWN]]
    rows += [("least documented", s.package, f"{s.percent} %") for s in ranking.least_documented[:SHOWN]]
    return [Finding(finding=finding, where=where, value=value) for finding, where, value in rows]


def _markdown(library_root: str, ranking: Ranking, unparsable: list[str]) -> str:
    functions = ("function", "module", "line")
    parts = [
        "# Audit of the Python modules below one directory\n",
        f"`{library_root}`: {ranking.modules} modules, {ranking.lines} lines, {ranking.functions} functions.\n",
        "## Longest functions\n",
        _table((*functions, "lines"), ((f.name, f.module, f.line, f.lines) for f in ranking.longest_functions)),
        "## Functions with the most branches\n",
        _table((*functions, "branches"), ((f.name, f.module, f.line, f.branches) for f in ranking.most_branches)),
        "## Largest modules\n",
        _table(
            ("module", "lines", "code", "functions", "branches"),
            ((p.module, p.lines, p.code, p.functions, p.branches) for p in ranking.largest_modules),
        ),
        "## Import hubs\n",
        _table(
            ("module", "imported by", "imports"), ((p.module, p.imported_by, p.imports) for p in ranking.import_hubs)
        ),
        "## Import cycles\n\nOnly imports that run while a module is imported.\n",
        _table(("modules", "cycle"), ((len(cycle) - 1, " > ".join(cycle)) for cycle in ranking.import_cycles)),
        "## Least documented packages\n",
        _table(
            ("package", "public objects", "documented", "percent"),
            ((s.package, s.public, s.documented, s.percent) for s in ranking.least_documented),
        ),
    ]
    if unparsable:
        parts.append("## Not valid for this interpreter\n\n" + "\n".join(f"* {name}" for name in unparsable) + "\n")
    return "\n".join(parts)


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)
