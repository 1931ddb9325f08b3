"""Every finding that the compiler makes is in the tables of docs/errors.md, and the tables name no others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from chainweaver import DAGFlow, DAGFlowStep

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| `([a-z_]+)` \|", re.MULTILINE)
NAME = re.compile(r"[a-z]+(?:_[a-z]+)+")
FIELDS = {*DAGFlow.model_fields, *DAGFlowStep.model_fields}
"""Names of fields, which findings carry beside their own."""
PARTS = {
    "role": ("fallback", "candidate"),
    "side": ("input", "output"),
    "exc.reason": ("cycle", "max_depth_exceeded", "unknown_flow"),
}
"""What may stand in a name that is put together."""


def made_in(source: str) -> Iterator[str]:
    """Names of findings: words like these given to a function that notes errors or warnings, or looped over."""
    for one in ast.walk(ast.parse(source)):
        if isinstance(one, ast.Call):
            function = str(getattr(one.func, "attr", None) or getattr(one.func, "id", ""))
            given: list[ast.AST] = list(one.args) if re.search("error|warning", function) else []
        elif isinstance(one, ast.For) and "issue_type" in {getattr(part, "id", "") for part in ast.walk(one.target)}:
            given = list(ast.walk(one.iter))
        else:
            continue
        for part in given:
            yield from (name for name in texts_of(part) if NAME.fullmatch(name) and name not in FIELDS)


def texts_of(part: ast.AST) -> Iterator[str]:
    """The texts that an expression may be: a constant, or one put together with a word of `PARTS`."""
    if isinstance(part, ast.Constant) and isinstance(part.value, str):
        yield part.value
    elif isinstance(part, ast.JoinedStr):
        put_in = [ast.unparse(one.value) for one in part.values if isinstance(one, ast.FormattedValue)]
        # What nobody listed in PARTS makes a name that no table has.
        for value in PARTS.get(put_in[0], ("not_listed",)) if len(put_in) == 1 else ():
            yield "".join(str(one.value) if isinstance(one, ast.Constant) else value for one in part.values)


def made_by_the_compiler() -> set[str]:
    files = (ROOT / "chainweaver" / "compiler").glob("*.py")
    return {name for path in files for name in made_in(path.read_text(encoding="utf-8"))}


def test_every_finding_of_the_compiler_is_documented_once():
    """Errors: `issue_type` is a stable name, so a reader can look it up."""
    _, _, section = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8").partition("## Findings of the compiler")
    assert sorted(ROW.findall(section)) == sorted(made_by_the_compiler())


def test_names_of_findings_are_found_in_source():
    """Errors: the search sees names given to functions and names that a loop goes through."""
    source = (
        "findings.warning(step, 'native_copy', detail)\n"
        "_error(step, f'{role}_gap', target, 'map_over')\n"
        "findings.error(step, f'tool {name} is gone_there', f'it is {role} and {name}')\n"
        "findings.error(step, f'{other}_gap', detail)\n"
        "for name, issue_type in (('a_b', 'missing_tool'),):\n    pass\n"
        "other('not_a_finding')\n"
    )
    assert set(made_in(source)) == {
        "native_copy",
        "fallback_gap",
        "candidate_gap",
        "not_listed_gap",
        "a_b",
        "missing_tool",
    }
