"""Drawings are stable texts: what a flow looks like as plain text, Mermaid and DOT, and a result as Mermaid."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from chainweaver.flow import ConditionalEdge, DAGFlow, DAGFlowStep, Flow, FlowStep
from chainweaver.viz import flow_to_ascii, flow_to_dot, flow_to_mermaid, result_to_mermaid

HOSTILE = 'x"]; end\n\u202e%%{init: {}}%%<b onclick=1>&amp;|`\\#quot;\x00'

CHAIN = Flow(
    name="chain",
    description="",
    steps=[
        FlowStep(tool_name="fetch", on_error="fallback:cached"),
        FlowStep(flow_name="clean", flow_version="1.2"),
        FlowStep(tool_name="store"),
    ],
)

DAG = DAGFlow(
    name="invoice",
    version="1.0",
    description="",
    steps=[
        DAGFlowStep(step_id="load", tool_name="read_csv"),
        DAGFlowStep(
            step_id="check",
            tool_name="check",
            depends_on=["load"],
            branches=[ConditionalEdge(target_step_id="big", predicate='total > 100 and currency == "EUR"')],
            default_next="small",
        ),
        DAGFlowStep(step_id="big", flow_name="review", depends_on=["check"]),
        DAGFlowStep(step_id="small", tool_name="book", map_over="rows", map_as="row", depends_on=["check"]),
        DAGFlowStep(
            step_id="pick", tool_name="mail", decision_candidates=["mail", "post"], depends_on=["big", "small"]
        ),
        DAGFlowStep(step_id="sign", step_type="capability", capability_id="human", depends_on=["pick"]),
    ],
    groups={"entry": ["load", "check"]},
    input_schema_ref="shop.models:Order",
    output_schema_ref="shop.models:Receipt",
)


def dag(*edges: tuple[str, list[str]]) -> DAGFlow:
    steps = [DAGFlowStep(step_id=name, tool_name=name, depends_on=before) for name, before in edges]
    return DAGFlow(name="d", version="1", description="", steps=steps)


def test_a_chain_is_one_line():
    """Boxes and arrows; fallbacks and sub-flows are named."""
    assert flow_to_ascii(CHAIN) == "[fetch] (on error [cached]) → [clean: flow 1.2] → [store]"


def test_a_dag_that_is_a_chain_is_one_line_too():
    """What is linear looks linear."""
    assert flow_to_ascii(dag(("a", []), ("b", ["a"]), ("c", ["b"]))) == "[a] → [b] → [c]"


def test_a_dag_is_listed_by_level():
    """Each step with what it waits for; branches with their predicates."""
    assert flow_to_ascii(DAG) == (
        "level 0  [load: read_csv]\n"
        "level 1  [check] ← [load]\n"
        '             if total > 100 and currency == "EUR" → [big]\n'
        "             else → [small]\n"
        "level 2  [big: flow review] ← [check]\n"
        "         [small: book, for each row in rows] ← [check]\n"
        "level 3  [pick: mail, one of mail, post] ← [big], [small]\n"
        "level 4  [sign: capability human] ← [pick]"
    )


def test_a_dag_in_mermaid():
    """Shapes tell tools, sub-flows, decisions and capabilities apart; branches carry their predicates."""
    assert flow_to_mermaid(DAG) == (
        "graph LR\n"
        '    s2[["big<br/>flow review"]]\n'
        '    s3["small<br/>book<br/>for each row in rows"]\n'
        '    s4{"pick<br/>mail<br/>one of mail, post"}\n'
        '    s5(["sign<br/>capability human"])\n'
        '    subgraph g0["entry"]\n'
        '        s0["load<br/>read_csv"]\n'
        '        s1["check"]\n'
        "    end\n"
        "    s0 --> s1\n"
        '    s1 -->|"total > 100 and currency == #34;EUR#34;"| s2\n'
        '    s1 -->|"else"| s3\n'
        "    s2 --> s4\n"
        "    s3 --> s4\n"
        "    s4 --> s5"
    )


def test_a_chain_in_mermaid_with_another_direction():
    """The direction is the caller's; a fallback hangs on a dashed arrow."""
    assert flow_to_mermaid(CHAIN, direction="TD") == (
        "graph TD\n"
        '    s0["fetch"]\n'
        '    s1[["clean<br/>flow 1.2"]]\n'
        '    s2["store"]\n'
        '    f0("cached")\n'
        "    s0 --> s1\n"
        "    s1 --> s2\n"
        '    s0 -.->|"on error"| f0'
    )


def test_an_unknown_direction_is_refused():
    """The error lists the known ones."""
    for draw in (flow_to_mermaid, result_to_mermaid):
        with pytest.raises(ValueError, match="LR, RL, TB, TD, BT"):
            draw(CHAIN, direction="sideways")


class Url(BaseModel):
    url: str


class Page(BaseModel):
    body: str
    links: list[str]


def test_schemas_are_drawn_on_request():
    """The ends of the flow, and the fields of the tools that are known."""
    flow = Flow(
        name="f", description="", steps=[FlowStep(tool_name="get")], input_schema_ref="m:In", output_schema_ref="m:Out"
    )
    tools = {"get": SimpleNamespace(input_schema=Url, output_schema=Page)}
    assert flow_to_mermaid(flow, show_schemas=True, tools=tools) == (
        "graph LR\n"
        '    s0["get<br/>in url: str<br/>out body: str, links: list[str]"]\n'
        '    input[/"In<br/>input"/]\n'
        '    output[/"Out<br/>output"/]\n'
        "    input --> s0\n"
        "    s0 --> output"
    )


def test_a_dag_in_dot():
    """Quotes are escaped, groups are clusters."""
    text = flow_to_dot(DAG)
    assert text.startswith('digraph "invoice" {\n    rankdir=LR;\n    s0 [label="load\\nread_csv", shape=box];\n')
    assert '    s1 -> s2 [label="total > 100 and currency == \\"EUR\\""];\n' in text
    assert '    subgraph cluster_0 { label="entry"; s0; s1; }\n' in text
    assert text.endswith("    s4 -> s5;\n}")


def test_half_written_flows_are_drawn():
    """Missing steps, circles, doubled ids and no steps at all are no errors here."""
    assert flow_to_ascii(dag(("a", []), ("b", ["nope"]))) == "level 0  [a]\n         [b] ← [nope] (missing)"
    assert flow_to_ascii(dag(("a", ["b"]), ("b", ["a"]))) == "circle  [a] ← [b]\n        [b] ← [a]"
    assert "    class m0 missing" in flow_to_mermaid(dag(("a", ["nope"])))
    assert "style=dashed, color=red" in flow_to_dot(dag(("a", ["nope"])))
    assert flow_to_mermaid(dag(("a", []), ("a", []), ("b", ["a"]))).endswith("    s0 --> s2")
    empty = Flow(name="empty", description="", steps=[])
    assert (flow_to_ascii(empty), flow_to_mermaid(empty)) == ("(no steps)", "graph LR")
    assert flow_to_dot(empty) == 'digraph "empty" {\n    rankdir=LR;\n}'


def test_hostile_names_stay_inside_their_labels():
    """Quotes, line breaks, entities, directives and bidirectional marks show as text."""
    flow = DAGFlow(
        name=HOSTILE,
        version="1",
        description="",
        steps=[DAGFlowStep(step_id=HOSTILE, tool_name=HOSTILE, on_error=f"fallback:{HOSTILE}")],
        groups={HOSTILE: [HOSTILE]},
    )
    for text in (flow_to_ascii(flow), flow_to_mermaid(flow, show_schemas=True), flow_to_dot(flow)):
        assert "\u202e" not in text
        assert "\x00" not in text
    mermaid = flow_to_mermaid(flow)
    assert "%%" not in mermaid
    for line in mermaid.splitlines():
        labels = re.findall(r'"([^"]*)"', line)
        assert line.count('"') == 2 * len(labels)
        assert all("<" not in label.replace("<br/>", "") for label in labels)
        assert len(line.strip()) > 0
    for line in flow_to_dot(flow).splitlines():
        assert len(re.findall(r'(?<!\\)(?:\\\\)*"', line)) % 2 == 0


def test_a_deep_chain_is_drawn_without_recursion():
    """10 000 steps are no deeper than one."""
    flow = dag(*[(f"s{index}", [f"s{index - 1}"] if index else []) for index in range(10_000)])
    assert flow_to_ascii(flow).count("→") == 9_999
    assert flow_to_mermaid(flow).count("-->") == 9_999


def record(name: str, **facts: Any) -> SimpleNamespace:
    given = {
        "step_index": 0,
        "tool_name": name,
        "success": True,
        "skipped": False,
        "cached": False,
        "duration_ms": 1.25,
    }
    return SimpleNamespace(**{**given, **facts})


def test_a_result_is_coloured_by_status():
    """ok, failed, skipped and cached each have their class; only those that occur are declared."""
    result = SimpleNamespace(
        execution_log=[
            record("fetch"),
            record("parse", cached=True, step_id="p"),
            record("rank", skipped=True),
            record("send", success=False),
        ]
    )
    text = result_to_mermaid(result)
    assert text == (
        "graph LR\n"
        '    s0["fetch<br/>ok, 1.2 ms"]\n'
        '    s1["p<br/>parse<br/>cached, 1.2 ms"]\n'
        "    s0 --> s1\n"
        '    s2["rank<br/>skipped"]\n'
        "    s1 --> s2\n"
        '    s3["send<br/>failed, 1.2 ms"]\n'
        "    s2 --> s3\n"
        "    classDef ok fill:#d7f0dd,stroke:#2e7d42,color:#123\n"
        "    class s0 ok\n"
        "    classDef failed fill:#f8d3d0,stroke:#b3261e,color:#123\n"
        "    class s3 failed\n"
        "    classDef skipped fill:#eceff1,stroke:#78909c,color:#123,stroke-dasharray:4 3\n"
        "    class s2 skipped\n"
        "    classDef cached fill:#d6e6fa,stroke:#1f5fa8,color:#123\n"
        "    class s1 cached"
    )
    assert "classDef" not in result_to_mermaid(SimpleNamespace(execution_log=[]))


def test_the_result_of_a_sub_flow_is_a_frame():
    """R27: the child's trace hangs under its step."""
    child = SimpleNamespace(flow_name='in"ner', execution_log=[record("a")])
    text = result_to_mermaid(SimpleNamespace(execution_log=[record("call", sub_result=child)]))
    assert '    subgraph s0r["in#34;ner"]\n        s0x0["a<br/>ok, 1.2 ms"]\n    end\n    s0 -.-> s0r\n' in text


def test_a_result_says_where_branches_led_and_what_was_chosen():
    """R24, R26: a step that no branch led to was passed over; one that was cancelled has a colour of its own."""
    result = SimpleNamespace(
        execution_log=[
            record("route", step_id="a", status="ok", decision={"taken": "b", "chosen": "route"}),
            record("big", step_id="b", status="ok", decision={"taken": None}),
            record("small", step_id="c", status="skipped", skipped=True),
            record("rank", step_id="d", status="skipped", skipped=True, success=False),
            record("send", step_id="e", status="cancelled", success=False),
        ]
    )
    text = result_to_mermaid(result)
    assert '    s0["a<br/>route<br/>ok, 1.2 ms<br/>chose route<br/>to b"]\n' in text
    assert '    s1["b<br/>big<br/>ok, 1.2 ms"]\n' in text
    assert '    s2["c<br/>small<br/>passed over"]\n' in text
    assert '    s3["d<br/>rank<br/>skipped"]\n' in text
    assert '    s4["e<br/>send<br/>cancelled, 1.2 ms"]\n' in text
    assert "    class s2,s3 skipped\n" in text
    assert text.endswith("    class s4 cancelled")


def test_the_items_of_a_map_are_a_frame_without_an_order():
    """R28: no arrows between items; of many only the first are drawn."""
    items = SimpleNamespace(flow_name="f", execution_log=[record(f"t{index}", flow_name=None) for index in range(14)])
    text = result_to_mermaid(
        SimpleNamespace(
            execution_log=[record("each", flow_name=None, sub_result=items), record("next", flow_name=None)]
        )
    )
    assert (
        '    subgraph s0r["14 items"]\n        s0x0["t0<br/>ok, 1.2 ms"]\n        s0x1["t1<br/>ok, 1.2 ms"]\n' in text
    )
    assert '        s0x11["t11<br/>ok, 1.2 ms"]\n        s0more["2 more"]\n    end\n    s0 -.-> s0r\n' in text
    assert text.count("-->") == 1


def test_what_a_real_run_did_is_drawn():
    """R27, R28: sub-flows inside of items."""
    from chainweaver import FlowExecutor, tool

    @tool
    def double(n: int) -> int:
        return 2 * n

    inner = Flow(name="inner", description="", steps=[FlowStep(tool_name="double")])
    outer = Flow(name="outer", description="", steps=[FlowStep(flow_name="inner", map_over="ns", map_as="n")])
    result = FlowExecutor(tools=[double], flows=[inner, outer]).execute_flow("outer", {"ns": [1]})
    text = re.sub(r"\d+\.\d ms", "T", result.to_mermaid())
    assert text.splitlines()[1:11] == [
        '    s0["0<br/>inner<br/>ok, T"]',
        '    subgraph s0r["1 item"]',
        '        s0x0["0<br/>inner<br/>ok, T"]',
        '        subgraph s0x0r["inner"]',
        '            s0x0x0["0<br/>double<br/>ok, T"]',
        "        end",
        "        s0x0 -.-> s0x0r",
        "    end",
        "    s0 -.-> s0r",
        "    classDef ok fill:#d7f0dd,stroke:#2e7d42,color:#123",
    ]
