"""The shapes as chainweaver flows, run through the public API and nothing else.

A run is the whole call: `execute_flow` with its result and trace. A run that does not succeed raises, so that no figure
can be that of a run that stopped early.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from benchmarks.shapes import Shape
from chainweaver import DAGFlow, DAGFlowStep, Flow, FlowExecutor, FlowRegistry, FlowStep, RetryPolicy, Tool

NAME = "bench"


def executor_for(
    shape: Shape,
    *,
    lane: str | None = None,
    retry: RetryPolicy | None = None,
    first_retry: RetryPolicy | None = None,
    **settings: Any,
) -> FlowExecutor:
    """An executor that knows one flow, `NAME`, made from the shape.

    Args:
        lane: Lane of every tool; None leaves it to the run.
        retry: Policy of every step.
        first_retry: Policy of the first step, where it is another one.
        settings: Passed on to `FlowExecutor`.
    """
    registry = FlowRegistry()
    registry.register_flow(_flow_of(shape, retry, first_retry or retry))
    executor = FlowExecutor(registry=registry, **settings)
    for step in shape.steps:
        executor.register_tool(
            Tool(
                name=step.name,
                description="A step of a benchmark.",
                input_schema=step.input_model,
                output_schema=step.output_model,
                fn=step.fn,
                lane=lane,
            )
        )
    return executor


def _flow_of(shape: Shape, retry: RetryPolicy | None, first_retry: RetryPolicy | None) -> Flow | DAGFlow:
    policies = [first_retry, *[retry] * (len(shape.steps) - 1)]
    if shape.linear:
        steps = [
            FlowStep(tool_name=step.name, input_mapping=dict(step.reads), retry=policy)
            for step, policy in zip(shape.steps, policies, strict=True)
        ]
        return Flow(name=NAME, version="1.0.0", description=shape.name, steps=steps)
    dag_steps = [
        DAGFlowStep(
            step_id=step.name,
            tool_name=step.name,
            depends_on=list(step.after),
            input_mapping=dict(step.reads),
            retry=policy,
        )
        for step, policy in zip(shape.steps, policies, strict=True)
    ]
    return DAGFlow(name=NAME, version="1.0.0", description=shape.name, steps=dag_steps)


def run_of(executor: FlowExecutor, shape: Shape) -> Callable[[], Mapping[str, Any]]:
    """One whole run on the sync lane, as a callable that returns the final output."""
    execute, initial = executor.execute_flow, shape.initial

    def run() -> Mapping[str, Any]:
        result = execute(NAME, initial)
        if not result.success or result.final_output is None:
            raise AssertionError(f"{shape.name}: the run did not succeed: {result.execution_log[-1]}")
        return result.final_output

    return run


def async_run_of(executor: FlowExecutor, shape: Shape) -> Callable[[], Awaitable[Mapping[str, Any]]]:
    """One whole run on the async lane."""
    execute, initial = executor.execute_flow_async, shape.initial

    async def run() -> Mapping[str, Any]:
        result = await execute(NAME, initial)
        if not result.success or result.final_output is None:
            raise AssertionError(f"{shape.name}: the run did not succeed: {result.execution_log[-1]}")
        return result.final_output

    return run
