"""What an executor takes from installed packages, and how it accepts the schemas of its tools."""

from __future__ import annotations

import pytest

from chainweaver import FlowExecutor, FlowRegistry, PluginDiscoveryError, tool
from chainweaver.flow import Flow, FlowStatus, FlowStep
from tests.registry.kit import install

__all__ = ["install"]


@pytest.fixture
def acme(install):
    """A package with a tool and a flow that uses it."""
    install(
        "acme",
        "[chainweaver.tools]\nacme = acme_all\n\n[chainweaver.flows]\nacme = acme_all\n",
        acme_all="""
        from chainweaver import Flow, FlowStep, tool

        @tool
        def double(n: int) -> int:
            return 2 * n

        twice = Flow(name="twice", description="", steps=[FlowStep(tool_name="double")])
        """,
    )


def test_tools_and_flows_of_installed_packages_can_be_run(acme):
    """api.md: FlowExecutor(discover_plugins=True)."""
    with FlowExecutor(discover_plugins=True) as executor:
        assert executor.execute_flow("twice", {"n": 21}).final_output == {"n": 21, "double": 42}
        assert executor.with_replaced_tools([]).execute_flow("twice", {"n": 1}).success
    with FlowExecutor(registry := FlowRegistry(), discover_plugins=True) as executor:
        assert executor.registry is registry
        assert executor.execute_flow("twice", {"n": 21}).success
    assert FlowExecutor().registered_tools == {}


def test_what_the_program_registers_itself_comes_first(acme):
    """api.md: discover_plugins; whoever names a tool or a flow means it."""

    @tool
    def double(n: int) -> int:
        return -n

    mine = Flow(name="twice", description="Mine.", steps=[FlowStep(tool_name="double")])
    with FlowExecutor(tools=[double], flows=[mine], discover_plugins=True) as executor:
        assert executor.registry.get_flow("twice").description == "Mine."
        assert executor.execute_flow("twice", {"n": 21}).final_output == {"n": 21, "double": -21}


@pytest.mark.parametrize("group", ["chainweaver.tools", "chainweaver.flows"])
def test_a_broken_plugin_is_told_when_the_executor_is_made(group, acme, install):
    """api.md: E022."""
    install("broken", f"[{group}]\nbroken = nobody_has_this:X\n")
    with pytest.raises(PluginDiscoveryError, match=f"'{group}:broken'"):
        FlowExecutor(discover_plugins=True)


def test_drift_is_accepted_for_every_tool_that_a_step_may_call():
    """api.md: accept_drift; a flow that waits for review is active again."""

    @tool
    def a(n: int) -> int:
        return n

    @tool
    def b(n: int) -> int:
        return n

    @tool(name="b")
    def other_b(n: str) -> str:
        return n

    flow = Flow(name="f", description="", steps=[FlowStep(tool_name="a", decision_candidates=["a", "b"])])
    with FlowExecutor(tools=[a, b], flows=[flow]) as executor:
        executor.accept_drift("f")
        executor.register_tool(other_b)
        [drift] = executor.get_drift_report()
        assert (drift.flow_name, drift.flow_version, drift.tool_name) == ("f", "0.1.0", "b")
        executor.registry.set_flow_status("f", "needs_review")
        assert executor.accept_drift("f").status is FlowStatus.ACTIVE
        assert executor.get_drift_report() == []
