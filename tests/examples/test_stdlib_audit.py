"""The audit of the demo, on a small planted package whose numbers are known.

The tools are called as functions; only the last tests run the flow.
"""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from chainweaver import DAGFlow, FlowExecutor, compile_flow
from examples import stdlib_audit as audit

PLANTED = {
    "alone.py": '''\
        """A documented module."""
        import shop.cart

        # a comment of its own line

        def bare(x):
            return x if x else None
    ''',
    "shop/__init__.py": "from shop import cart\n",
    "shop/cart.py": '''\
        from typing import TYPE_CHECKING
        from . import till
        if TYPE_CHECKING:
            from shop import ghost


        class Cart:
            """Documented."""

            def total(self, rows):
                """Documented."""
                def inner(row):
                    return row and row.price or 0
                result = 0
                for row in rows:
                    if row and row.price:
                        result += inner(row)
                return result

            def _private(self):
                pass
    ''',
    "shop/till.py": """\
        from .cart import Cart

        def open_till():
            import alone
            return [c for c in Cart.all if c if not c.closed]

        if __name__ == "__main__":
            import shop.ghost
    """,
    "shop/ghost.py": "",
    "shop/broken.py": "def (:\n",
    "shop/tests/test_cart.py": "def test(): pass\n",
    "shop/not-a-module.py": "",
    "data-1/inside.py": "",
}


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    for name, text in PLANTED.items():
        path = tmp_path / "lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")
    return tmp_path / "lib"


@pytest.fixture
def modules(planted: Path) -> list[audit.Module]:
    return audit.find_modules(root=str(planted)).modules


def test_modules_are_found_by_name_without_tests_and_files_that_cannot_be_imported(planted: Path) -> None:
    """Demo: the audit looks at importable modules only, in order of their names."""
    found = audit.find_modules(root=str(planted))
    assert found.library_root == str(planted.resolve())
    assert [(module.name, module.is_package) for module in found.modules] == [
        ("alone", False),
        ("shop", True),
        ("shop.broken", False),
        ("shop.cart", False),
        ("shop.ghost", False),
        ("shop.till", False),
    ]


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    """Demo: a wrong root says which directory is missing."""
    with pytest.raises(NotADirectoryError, match=r"no directory to audit at '.*nowhere'"):
        audit.find_modules(root=str(tmp_path / "nowhere"))


def test_lines_are_code_comments_or_blank(modules: list[audit.Module]) -> None:
    """Demo: a line counts as a comment only when nothing else is on it."""
    [alone] = [size for size in audit.count_lines(modules=modules).sizes if size.module == "alone"]
    assert (alone.lines, alone.code, alone.comments) == (7, 4, 1)


def test_functions_are_measured_each_on_its_own(modules: list[audit.Module]) -> None:
    """Demo: branches of an inner function do not count for the outer one; files with errors are named."""
    measured = audit.measure_functions(modules=modules)
    assert measured.unparsable == ["shop.broken"]
    assert {(f.module, f.name): (f.line, f.lines, f.branches) for f in measured.functions} == {
        ("alone", "bare"): (6, 2, 1),
        ("shop.cart", "Cart.total"): (10, 9, 3),
        ("shop.cart", "Cart.total.inner"): (12, 2, 2),
        ("shop.cart", "Cart._private"): (20, 2, 0),
        ("shop.till", "open_till"): (3, 3, 2),
    }


def test_imports_inside_functions_and_idle_blocks_are_not_eager(modules: list[audit.Module]) -> None:
    """Demo: an import counts as eager only when importing the module runs it."""
    imports = audit.collect_imports(modules=modules).imports
    assert {(edge.source, edge.target, edge.eager) for edge in imports} == {
        ("alone", "shop.cart", True),
        ("shop", "shop.cart", True),
        ("shop.cart", "shop.till", True),
        ("shop.cart", "shop.ghost", False),
        ("shop.till", "shop.cart", True),
        ("shop.till", "alone", False),
        ("shop.till", "shop.ghost", False),
    }


def test_docstrings_are_counted_for_public_objects_by_package(modules: list[audit.Module]) -> None:
    """Demo: private names do not lower the share of a package."""
    shares = audit.check_docstrings(modules=modules).coverage
    assert [(share.package, share.public, share.documented, share.percent) for share in shares] == [
        (audit.SINGLE_MODULES, 2, 1, 50.0),
        ("shop", 7, 2, 28.6),
    ]


def edges(*pairs: str) -> list[audit.ImportEdge]:
    return [audit.ImportEdge(source=pair[0], target=pair[1], eager=pair[2:] != "?") for pair in pairs]


@pytest.mark.parametrize(
    ("imports", "cycles"),
    [
        (edges("ab", "bc"), []),
        (edges("ab", "ba?"), []),
        (edges("ab", "ba"), [["a", "b", "a"]]),
        (edges("ab", "bc", "cd", "da", "ca"), [["a", "b", "c", "a"]]),
        (edges("ab", "ba", "xy", "yz", "zx", "ax"), [["x", "y", "z", "x"], ["a", "b", "a"]]),
        (edges("ab", "bc", "cb"), [["b", "c", "b"]]),
    ],
    ids=["none", "lazy", "pair", "shortest", "two knots", "leads into one"],
)
def test_each_knot_of_imports_is_shown_as_a_shortest_cycle(
    imports: list[audit.ImportEdge], cycles: list[list[str]]
) -> None:
    """Demo: one cycle for each knot, the longest first."""
    assert audit.rank_findings(profiles=[], functions=[], imports=imports, coverage=[]).ranking.import_cycles == cycles


def run_by_hand(root: Path, report_dir: Path) -> dict[str, Any]:
    """The tools one after the other, as the flow wires them."""
    known: dict[str, Any] = {"root": str(root), "report_dir": str(report_dir)}
    for tool, fields in (
        (audit.find_modules, ["root"]),
        (audit.count_lines, ["modules"]),
        (audit.measure_functions, ["modules"]),
        (audit.collect_imports, ["modules"]),
        (audit.check_docstrings, ["modules"]),
        (audit.join_measures, ["sizes", "functions", "imports"]),
        (audit.rank_findings, ["profiles", "functions", "imports", "coverage"]),
        (audit.write_report, ["report_dir", "library_root", "ranking", "profiles", "coverage", "unparsable"]),
    ):
        known.update(dict(tool(**{field: known[field] for field in fields})))
    return known


def test_the_report_names_what_was_planted(planted: Path, tmp_path: Path) -> None:
    """Demo: the Markdown is for people, the JSON holds every number."""
    known = run_by_hand(planted, tmp_path / "out" / "deep")

    markdown = Path(known["markdown_report"]).read_text(encoding="utf-8")
    assert "6 modules, 38 lines, 5 functions." in markdown
    assert "| Cart.total | shop.cart | 10 | 9 |" in markdown
    assert "| 2 | shop.cart > shop.till > shop.cart |" in markdown
    assert "* shop.broken" in markdown

    data = json.loads(Path(known["json_report"]).read_text(encoding="utf-8"))
    [cart] = [profile for profile in data["profiles"] if profile["module"] == "shop.cart"]
    assert cart == {
        "module": "shop.cart",
        "lines": 21,
        "code": 17,
        "functions": 3,
        "branches": 5,
        "imports": 2,
        "imported_by": 3,
    }
    assert data["coverage"][1] == {"package": "shop", "public": 7, "documented": 2, "percent": 28.6}


def test_the_findings_show_the_first_three_of_each_kind(planted: Path, tmp_path: Path) -> None:
    """Demo: the table that the command line prints is short."""
    findings = run_by_hand(planted, tmp_path)["findings"]
    assert [row for row in findings if row["finding"] == "longest function"] == [
        {"finding": "longest function", "where": "shop.cart.Cart.total", "value": "9 lines"},
        {"finding": "longest function", "where": "shop.till.open_till", "value": "3 lines"},
        {"finding": "longest function", "where": "alone.bare", "value": "2 lines"},
    ]
    assert {"finding": "import hub", "where": "shop.cart", "value": "imported by 3"} in findings
    assert {"finding": "import cycle", "where": "shop.cart > shop.till > shop.cart", "value": "2 modules"} in findings


TOOLS = (
    audit.find_modules,
    audit.count_lines,
    audit.measure_functions,
    audit.collect_imports,
    audit.check_docstrings,
    audit.join_measures,
    audit.rank_findings,
    audit.write_report,
)
FLOW_FILE = Path(audit.__file__).with_name("stdlib_audit.flow.yaml")


@pytest.mark.parametrize("limit", [1, 4])
def test_the_flow_finds_what_the_tools_find_by_hand(planted: Path, tmp_path: Path, limit: int) -> None:
    """R1: the flow gives the values of the tools called one after the other, whatever the concurrency limit."""
    flow = DAGFlow.from_yaml(FLOW_FILE.read_text(encoding="utf-8"))
    by_hand = run_by_hand(planted, tmp_path / "hand")
    with FlowExecutor(tools=TOOLS, flows=[flow], max_step_concurrency=limit) as executor:
        result = executor.execute_flow("stdlib_audit", {"root": str(planted), "report_dir": str(tmp_path / "flow")})
    result.raise_for_failure()
    assert result.final_output == {
        "findings": by_hand["findings"],
        "markdown_report": str(tmp_path / "flow" / "stdlib_audit.md"),
        "json_report": str(tmp_path / "flow" / "stdlib_audit.json"),
    }
    for name in ("stdlib_audit.md", "stdlib_audit.json"):
        assert (tmp_path / "flow" / name).read_bytes() == (tmp_path / "hand" / name).read_bytes()


def test_the_flow_compiles_with_nothing_to_say_but_that_typed_lists_are_copied() -> None:
    """R14: the lists of the audit are typed on purpose, which the compiler points out; there is nothing else."""
    flow = DAGFlow.from_yaml(FLOW_FILE.read_text(encoding="utf-8"))
    report = compile_flow(flow, {tool.name: tool for tool in TOOLS})
    assert not report.errors
    assert {warning.issue_type for warning in report.warnings} == {"native_copy"}
