"""A small project to work on: flow files, tools beside them, and a way to call commands in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from chainweaver.cli._app import build

FILES = {
    "sums.flow.yaml": """\
        type: Flow
        name: sums
        version: 1.0.0
        description: Sum and divide.
        steps:
          - tool_name: total
          - tool_name: divide
    """,
    "sums.py": """\
        from chainweaver import Flow, FlowStep, tool

        @tool
        def total(rows: list[int]) -> int:
            return sum(rows)

        @tool
        def divide(total: int, by: int = 2) -> float:
            print("dividing")
            return total / by

        inside = Flow(name="inside", version="2.0.0", description="", steps=[FlowStep(tool_name="total")])
        older = Flow(name="inside", version="1.0.0", description="", steps=[FlowStep(tool_name="divide")])
    """,
    "typo.flow.yaml": """\
        type: Flow
        name: typo
        version: 1.0.0
        description: Two faults.
        steps:
          - tool_name: totl
          - tool_name: divide
            input_mapping: {tota: 1}
    """,
    "broken.flow.yaml": "type: [\n",
    "graph.flow.json": """\
        {"type": "DAGFlow", "name": "graph", "version": "1.0.0", "description": "", "dynamic_params": ["limit"],
         "steps": [
           {"step_id": "rows", "tool_name": "make_rows"},
           {"step_id": "where", "tool_name": "place", "depends_on": ["rows"]}]}
    """,
    "graph.py": """\
        from chainweaver import tool

        @tool(output="rows")
        def make_rows(limit: int = 2) -> list[dict]:
            return [{"name": f"row {n}", "size": n} for n in range(limit)]

        @tool(output="report")
        def place(rows: list[dict]) -> str:
            return "out/report.md"
    """,
}


SHOP = {
    "shop.flow.yaml": """\
        type: DAGFlow
        name: shop
        version: 1.0.0
        description: An order with every construct.
        steps:
          - step_id: total
            tool_name: total
            branches:
              - {target_step_id: express, predicate: total > 100}
            default_next: standard
          - {step_id: express, tool_name: express, depends_on: [total]}
          - {step_id: standard, tool_name: standard, depends_on: [total]}
          - step_id: pay
            tool_name: card
            decision_candidates: [card, wire]
            depends_on: [express, standard]
            input_mapping: {total: total}
          - step_id: parcels
            flow_name: parcel
            map_over: rows
            input_mapping: {n: item}
            on_item_error: collect
            depends_on: [pay]
          - step_id: gift
            flow_name: parcel
            input_mapping: {n: /rows/0}
            output_mapping: {gift: label}
            depends_on: [pay]
    """,
    "parcel.flow.yaml": """\
        type: Flow
        name: parcel
        version: 1.0.0
        description: One parcel.
        outputs: [label]
        steps:
          - tool_name: weigh
          - tool_name: label
    """,
    "shop.py": """\
        from chainweaver import ToolSafetyContract, tool

        RATE = 10

        @tool
        def total(rows: list[int]) -> int:
            return sum(rows)

        @tool
        def express(total: int) -> str:
            return f"express {total}"

        @tool
        def standard(total: int) -> str:
            return f"standard {total}"

        @tool(output="paid", safety=ToolSafetyContract(requires_approval=True), dry_run_fn=lambda given: {"paid": 0})
        def card(total: int) -> int:
            return total

        @tool(output="paid")
        def wire(total: int) -> int:
            return total

        @tool(output="weight")
        def weigh(n: int) -> int:
            if n == 13:
                raise ValueError("too heavy")
            return n * RATE

        @tool
        def label(weight: int) -> str:
            return f"<{weight}>"
    """,
}
"""A flow with a branch, a decision, an approval, a map over a sub-flow and a sub-flow."""


class Called(NamedTuple):
    """What a command wrote and how it ended."""

    status: int
    out: str
    err: str

    @property
    def answer(self) -> dict[str, Any]:
        """The JSON envelope."""
        answer = json.loads(self.out)
        assert isinstance(answer, dict)
        return answer


Call = Callable[..., Called]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project as current directory; what is imported from it is forgotten afterwards."""
    from textwrap import dedent

    for name, text in FILES.items():
        (tmp_path / name).write_text(dedent(text), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def shop(project: Path) -> Path:
    """The project with a shop in it."""
    from textwrap import dedent

    for name, text in SHOP.items():
        (project / name).write_text(dedent(text), encoding="utf-8")
    return project


@pytest.fixture
def call(project: Path) -> Call:
    """Calls a command in this process: `call("run", "sums.flow.yaml")`."""

    def called(*args: str, stdin: str | None = None) -> Called:
        result = CliRunner().invoke(build(), list(args), input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Called(result.exit_code, result.stdout, result.stderr)

    return called
