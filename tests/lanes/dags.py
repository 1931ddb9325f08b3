"""Random flows with a story, and a small oracle that says what has to come of them.

The oracle goes through the steps one after the other and knows nothing of plans, generators or lanes. It is written
from the clauses and reads like them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from zlib import crc32

from pydantic import BaseModel

from chainweaver import DAGFlow, DAGFlowStep, RetryPolicy, Tool
from chainweaver.plan import ToolContext
from tests.lanes.table import pause

T = TypeVar("T")
Choose = Callable[[Sequence[T]], T]

INITIAL = {"seed": 5, "k0": 7}
POOL = ("seed", "k0", "k1", "k2")
"""Keys that steps may read; "k1" and "k2" are missing until somebody writes them."""


class Numbers(BaseModel):
    """Inputs of every tool."""

    x: int
    y: int = 0


class Pair(BaseModel):
    """Outputs of every tool."""

    v: int
    w: int


@dataclass(frozen=True)
class Behaviour:
    """What a tool does.

    Attributes:
        failures: How many attempts raise before one succeeds.
        is_bad: It returns what its schema refuses.
        is_async, naps: How it takes its time; nothing that a result may depend on.
    """

    failures: int = 0
    is_bad: bool = False
    is_async: bool = False
    naps: int = 0


@dataclass(frozen=True)
class Step:
    """One step of a random flow."""

    name: str
    needs: tuple[str, ...]
    reads: dict[str, str]
    writes: dict[str, str] | None
    behaviour: Behaviour
    retries: int | None
    on_error: str
    fallback: Behaviour | None


@dataclass(frozen=True)
class Story:
    """A random flow: its steps and policies."""

    steps: tuple[Step, ...]
    on_failure: str
    on_collision: str

    def definition(self) -> DAGFlow:
        return DAGFlow(
            name="story",
            version="1.0.0",
            description="a random flow",
            on_failure=self.on_failure,
            on_context_collision=self.on_collision,
            steps=[_definition(step) for step in self.steps],
        )

    def tools(self) -> list[Tool]:
        tools = [_tool(step.name, step.behaviour) for step in self.steps]
        return tools + [_tool(f"{step.name}_else", step.fallback) for step in self.steps if step.fallback]


def make_story(choose: Choose[Any]) -> Story:
    """A random flow, every choice made by `choose`."""
    count = choose((1, 2, 3, 4, 5, 5, 6, 6, 7, 7, 8, 8))
    steps: list[Step] = []
    for index in range(count):
        name = f"s{index}"
        earlier = [step.name for step in steps]
        needs = tuple(one for one in earlier if choose((True, False, False)))
        on_error = choose(("fail", "fail", "skip", "skip", "fallback"))
        steps.append(
            Step(
                name=name,
                needs=needs,
                reads={field: _make_key(choose, needs) for field in ("x", "y")},
                writes=choose(
                    (
                        *[{f"{name}_own": "v"}] * 4,
                        *[{f"{name}_own": "w", f"{name}_b": "v"}] * 2,
                        {f"{name}_own": "v", choose(POOL[1:]): "w"},
                        {f"{name}_own": "v", choose(POOL[1:]): "w"},
                        None,
                    )
                ),
                behaviour=_make_behaviour(choose),
                retries=choose((None, 0, 1, 2, 2)),
                on_error=on_error,
                fallback=_make_behaviour(choose) if on_error == "fallback" else None,
            )
        )
    order = choose((False, True))
    return Story(
        tuple(reversed(steps) if order else steps),
        choose(("stop", "stop", "finish")),
        choose(("overwrite", "warn", "warn", "error")),
    )


def _make_key(choose: Choose[Any], needs: Sequence[str]) -> Any:
    """Mostly a key that will be there: a flow that fails at once has little to tell."""
    written = [f"{one}_own" for one in needs] or ["seed"]
    return choose((*written * 3, *written * 3, "seed", "seed", "k0", "k0", choose(POOL)))


def _make_behaviour(choose: Choose[Any]) -> Behaviour:
    failures = choose((0,) * 9 + (1, 1, 2, 2, 9))
    return Behaviour(failures, choose((False,) * 19 + (True,)), choose((False, True)), choose((0, 1, 2)))


def _definition(step: Step) -> DAGFlowStep:
    return DAGFlowStep(
        step_id=step.name,
        tool_name=step.name,
        depends_on=list(step.needs),
        input_mapping=dict(step.reads),
        output_mapping=step.writes,
        retry=None if step.retries is None else RetryPolicy(max_retries=step.retries, backoff_seconds=0),
        on_error=f"fallback:{step.name}_else" if step.on_error == "fallback" else step.on_error,
    )


def _tool(name: str, behaviour: Behaviour) -> Tool:
    """A tool; those that a worker process may call are the ones that it finds in TOOLS."""
    if behaviour.is_async:
        return _make_tool(name, behaviour)
    return TOOLS[_key(name, behaviour)]


def _key(name: str, behaviour: Behaviour) -> str:
    return f"{name} {behaviour.failures} {behaviour.is_bad} {behaviour.naps}"


def _make_tool(name: str, behaviour: Behaviour) -> Tool:
    def act(numbers: Numbers, context: ToolContext) -> dict[str, Any]:
        if context.attempt <= behaviour.failures:
            raise ValueError(f"{name} fails at attempt {context.attempt}")
        return {"v": "nothing"} if behaviour.is_bad else values_of(name, numbers.x, numbers.y)

    def run(numbers: Numbers, context: ToolContext) -> dict[str, Any]:
        if behaviour.naps:
            time.sleep(behaviour.naps * 0.0005)
        return act(numbers, context)

    async def run_async(numbers: Numbers, context: ToolContext) -> dict[str, Any]:
        if behaviour.naps:
            await pause(behaviour.naps * 0.0005)
        return act(numbers, context)

    def run_plainly(numbers: Numbers) -> dict[str, Any]:
        return values_of(name, numbers.x, numbers.y)

    # A tool that needs no context takes another path through the run core; both are in the stories.
    plain = not behaviour.failures and not behaviour.is_bad and not behaviour.naps and not behaviour.is_async
    fn: Any = run_async if behaviour.is_async else run_plainly if plain else run
    return Tool(name=name, description="a tool of a story", input_schema=Numbers, output_schema=Pair, fn=fn)


TOOLS = {
    _key(name, behaviour): _make_tool(name, behaviour)
    for index in range(8)
    for name in (f"s{index}", f"s{index}_else")
    for failures in (0, 1, 2, 9)
    for is_bad in (False, True)
    for naps in (0, 1, 2)
    for behaviour in (Behaviour(failures, is_bad, False, naps),)
}
"""Every sync tool of every story, under names that lead to it in any process that imports this module."""


def values_of(name: str, x: int, y: int) -> dict[str, int]:
    """The outputs of a tool that succeeds."""
    salt = crc32(name.encode())
    return {"v": (31 * x + 17 * y + salt) % 1009, "w": (13 * x + 7 * y + salt) % 997}


# ---- the oracle


@dataclass
class Outcome:
    """What has to come of one step."""

    status: str
    retries: int = 0
    outputs: dict[str, int] | None = None
    error: str | None = None
    fallback: bool = False


@dataclass
class Ending:
    """What has to come of a whole flow."""

    status: str = "ok"
    raised: str | None = None
    steps: dict[str, Outcome] = field(default_factory=dict)
    context: dict[str, int] = field(default_factory=lambda: dict(INITIAL))


def ending_of(story: Story) -> Ending:
    """Go through the steps in plan order, one after the other (R2)."""
    by_name = {step.name: step for step in story.steps}
    levels: dict[str, int] = {}

    def level(name: str) -> int:
        if name not in levels:
            levels[name] = max((level(need) + 1 for need in by_name[name].needs), default=0)
        return levels[name]

    ordered = sorted(story.steps, key=lambda step: level(step.name))
    ending = Ending()
    written: dict[str, dict[str, int]] = {}
    for position, step in enumerate(ordered):
        before = [one for one in ordered[:position] if level(one.name) < level(step.name)]
        siblings = [one for one in ordered[:position] if level(one.name) == level(step.name)]
        outcome = _outcome(step, before, siblings, written, ending.steps)
        if outcome is None:
            continue
        ending.steps[step.name] = outcome
        if outcome.status == "ok":
            merged = _merged(step, outcome)
            rivals = [written.get(one.name, {}) for one in siblings]
            _collide(story, outcome, merged, rivals, ending)
        if outcome.status == "ok":
            written[step.name] = merged
            ending.context.update(merged)
        elif outcome.status == "failed":
            ending.status = "failed"
            if story.on_failure == "stop" or ending.raised:
                break
    return ending


def _outcome(
    step: Step,
    before: list[Step],
    siblings: list[Step],
    written: dict[str, dict[str, int]],
    ended: dict[str, Outcome],
) -> Outcome | None:
    """What a step does with what it can see (R3); None when a failure keeps it from running (R19)."""
    needs = set(step.needs)
    inputs: dict[str, int] = {}
    missing = False
    for name, key in step.reads.items():
        value: int | None = INITIAL.get(key)
        for writer in before:
            if key in written.get(writer.name, ()):
                value = written[writer.name][key]
        for writer in reversed(before):
            if key in _keys(writer):
                needs.add(writer.name)
                if writer.on_error != "skip":
                    break
        if value is None:
            missing = True
        else:
            inputs[name] = value
    if any(need not in ended or ended[need].status == "failed" for need in needs):
        return None
    refused = "skipped" if step.on_error == "skip" else "failed"
    if step.on_error != "skip" and any(_keys(step) & _keys(one) for one in siblings if one.on_error != "skip"):
        return Outcome("failed", error="FlowExecutionError")  # R12: certain beforehand, so that nothing is called
    if missing:
        return Outcome(refused, error="InputMappingError")
    return _called(step, inputs)


def _called(step: Step, inputs: dict[str, int]) -> Outcome:
    """What comes of calling the tool, again and again, and then its fallback (R20, R21)."""
    outcome = _attempts(step, step.name, step.behaviour, inputs)
    if outcome.status == "ok":
        return outcome
    if step.on_error == "skip":
        outcome.status = "skipped"
    elif step.fallback is not None:
        second = _attempts(step, f"{step.name}_else", step.fallback, inputs)
        second.retries += outcome.retries
        second.fallback = True
        return second
    return outcome


def _attempts(step: Step, name: str, behaviour: Behaviour, inputs: dict[str, int]) -> Outcome:
    retries = min(behaviour.failures, step.retries or 0)
    if behaviour.failures > retries:
        return Outcome("failed", retries, error="FlowExecutionError")
    if behaviour.is_bad:
        return Outcome("failed", retries, error="SchemaValidationError")
    return Outcome("ok", retries, values_of(name, inputs["x"], inputs["y"]))


def _keys(step: Step) -> set[str]:
    return {"v", "w"} if step.writes is None else set(step.writes)


def _merged(step: Step, outcome: Outcome) -> dict[str, int]:
    assert outcome.outputs is not None
    if step.writes is None:
        return outcome.outputs
    return {key: outcome.outputs[output] for key, output in step.writes.items()}


def _collide(
    story: Story, outcome: Outcome, merged: dict[str, int], rivals: list[dict[str, int]], ending: Ending
) -> None:
    """R12: siblings never write one key; under "error" nobody writes a key that is there. Both fail the step."""
    if any(key in rival for rival in rivals for key in merged):
        outcome.status, outcome.error, outcome.outputs = "failed", "FlowExecutionError", None
    elif story.on_collision == "error" and any(key in ending.context for key in merged):
        outcome.status, outcome.error, outcome.outputs = "failed", "ContextKeyCollisionError", None
        ending.raised = "ContextKeyCollisionError"
