"""The mutants of the code, and the fixed sample of them.

mutmut's operators say how code can be changed; which of the changes are drawn follows from the code alone. First each
file gets its part of the sample, by its number of lines that can be changed. Then lines are drawn, then for each line
one of the operators that apply to it, then one of the changes that this operator makes: a line full of arguments weighs
no more than a comparison. All draws go by hashes of what is written there and never by line numbers, so the same code
gives the same sample, and an edit leaves the mutants of other functions what and where they were.

Reads source text, writes nothing. Called by `mutation.py`.
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

SEED = "chainweaver 1"


class Mutant(NamedTuple):
    """One change of one place. `mutant_id` names it as long as the function around it says the same there."""

    mutant_id: str
    path: str  # relative to the root, with slashes
    line: int
    operator: str
    before: str
    after: str
    source: str  # the whole file with the change


class Change(NamedTuple):
    """A change that could be made, before it is drawn."""

    place: str  # the function around it, dotted; "" at module level
    line: int
    operator: str
    statement: int  # the number of the statement at module level that holds it
    original: cst.CSTNode
    changed: cst.CSTNode


def sample(sources: Mapping[str, str], size: int, seed: str = SEED) -> list[Mutant]:
    """Draw `size` mutants from the files, in the order of files and lines; fewer when there are not as many lines."""
    files = {path: Draw(path, text, seed) for path, text in sorted(sources.items())}
    parts = shares({path: len(draw.lines) for path, draw in files.items()}, size)
    return [mutant for path, draw in files.items() for mutant in draw.mutants(parts[path])]


def shares(weights: Mapping[str, int], size: int) -> dict[str, int]:
    """`size` divided in proportion to the weights, by largest remainder, no part larger than its weight.

    >>> shares({"a": 30, "b": 20, "c": 1}, 10)
    {'a': 6, 'b': 4, 'c': 0}
    """
    total = sum(weights.values())
    if total <= size:
        return dict(weights)
    exact = {name: size * weight / total for name, weight in weights.items()}
    parts = {name: int(part) for name, part in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (parts[name] - exact[name], name))
    for name in by_remainder[: size - sum(parts.values())]:
        parts[name] += 1
    return parts


class Draw:
    """What can be changed in one file, and the order in which it is drawn."""

    def __init__(self, path: str, text: str, seed: str) -> None:
        self.path, self.text, self.seed = path, text, seed
        self.tree = MetadataWrapper(cst.parse_module(text))
        self.meaning = ast.dump(ast.parse(text))
        found = Changes(self.tree.module, self.tree.resolve(PositionProvider))
        self.tree.module.visit(found)
        self.lines = self._ranked(found.changes)

    def mutants(self, size: int) -> list[Mutant]:
        """The first `size` of them, one from a line, in the order of lines."""
        drawn = filter(None, (self._mutant(key, changes) for key, changes in self.lines))
        return sorted((mutant for mutant, _ in zip(drawn, range(size), strict=False)), key=lambda one: one.line)

    def _ranked(self, changes: list[Change]) -> list[tuple[str, list[Change]]]:
        """The lines with their changes, in the order of their hashes.

        A line is known by the function around it and by what it says; equal lines of a function are numbered.
        """
        written = self.text.splitlines()
        by_line: defaultdict[int, list[Change]] = defaultdict(list)
        for change in changes:
            by_line[change.line].append(change)
        seen: Counter[str] = Counter()
        keys: dict[str, list[Change]] = {}
        for line, there in sorted(by_line.items()):
            key = f"{there[0].place}|{written[line - 1].strip()}"
            keys[f"{key}|{seen[key]}"] = there
            seen[key] += 1
        return sorted(keys.items(), key=lambda item: self._hash(item[0]))

    def _mutant(self, key: str, changes: list[Change]) -> Mutant | None:
        """The change of a line that comes first by operator and by hash; None when it has none that matters."""
        code_of = self.tree.module.code_for_node
        seen: Counter[str] = Counter()
        candidates: list[tuple[str, str, Change]] = []
        for change in changes:
            what = f"{key}|{change.operator}|{code_of(change.original)}|{code_of(change.changed)}"
            candidates.append((self._hash(f"{key}|{change.operator}"), self._hash(f"{what}|{seen[what]}"), change))
            seen[what] += 1
        for _, name, change in sorted(candidates, key=lambda one: one[:2]):
            source = self._with(change)
            if self._matters(source):
                stem = self.path.rsplit("/", 1)[-1].removesuffix(".py").strip("_")
                before, after = differing_lines(self.text, source)
                return Mutant(f"{stem}-{name[:6]}", self.path, change.line, change.operator, before, after, source)
        return None

    def _with(self, change: Change) -> str:
        """The file with a change."""
        body: list[Any] = list(self.tree.module.body)
        body[change.statement] = body[change.statement].deep_replace(change.original, change.changed)
        return self.tree.module.with_changes(body=body).code

    def _matters(self, source: str) -> bool:
        """Whether this is a program, and another one."""
        try:
            return ast.dump(ast.parse(source)) != self.meaning
        except SyntaxError:
            return False

    def _hash(self, text: str) -> str:
        return hashlib.sha256(f"{self.seed}|{self.path}|{text}".encode()).hexdigest()


class Changes(cst.CSTVisitor):
    """Collects the changes of a file, leaving out what cannot matter while it runs."""

    def __init__(self, module: cst.Module, positions: Mapping[cst.CSTNode, object]) -> None:
        super().__init__()
        self._statements = {id(statement): at for at, statement in enumerate(module.body)}
        self._statement = 0
        self.changes: list[Change] = []
        self._positions = positions
        self._around: list[str] = []
        self._line = 1

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self._around.append(node.name.value)
        self._statement = self._statements.get(id(node), self._statement)
        position = self._positions.get(node)
        self._line = position.start.line if position is not None else self._line  # type: ignore[attr-defined]
        if is_for_readers(node):
            return False
        if isinstance(node, cst.Assert):
            node.test.visit(self)  # what it says is for readers
            return False
        if isinstance(node, cst.Call) and is_named(node.func, "cast"):
            node.args[-1].visit(self)
            return False
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                known = (
                    ".".join(self._around),
                    self._line,
                    operator.__name__.removeprefix("operator_"),
                    self._statement,
                )
                self.changes += [Change(*known, node, changed) for changed in operator(node)]
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef):
            self._around.pop()


def is_for_readers(node: cst.CSTNode) -> bool:
    """Whether this is there for people and type checkers alone."""
    if isinstance(node, cst.Annotation):
        return True
    if isinstance(node, cst.If):
        return is_named(node.test, "TYPE_CHECKING")
    if isinstance(node, cst.AnnAssign):
        return is_named(node.annotation.annotation, "TypeAlias")
    return isinstance(node, cst.Assign) and is_named(node.targets[0].target, "__all__")


def is_named(node: cst.CSTNode, name: str) -> bool:
    return isinstance(node, cst.Name) and node.value == name


def differing_lines(before: str, after: str) -> tuple[str, str]:
    """The lines that a change replaces, and what replaces them, without the indentation.

    >>> differing_lines("a\\n  b\\nc", "a\\n  d\\nc")
    ('b', 'd')
    """
    old, new = before.splitlines(), after.splitlines()
    start = next(at for at, pair in enumerate(zip([*old, None], [*new, None], strict=False)) if pair[0] != pair[1])
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    return joined(old[start : len(old) - end]), joined(new[start : len(new) - end])


def joined(lines: list[str]) -> str:
    return " ".join(line.strip() for line in lines)


def spans(text: str) -> Iterator[tuple[range, range | None]]:
    """For every statement its own lines, without those of statements in it, and those of the function around it.

    None for a statement outside of functions: it runs at import, and what it has done is noticed anywhere. The header
    of a function goes with the function.
    """

    def walk(node: ast.AST, around: range | None) -> Iterator[tuple[range, range | None]]:
        for child in ast.iter_child_nodes(node):
            inside = around
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                inside = range(child.lineno, (child.end_lineno or child.lineno) + 1)
            if isinstance(child, ast.stmt):
                starts = [one.lineno for one in ast.iter_child_nodes(child) if isinstance(one, ast.stmt)]
                end = min(starts) - 1 if starts else child.end_lineno or child.lineno
                yield range(child.lineno, max(end, child.lineno) + 1), inside
            yield from walk(child, inside)

    yield from walk(ast.parse(text), None)
