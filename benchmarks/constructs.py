"""Maps, branches, sub-flows and middleware: what is compared for constructs that a chain does not have.

Each construct comes as a flow with its tools, and as a loop by hand that does the same work on the same models, keeps
the same records, and is what one would write who needs exactly this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from time import perf_counter_ns
from typing import Any

from pydantic import BaseModel

from benchmarks.limits import Record
from benchmarks.shapes import PRIME, WAIT_S, Pair, Shape, chain, one_number
from chainweaver import BaseMiddleware, ConditionalEdge, DAGFlow, DAGFlowStep, Flow, FlowExecutor, FlowStep, Tool

Run = Callable[[], Mapping[str, Any]]


class Sum(BaseModel):
    """Output of a step that adds."""

    total: int


def add(pair: Pair) -> dict[str, int]:
    """What every trivial item does."""
    return {"total": (pair.a + pair.b) % PRIME}


async def add_late(pair: Pair) -> dict[str, int]:
    """An item that waits."""
    await asyncio.sleep(WAIT_S)
    return {"total": pair.a + pair.b}


def tool(name: str, fn: Callable[[Any], Any], model: type[BaseModel] = Sum) -> Tool:
    """A tool that takes a pair."""
    return Tool(name=name, description="Of a benchmark.", input_schema=Pair, output_schema=model, fn=fn)


# ---- maps


def map_flow(tool_name: str, **options: Any) -> Flow:
    """A flow of one map over `items`."""
    step = FlowStep(tool_name=tool_name, map_over="items", input_mapping={"a": "item", "b": "k"}, **options)
    return Flow(name="bench", version="1.0.0", description="A map.", steps=[step])


def map_by_hand(items: list[int], k: int) -> Run:
    """The loop over the items."""
    validate_input, validate_output = (model.__pydantic_validator__.validate_python for model in (Pair, Sum))

    def run() -> Mapping[str, Any]:
        totals, records = [], []
        for item in items:
            started_ns = perf_counter_ns()
            outputs = validate_output(add(validate_input({"a": item, "b": k}))).__dict__
            totals.append(outputs["total"])
            records.append(Record("add", outputs, started_ns, perf_counter_ns()))
        return {"items": items, "k": k, "total": totals}

    return run


# ---- branches


def branching(groups: int) -> tuple[DAGFlow, list[Tool], Run]:
    """Each group: a step with two ways out, of which one is taken, and the next group joins them. And by hand."""
    steps: list[DAGFlowStep] = []
    tools: list[Tool] = []
    loop: list[tuple[Any, ...]] = []
    before: list[str] = []
    key = "x"
    for number in range(groups):
        fork, odd, even = f"fork{number}", f"odd{number}", f"even{number}"
        tools += [tool(name, adds(name), one_number(name)) for name in (fork, odd, even)]
        steps += [
            DAGFlowStep(
                step_id=fork,
                tool_name=fork,
                depends_on=before,
                input_mapping={"a": key, "b": "k"},
                branches=[ConditionalEdge(target_step_id=odd, predicate=f"{fork} > {PRIME // 2}")],
                default_next=even,
            ),
            *(
                DAGFlowStep(step_id=way, tool_name=way, depends_on=[fork], input_mapping={"a": fork, "b": "k"})
                for way in (odd, even)
            ),
        ]
        loop.append((key, *(tools[at] for at in (-3, -2, -1))))
        before, key = [odd, even], fork
    flow = DAGFlow(name="bench", version="1.0.0", description="Branches.", steps=steps)
    return flow, tools, branching_by_hand(loop)


FORKED = {"x": 1, "k": 20_011}
"""The input of the branching flow."""


def branching_by_hand(loop: list[tuple[Any, ...]]) -> Run:
    """The same with an `if`."""
    bound = [(key, *map(_bound, tools)) for key, *tools in loop]

    def run() -> Mapping[str, Any]:
        context = dict(FORKED)
        records = []
        for key, fork, odd, even in bound:
            name, validate_input, fn, validate_output = fork
            started_ns = perf_counter_ns()
            outputs = validate_output(fn(validate_input({"a": context[key], "b": context["k"]}))).__dict__
            context.update(outputs)
            records.append(Record(name, outputs, started_ns, perf_counter_ns()))
            way, validate_input, fn, validate_output = odd if context[name] > PRIME // 2 else even
            started_ns = perf_counter_ns()
            outputs = validate_output(fn(validate_input({"a": context[name], "b": context["k"]}))).__dict__
            context.update(outputs)
            records.append(Record(way, outputs, started_ns, perf_counter_ns()))
        return context

    return run


def _bound(one: Tool) -> tuple[Any, ...]:
    models = (one.input_schema, one.output_schema)
    validate_input, validate_output = (model.__pydantic_validator__.validate_python for model in models)
    return one.name, validate_input, one.fn, validate_output


def adds(key: str) -> Callable[[Pair], dict[str, int]]:
    """A function that adds, with an output of its own."""
    return lambda pair: {key: (pair.a + pair.b) % PRIME}


# ---- sub-flows


def sub_flows(flows: int, length: int) -> tuple[list[Flow], list[Tool], Shape]:
    """A chain of sub-flows, each a chain of steps; the shape is the whole chain in one piece."""
    shape = chain(flows * length)
    tools = [
        Tool(name=one.name, description="d", input_schema=one.input_model, output_schema=one.output_model, fn=one.fn)
        for one in shape.steps
    ]
    parts = []
    for at in range(flows):
        inside = shape.steps[at * length : (at + 1) * length]
        parts.append(
            Flow(
                name=f"part{at}",
                version="1.0.0",
                description="A part of a chain.",
                outputs=(f"v{(at + 1) * length}",),
                steps=[FlowStep(tool_name=one.name, input_mapping=dict(one.reads)) for one in inside],
            )
        )
    steps = [FlowStep(flow_name=part.name) for part in parts]
    whole = Flow(name="bench", version="1.0.0", description="Sub-flows.", steps=steps)
    return [*parts, whole], tools, shape


def sub_flows_by_hand(shape: Shape, flows: int) -> Run:
    """A loop over parts, each with a context and records of its own, of which one value goes on."""
    length = len(shape.steps) // flows
    parts = [
        (f"part{at}", f"v{at * length}", f"v{(at + 1) * length}", shape.steps[at * length : (at + 1) * length])
        for at in range(flows)
    ]
    loops = [(name, first, last, list(map(_bound_step, steps))) for name, first, last, steps in parts]

    def run() -> Mapping[str, Any]:
        outer = dict(shape.initial)
        records = []
        for name, first, last, steps in loops:
            began_ns = perf_counter_ns()
            context = {first: outer[first], "k": outer["k"]}
            inner = []
            for step, validate_input, fn, validate_output, reads in steps:
                started_ns = perf_counter_ns()
                outputs = validate_output(fn(validate_input({field: context[key] for field, key in reads}))).__dict__
                context.update(outputs)
                inner.append(Record(step, outputs, started_ns, perf_counter_ns()))
            given = {last: context[last]}
            outer.update(given)
            records.append((Record(name, given, began_ns, perf_counter_ns()), inner))
        return outer

    return run


def _bound_step(step: Any) -> tuple[Any, ...]:
    models = (step.input_model, step.output_model)
    validate_input, validate_output = (model.__pydantic_validator__.validate_python for model in models)
    return step.name, validate_input, step.fn, validate_output, step.reads


# ---- middleware


class Watching(BaseMiddleware):
    """Observes every step and does nothing."""

    def on_step_start(self, context: Any) -> None:
        """Nothing."""

    def on_step_end(self, context: Any) -> None:
        """Nothing."""


def run_flow(executor: FlowExecutor, initial: Mapping[str, Any]) -> Run:
    """One run on the sync lane."""

    def run() -> Mapping[str, Any]:
        return executor.execute_flow("bench", initial).raise_for_failure().final_output or {}

    return run


def equals(expected: Mapping[str, Any]) -> Callable[[Any], None]:
    """A check that an answer is the one written by hand."""

    def check(answer: Any) -> None:
        if dict(answer) != dict(expected):
            raise AssertionError("the answer is not the one of the loop by hand")

    return check
