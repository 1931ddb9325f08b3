"""What the tests of the run core share: flows in a line or two, and a run that a test replies to by hand.

Nothing is performed here: tools are never called, time passes when a test says so. `Walk` holds a run at limit 1,
`Crowd` one above; both show the commands as plain tuples, so that an assertion reads like the clause it proves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import create_model

from chainweaver import DAGFlow, DAGFlowStep, Flow, FlowStep, Tool
from chainweaver._execution import (
    Command,
    Invoke,
    Lookup,
    Run,
    Save,
    Schedule,
    Settle,
    Sleep,
    StepRun,
    Tell,
    capture_within,
    conclude,
    take_input,
    walk,
)
from chainweaver._execution.commands import Ask
from chainweaver._execution.trace import Capture
from chainweaver.compiler import compile_flow
from chainweaver.flow.callbacks import CapabilityContext
from chainweaver.plan import Plan, PlannedStep

TICK_S = 0.001
"""Seconds that a reply takes unless the test says otherwise."""


# ---- definitions


def a_tool(name: str, takes: Any = (), gives: Any = (), fn: Callable[..., Any] | None = None, **options: Any) -> Tool:
    """A tool with input and output fields, written as a dict of types, a list of names of integers, or a model."""
    return Tool(
        name=name,
        description=f"{name} of a test",
        input_schema=a_model(f"{name}_input", takes),
        output_schema=a_model(f"{name}_output", gives),
        fn=fn or _never,
        **options,
    )


def a_model(name: str, fields: Any) -> Any:
    """A model from a dict of types or a list of names of integers; a model stays what it is."""
    if isinstance(fields, type):
        return fields
    types = fields if isinstance(fields, Mapping) else dict.fromkeys(fields, int)
    described: dict[str, Any] = {key: kind if isinstance(kind, tuple) else (kind, ...) for key, kind in types.items()}
    return create_model(name, **described)


def _never(*args: Any) -> Any:
    raise AssertionError("the run core calls no tool")


def a_step(name: str, needs: str = "", **options: Any) -> DAGFlowStep:
    """A step called like its tool; `needs` are the ids it depends on, separated by blanks."""
    return DAGFlowStep(step_id=name, depends_on=needs.split(), **{"tool_name": name, **options})


def a_sub_step(name: str, flow: str, needs: str = "", **options: Any) -> DAGFlowStep:
    """A step that runs another flow."""
    return DAGFlowStep(step_id=name, flow_name=flow, depends_on=needs.split(), **options)


def a_flow(name: str, steps: list[Any], **options: Any) -> DAGFlow | Flow:
    """A DAG of these steps, or a chain when they are plain `FlowStep`s."""
    facts: dict[str, Any] = {"name": name, "version": "1.0.0", "description": "of a test", **options}
    if all(isinstance(one, DAGFlowStep) for one in steps):
        return DAGFlow(steps=steps, **facts)
    return Flow(steps=steps, **facts)


def a_plan(steps: list[Any], tools: list[Tool], *, flows: Any = (), **options: Any) -> Plan:
    """The plan of a DAG of these steps, or of a chain when they are plain `FlowStep`s; `flows` are those they run."""
    return compile_flow(a_flow("flow", steps, **options), tools, flows=flows).plan


def one_step(tool: Tool, *others: Tool, flow: Mapping[str, Any] | None = None, **options: Any) -> Plan:
    """The plan of a chain of a single step; other tools may be its fallback."""
    return a_plan([FlowStep(tool_name=tool.name, **options)], [tool, *others], **(flow or {}))


def a_run(
    plan: Plan,
    initial: dict[str, Any] | None = None,
    *,
    dynamic: Mapping[str, Any] | None = None,
    deadline_s: float | None = None,
    capture: Capture | None = None,
    **attended: Any,
) -> Run:
    """A run that is about to start at time 0; `attended` are listening, announcing, saving, caching, resumed, rules."""
    run = Run(plan, dict(initial or {}), 0, 0.0, capture or capture_within(64), lambda: "0" * 32)
    run.slots[-1] = dict(dynamic or {})
    run.deadline_ns = None if deadline_s is None else round(deadline_s * 1e9)
    for name, value in attended.items():
        setattr(run, name, value)
    take_input(run)
    return run


# ---- runs


def asked(command: Command | None) -> Any:
    """A command as a tuple that starts with a verb; None when there is none."""
    if command is None:
        return None
    if isinstance(command, tuple):
        value: Any = command[1]
        return "call", command[0].name, value if isinstance(value, list) else dict(value.__dict__)
    if isinstance(command, Invoke):
        if isinstance(command.value, CapabilityContext):
            wanted = command.value
            return "perform", wanted.capability_id, dict(wanted.inputs), command.timeout_s, wanted.attempt
        attempt = None if command.context is None else command.context.attempt
        return "invoke", command.tool.name, dict(command.value.__dict__), command.timeout_s, attempt
    if isinstance(command, Ask):
        return "ask", command.kind, command.context.step_id, command.timeout_s
    if isinstance(command, Sleep):
        return "sleep", command.seconds, command.jitter
    if isinstance(command, Lookup):
        return "look up", command.tool.name, command.timeout_s
    if isinstance(command, Settle):
        return "settle", command.outputs
    if isinstance(command, Save):
        return "save", place_of(command.run, command.step), command.outputs
    return moments(command)[-1]


def moments(command: Command | None) -> list[tuple[str, str]]:
    """What listeners hear of a command: the end of a step may be told together with the start of the next one."""
    assert isinstance(command, Tell)
    run, step = command.run, command.step
    if step is None:
        return [(command.moment, "/".join((run.plan.flow_name, *run.path)))]
    ended = [] if command.over is None else [("step_end", place_of(run, command.over))]
    return [*ended, (command.moment, place_of(run, step))]


def place_of(run: Run, step: PlannedStep) -> str:
    """A step as messages call it, an item by its position, behind the steps that its run is nested in."""
    return "/".join((*run.path, step.step_id if run.is_map else step.label))


class Walk:
    """A run at limit 1 in the hands of a test.

    Attributes:
        command: What the run asks for now, None once it has ended; `asks` shows it as a tuple.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.command: Command | None = None
        self._life = walk(run)
        self._go_on(self._life.__next__)

    @property
    def asks(self) -> Any:
        return asked(self.command)

    def ok(self, reply: Any = None, after_s: float = TICK_S) -> Any:
        """Reply with a value; what the run asks for next."""
        self.run.now_ns += round(after_s * 1e9)
        return self._go_on(lambda: self._life.send(reply))

    def to_the_end(self, replies: Mapping[str, Any]) -> list[Any]:
        """Reply by the name of the tool, with None where no tool is called; everything that was asked for and told."""
        seen: list[Any] = []
        while self.command is not None:
            asks = self.asks
            seen += moments(self.command) if isinstance(self.command, Tell) else [asks]
            reply = replies[asks[1]] if asks[0] in ("call", "invoke", "perform") else None
            self.err(reply) if isinstance(reply, BaseException) else self.ok(reply)
        return seen

    def err(self, exc: BaseException, after_s: float = TICK_S) -> Any:
        """Reply with an exception; what the run asks for next."""
        self.run.now_ns += round(after_s * 1e9)
        return self._go_on(lambda: self._life.throw(exc))

    def _go_on(self, resume: Callable[[], Command]) -> Any:
        try:
            self.command = resume()
        except StopIteration:
            self.command = None
            conclude(self.run)
        return self.asks


class Crowd:
    """A run above limit 1 in the hands of a test; step runs are named by the ids of their steps.

    Those of nested runs have the ids of the steps around them in front: "sub/a", "each/0".

    Attributes:
        schedule: The schedule itself.
        flying: Step id -> step run, for all that have been handed out.
    """

    def __init__(self, run: Run, limit: int = 16) -> None:
        self.run = run
        self.schedule = Schedule(run, limit)
        self.flying: dict[str, StepRun] = {}
        self.began = self._handed_out(self.schedule.start())

    def ok(self, step_id: str, reply: Any = None, after_s: float = TICK_S) -> list[str]:
        """Reply with a value for a step; the ids of the steps that can go on now."""
        self.run.now_ns += round(after_s * 1e9)
        return self._handed_out(self.schedule.ok(self.flying[step_id], reply))

    def err(self, step_id: str, exc: BaseException, after_s: float = TICK_S) -> list[str]:
        """Reply with an exception for a step; the ids of the steps that can go on now."""
        self.run.now_ns += round(after_s * 1e9)
        return self._handed_out(self.schedule.err(self.flying[step_id], exc))

    def cancel(self, cancelled: Any) -> list[str]:
        return self._handed_out(self.schedule.cancel(cancelled))

    def give_up(self, cancelled: Any) -> list[str]:
        return self._handed_out(self.schedule.give_up(cancelled))

    def asks(self, step_id: str) -> Any:
        """What a step asks for now, as a tuple."""
        return asked(self.flying[step_id].command)

    def doomed(self) -> list[str]:
        """The ids of the doomed step runs, taken from the schedule as a lane takes them."""
        doomed, self.schedule.doomed = self.schedule.doomed, []
        return [_name(one) for one in doomed]

    def concluded(self) -> Run:
        """The run after its end."""
        assert self.schedule.over
        conclude(self.run)
        return self.run

    def _handed_out(self, going: list[StepRun]) -> list[str]:
        self.flying.update((_name(one), one) for one in going)
        return [_name(one) for one in going]


def _name(step_run: StepRun) -> str:
    return "/".join((*step_run.owner.run.path, step_run.step.step_id))


# ---- outcomes


def statuses(run: Run) -> dict[str, str | None]:
    """Step id -> outcome, None for steps that never started."""
    return {step.step_id: run.status_of(step.index) for step in run.plan.steps}


def error_of(run: Run, index: int = 0) -> Any:
    """The error with which a step failed, was skipped or cancelled."""
    return run.details[index].error


NEVER_RUN = {
    "status": None,
    "inputs": None,
    "values": None,
    "shown": None,
    "by_reference": (),
    "error": None,
    "retries": (0, ()),
    "fallback": None,
    "decision": None,
    "approval": None,
    "nested": None,
}


def facts(run: Run) -> dict[str, Any]:
    """All that counts of a concluded run: no times, no steps that a failure had made superfluous."""
    steps: list[Any] = []
    for step in run.plan.steps:
        detail = run.details.get(step.index)
        if detail is not None and detail.surplus:
            steps.append(NEVER_RUN)
            continue
        error = None if detail is None else detail.error
        steps.append(
            {
                "status": run.status_of(step.index),
                "inputs": run.inputs[step.index],
                "values": run.slots[step.index + 1],
                "shown": run.shown_outputs(step.index),
                "by_reference": run.referred(step.index),
                "error": None if error is None else (type(error).__name__, str(error), repr(error.__cause__)),
                "retries": (0, ()) if detail is None else (detail.retries, detail.retry_errors),
                "fallback": None if detail is None else detail.fallback,
                "decision": run.decision_of(step),
                "approval": None if detail is None else detail.approval,
                "nested": None if detail is None or detail.nested is None else facts(detail.nested),
            }
        )
    return {
        "steps": steps,
        "status": run.status,
        "final_output": run.final_output,
        "failures": sorted(index for index in run.failures if not run.details[index].surplus),
        "collisions": run.collisions,
        "output_error": str(run.output_error),
    }
