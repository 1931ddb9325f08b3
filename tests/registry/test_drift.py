"""Accepting the schemas of tools, and noticing when they are no longer those that were accepted."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from chainweaver import FlowExecutor
from chainweaver.exceptions import FlowNotFoundError
from chainweaver.flow import DAGFlow, DAGFlowStep, DriftInfo, FlowStatus, FlowStep
from chainweaver.registry import FlowRegistry, InMemoryStore
from chainweaver.tools import Tool, check_flow_compatibility
from tests.registry.kit import a_flow


class One(BaseModel):
    n: int


class Other(BaseModel):
    n: str


def a_tool(name, model=One):
    return Tool(name=name, description="", input_schema=model, output_schema=model, fn=dict)


def tools_of(names, model=One):
    return {name: a_tool(name, model) for name in names.split()}


def registry_of(*flows, store=None):
    registry = FlowRegistry(store)
    for flow in flows:
        registry.register_flow(flow)
    return registry


def report_of(registry, tools):
    return [
        (one.flow_name, one.flow_version, one.tool_name)
        for flow in registry.snapshot.values()
        for one in check_flow_compatibility(flow, tools)
    ]


WIDE = [
    FlowStep(tool_name="a", on_error="fallback:b"),
    FlowStep(tool_name="c", decision_candidates=["d", "a"]),
    FlowStep(flow_name="child"),
    FlowStep(flow_name="child", on_error="fallback:e"),
]


def test_every_tool_that_a_step_may_call_is_accepted_and_no_other():
    """api.md: accept_drift; fallbacks and candidates of decisions are tools of the flow, those of sub-flows are not."""
    registry = registry_of(a_flow("parent", steps=WIDE), a_flow("child"))
    tools = tools_of("a b c d e t unused")
    accepted = registry.accept_tools("parent", tools)
    assert accepted.tool_schema_hashes == {name: tools[name].schema_hash for name in "abcde"}
    assert registry.get_flow("parent") == accepted
    assert registry.get_flow("child").tool_schema_hashes is None


@pytest.mark.parametrize("changed", list("abcde"))
def test_a_change_of_any_of_them_is_reported(changed):
    """api.md: get_drift_report; what was accepted against what is there."""
    registry = registry_of(a_flow("parent", steps=WIDE))
    tools = tools_of("a b c d e")
    registry.accept_tools("parent", tools)
    assert report_of(registry, tools) == []
    now = {**tools, changed: a_tool(changed, Other)}
    [drift] = check_flow_compatibility(registry.get_flow("parent"), now)
    assert drift == DriftInfo(
        flow_name="parent",
        tool_name=changed,
        expected_hash=tools[changed].schema_hash,
        actual_hash=now[changed].schema_hash,
        flow_version="1.0",
    )


def test_the_drift_of_a_tool_that_only_a_sub_flow_reaches_belongs_to_the_sub_flow():
    """api.md: get_drift_report; every flow answers for its own steps."""
    registry = registry_of(a_flow("parent", steps=[FlowStep(flow_name="child")]), a_flow("child"))
    for name in ("parent", "child"):
        registry.accept_tools(name, tools_of("t"))
    assert report_of(registry, tools_of("t", Other)) == [("child", "1.0", "t")]


def test_every_version_has_a_record_of_its_own():
    """api.md: accept_drift(name, version=None); None is the highest one."""
    registry = registry_of(a_flow(version="1.0"), a_flow(version="2.0"))
    old, new = tools_of("t"), tools_of("t", Other)
    for version in ("1.0", "2.0"):
        registry.accept_tools("a", old, version=version)
    assert report_of(registry, new) == [("a", "1.0", "t"), ("a", "2.0", "t")]
    registry.accept_tools("a", new)
    assert report_of(registry, new) == [("a", "1.0", "t")]
    registry.accept_tools("a", new, version="1.0")
    assert report_of(registry, new) == []


def test_a_missing_tool_cannot_be_accepted():
    """api.md: get_drift_report; `actual_hash` None, until the tool is back or the flow names another one."""
    registry = registry_of(a_flow(steps=[FlowStep(tool_name="t"), FlowStep(tool_name="u")]))
    registry.accept_tools("a", tools_of("t u"))
    for _ in range(2):
        [drift] = check_flow_compatibility(registry.get_flow("a"), tools_of("t"))
        assert (drift.tool_name, drift.actual_hash) == ("u", None)
        registry.accept_tools("a", tools_of("t"))
    assert report_of(registry, tools_of("t u")) == []

    never_there = registry_of(a_flow())
    assert never_there.accept_tools("a", {}).tool_schema_hashes == {}


def test_steps_without_a_tool_have_nothing_to_accept():
    """api.md: capability steps name no tool."""
    steps = [DAGFlowStep(step_id="x", step_type="capability", capability_id="mail")]
    registry = registry_of(DAGFlow(name="a", version="1.0", description="", steps=steps))
    assert registry.accept_tools("a", tools_of("t")).tool_schema_hashes == {}


@pytest.mark.parametrize(
    ("status", "there", "after"),
    [
        ("needs_review", "t u", "active"),
        ("needs_review", "t", "needs_review"),
        ("disabled", "t u", "disabled"),
        ("active", "t", "active"),
    ],
)
def test_a_flow_that_waits_for_review_is_active_again_once_all_is_accepted(status, there, after):
    """api.md: NEEDS_REVIEW; whoever switched a flow off has to switch it on."""
    registry = registry_of(a_flow(steps=[FlowStep(tool_name="t"), FlowStep(tool_name="u")]))
    registry.accept_tools("a", tools_of("t u"))
    registry.set_flow_status("a", status)
    assert registry.accept_tools("a", tools_of(there, Other)).status is FlowStatus(after)


def test_what_was_accepted_is_kept_in_the_store():
    """api.md: accept_drift; another process sees the same drift."""
    registry = registry_of(a_flow(), store=(store := InMemoryStore()))
    registry.accept_tools("a", tools_of("t"))
    assert report_of(FlowRegistry(store), tools_of("t", Other)) == [("a", "1.0", "t")]


def test_only_flows_that_are_there_can_be_accepted():
    """api.md: E002."""
    with pytest.raises(FlowNotFoundError, match="did you mean 'invoice'"):
        registry_of(a_flow("invoice")).accept_tools("invoise", {})
    with pytest.raises(FlowNotFoundError):
        registry_of(a_flow("a")).accept_tools("a", {}, version="9")


def test_an_executor_reports_and_accepts():
    """api.md: get_drift_report(), accept_drift(name, *, version=None)."""
    with FlowExecutor(tools=tools_of("t").values(), flows=[a_flow("b"), a_flow("a")]) as executor:
        assert executor.get_drift_report() == []
        for name in ("b", "a"):
            executor.accept_drift(name)
        executor.register_tool(a_tool("t", Other))
        assert [(one.flow_name, one.tool_name) for one in executor.get_drift_report()] == [("a", "t"), ("b", "t")]
        executor.accept_drift("a", version="1.0")
        assert [one.flow_name for one in executor.get_drift_report()] == ["b"]
