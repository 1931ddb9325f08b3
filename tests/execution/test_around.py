"""Around a step or a run: generators that wait before it, look at its outcome, or keep it from running (R38)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from chainweaver._execution import Run, RunCancelled, Sleep
from chainweaver._execution.around import StepOutcome, enter_run, leave_run
from chainweaver._execution.commands import Proceed
from chainweaver._execution.rules import Rules
from chainweaver.exceptions import FlowExecutionError, GuardrailViolationError
from chainweaver.flow import RetryPolicy
from tests.execution.kit import (
    Crowd,
    Walk,
    a_flow,
    a_plan,
    a_run,
    a_step,
    a_sub_step,
    a_tool,
    error_of,
    one_step,
    statuses,
)

A, B = (a_tool(name, ["n"], [f"{name}_out"]) for name in "ab")
AGAIN = RetryPolicy(max_retries=1, backoff_seconds=5.0)

Wrapper = Generator[Any, Any, None]


class Around:
    """Makes generators around steps or runs, and notes what they see."""

    def __init__(self, name: str = "w", waits: tuple[float, ...] = (), **options: Any) -> None:
        self.name = name
        self.waits = waits
        self.seen: list[Any] = options.pop("seen", [])
        self.options = options

    def __call__(self, run: Run, step: Any = None) -> Wrapper:
        return self._wrapper("run" if step is None else step.label, run.plan.flow_name)

    def _wrapper(self, label: str, flow_name: str) -> Wrapper:
        place = f"{self.name} {label if label != 'run' else flow_name}"
        self.seen.append(f"{place} opens")
        try:
            for seconds in self.waits:
                self.seen.append((place, (yield Sleep(seconds))))
            if "asks" in self.options:
                yield self.options["asks"]
            if "raises" in self.options:
                raise self.options["raises"]
            if not self.options.get("ends"):
                outcome = yield Proceed()
                self.seen.append((place, outcome))
                if self.options.get("goes_on"):
                    yield Sleep(1.0)
        except GeneratorExit:
            self.seen.append(f"{place} is closed")
            raise


def outcomes(wrapper: Around) -> list[StepOutcome]:
    """What the generators were told at their ends."""
    return [one[1] for one in wrapper.seen if isinstance(one, tuple) and isinstance(one[1], StepOutcome)]


def stepping(*wrappers: Any, attended: Any = None, **step: Any) -> Walk:
    """One step inside of generators."""
    return Walk(a_run(one_step(A, B, **step), {"n": 1}, rules=Rules(around_step=wrappers), **(attended or {})))


# ---- around a step


def test_a_generator_waits_lets_proceed_and_learns_the_outcome():
    """R38: its waits are commands of the run, and the reply to one is the time."""
    wrapper = Around(waits=(2.0, 0.5))
    walk = stepping(wrapper)

    assert walk.asks == ("sleep", 2.0, False)
    assert walk.ok(after_s=2.0) == ("sleep", 0.5, False)
    assert walk.ok(after_s=0.5) == ("call", "a", {"n": 1})
    walk.ok({"a_out": 2}, after_s=1.0)
    assert wrapper.seen == [
        "w a opens",
        ("w a", 2_000_000_000),
        ("w a", 2_500_000_000),
        ("w a", StepOutcome("ok", None, {"a_out": 2}, 3_500_000_000)),
    ]
    assert (walk.run.started, walk.run.status) == ([2_500_000_000], "ok")


def test_the_first_generator_is_the_outermost():
    """R38: it opens first and learns the outcome last."""
    seen: list[Any] = []
    walk = stepping(Around("outer", seen=seen), Around("inner", seen=seen))
    walk.ok({"a_out": 2})

    assert [one if isinstance(one, str) else one[0] for one in seen] == [
        "outer a opens",
        "inner a opens",
        "inner a",
        "outer a",
    ]


@pytest.mark.parametrize(("on_error", "status"), [("fail", "failed"), ("skip", "skipped")])
def test_the_outcome_of_a_step_that_fails_has_its_error(on_error: str, status: str):
    """R38: after its last attempt."""
    wrapper = Around()
    walk = stepping(wrapper, on_error=on_error, retry=AGAIN)
    walk.err(OSError("busy"))
    walk.ok(after_s=5.0)
    walk.err(OSError("down"))
    [outcome] = outcomes(wrapper)

    assert (outcome.status, outcome.outputs, outcome.error) == (status, None, error_of(walk.run))


@pytest.mark.parametrize("way", ["walk", "crowd"])
def test_the_outcome_of_a_step_that_is_cancelled_says_so(way: str):
    """R23, R38: also when the run ends."""
    wrapper = Around()
    if way == "walk":
        stepping(wrapper).err(RunCancelled("token"))
    else:
        crowd = Crowd(a_run(one_step(A), {"n": 1}, rules=Rules(around_step=(wrapper,))))
        crowd.err("0", RunCancelled("token"))
    [outcome] = outcomes(wrapper)

    assert (outcome.status, outcome.outputs, outcome.error) == ("cancelled", None, None)


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "raises": ({"raises": OSError("no quota")}, "did not let it proceed: OSError: no quota"),
    "ends": ({"ends": True}, "it ended without yielding Proceed()"),
    "waits for text": ({"asks": Sleep("x")}, "ValueError: it yielded Sleep('x'), and a wait is a number of seconds"),  # type: ignore[arg-type]
    "waits for no number": ({"asks": Sleep(float("nan"))}, "it yielded Sleep(nan), and a wait is a number of seconds"),
    "waits for ever": ({"asks": Sleep(float("inf"))}, "it yielded Sleep(inf), and a wait is a number of seconds"),
    "asks for more": ({"asks": 3}, "it yielded 3, which is neither Sleep(seconds) nor Proceed()"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("on_error", ["fail", "skip", "fallback:b"])
def test_a_generator_that_does_not_let_proceed_fails_the_step_whatever_its_policy(refusal: str, on_error: str):
    """R38: nothing is called; those around it learn of the failure, those inside never open."""
    options, why = REFUSALS[refusal]
    outer, inner = Around("outer"), Around("inner")
    walk = stepping(outer, Around("bad", **options), inner, on_error=on_error, retry=AGAIN)
    error = error_of(walk.run)

    assert walk.asks is None
    assert statuses(walk.run) == {"0": "failed"}
    assert isinstance(error, FlowExecutionError)
    assert why in str(error)
    assert error.__cause__ is not None
    assert [one.error for one in outcomes(outer)] == [error]
    assert (inner.seen, walk.run.inputs) == ([], [{}])


def test_a_wait_that_is_over_already_is_none():
    """R1, R38: what is left of an hour may be less than nothing, and no lane is asked to wait for that."""
    walk = stepping(Around(waits=(-1e-9,)))

    assert walk.asks == ("sleep", 0.0, False)


def test_an_error_of_ours_is_recorded_as_it_is():
    """R18, R38: a limiter may have an error of its own."""
    error = GuardrailViolationError("a", 0, "mine")

    assert error_of(stepping(Around(raises=error)).run) is error


def test_what_makes_a_generator_may_raise_as_well():
    """R17, R38: a step that fails has a record, and the run goes on to its end."""

    def broken(run: Run, step: Any) -> Wrapper:
        raise OSError("no generator")

    walk = stepping(broken)

    assert statuses(walk.run) == {"0": "failed"}
    assert "OSError: no generator" in str(error_of(walk.run))


def test_listeners_hear_of_a_step_that_was_not_let_proceed():
    """R38: every end has its beginning."""
    walk = stepping(Around(raises=OSError("no quota")), attended={"listening": True})

    assert walk.to_the_end({}) == [("step_start", "a"), ("step_end", "a")]


def test_a_generator_that_asks_for_more_after_its_proceed_is_closed():
    """R38: exactly one Proceed, and nothing after it."""
    wrapper = Around(goes_on=True)
    walk = stepping(wrapper)
    walk.ok({"a_out": 2})

    assert wrapper.seen[-1] == "w a is closed"
    assert walk.run.status == "ok"


@pytest.mark.parametrize("waits", [5.0, 1.0])
def test_a_wait_beyond_the_deadline_ends_the_run_at_the_deadline(waits: float):
    """R22, R38: the step never started; the generator is closed, and those around it learn that it was cancelled."""
    outer, wrapper = Around("outer"), Around("w", waits=(waits,))
    walk = stepping(outer, wrapper, attended={"deadline_s": 1.0})

    assert walk.asks == ("sleep", 1.0, False)
    assert walk.ok(after_s=1.0) is None
    assert walk.run.cancelled is not None
    assert (walk.run.status, walk.run.cancelled.reason) == ("cancelled", "deadline")
    assert wrapper.seen[-1] == "w a is closed"
    assert [one.status for one in outcomes(outer)] == ["cancelled"]
    assert statuses(walk.run) == {"0": None}


@pytest.mark.parametrize("way", ["walk", "crowd"])
def test_a_run_that_ends_while_a_generator_waits_closes_it(way: str):
    """R23, R38: with GeneratorExit, as any generator that is left."""
    wrapper = Around(waits=(5.0,))
    run = a_run(one_step(A), {"n": 1}, rules=Rules(around_step=(wrapper,)))
    if way == "walk":
        Walk(run).err(RunCancelled("token"))
    else:
        crowd = Crowd(run)
        crowd.err("0", RunCancelled("token"))
        crowd.concluded()

    assert wrapper.seen[-1] == "w a is closed"
    assert (run.status, statuses(run)) == ("cancelled", {"0": None})


def test_a_wait_before_a_step_holds_no_place():
    """R4, R38: others go on meanwhile."""

    def waits(run: Run, step: Any) -> Wrapper:
        return Around(waits=(5.0,) if step.label == "a" else ())(run, step)

    crowd = Crowd(a_run(a_plan([a_step("a"), a_step("b")], [A, B]), {"n": 1}, rules=Rules(around_step=(waits,))), 1)

    assert crowd.began == ["a", "b"]
    assert crowd.asks("a") == ("sleep", 5.0, False)
    assert crowd.asks("b") == ("call", "b", {"n": 1})


def test_a_step_that_is_passed_over_has_nothing_around_it():
    """R24, R38: it has no turn."""
    wrapper = Around()
    steps = [a_step("a", default_next="left"), a_step("left", "a", tool_name="b"), a_step("right", "a", tool_name="b")]
    walk = Walk(a_run(a_plan(steps, [A, B]), {"n": 1}, rules=Rules(around_step=(wrapper,))))
    walk.ok({"a_out": 1})
    walk.ok({"b_out": 1})

    assert [one for one in wrapper.seen if isinstance(one, str)] == ["w a opens", "w left opens"]


def test_every_step_has_its_own_generator_also_inside_of_nested_runs():
    """R27, R28, R38: the step around them, the steps of a sub-flow, the items of a map."""
    inner = a_flow("inner", [a_step("a", map_over="ns", map_as="n")])
    wrapper = Around()
    plan = a_plan([a_sub_step("sub", "inner")], [A], flows=[inner])
    walk = Walk(a_run(plan, {"ns": [1, 2]}, rules=Rules(around_step=(wrapper,))))
    walk.ok({"a_out": 1})
    walk.ok({"a_out": 2})

    assert [one for one in wrapper.seen if isinstance(one, str)] == ["w sub opens", *["w a opens"] * 3]
    assert [one.outputs for one in outcomes(wrapper)] == [
        {"a_out": 1},
        {"a_out": 2},
        {"a_out": [1, 2]},
        {"a_out": [1, 2]},
    ]


def test_a_generator_around_a_superfluous_step_is_told_that_it_was_cancelled():
    """R19, R38: a step between two attempts is not waited for."""
    wrapper = Around()
    steps = [a_step("a"), a_step("b", retry=AGAIN)]
    crowd = Crowd(a_run(a_plan(steps, [A, B]), {"n": 1}, rules=Rules(around_step=(wrapper,))))
    crowd.err("a", OSError("down"))
    crowd.err("b", OSError("busy"))

    assert [one.status for one in outcomes(wrapper)] == ["failed", "cancelled"]


# ---- around a run


def perform(life: Generator[Sleep, Any, Any], run: Run) -> Any:
    """Sleep as a lane would; what the generator returns."""
    try:
        command = next(life)
        while True:
            run.now_ns += round(command.seconds * 1e9)
            command = life.send(None)
    except StopIteration as end:
        return end.value


def test_the_generators_around_a_run_are_entered_and_left_in_order():
    """R38: the first is the outermost; all of them receive the concluded run."""
    seen: list[Any] = []
    run = a_run(one_step(A), {"n": 1}, rules=Rules(around_run=(Around("o", (2.0,), seen=seen), Around("i", seen=seen))))
    opened = perform(enter_run(run), run)
    leave_run(run, opened)

    assert seen == ["o flow opens", ("o flow", 2_000_000_000), "i flow opens", ("i flow", run), ("o flow", run)]


@pytest.mark.parametrize("raised", [OSError("closed today"), GuardrailViolationError("flow", -1, "mine")])
def test_a_generator_that_does_not_let_a_run_proceed_fails_it_at_its_input(raised: Exception):
    """R38: those inside of it never open."""
    outer, inner = Around("outer"), Around("inner")
    run = a_run(one_step(A), {"n": 1}, rules=Rules(around_run=(outer, Around(raises=raised), inner)))
    opened = perform(enter_run(run), run)

    assert len(opened) == 1
    assert inner.seen == []
    if isinstance(raised, OSError):
        assert isinstance(run.input_error, FlowExecutionError)
        assert "middleware around the run did not let it proceed: OSError: closed today" in str(run.input_error)
        assert run.input_error.__cause__ is raised
    else:
        assert run.input_error is raised


def test_what_makes_a_generator_around_a_run_may_raise_as_well():
    """R17, R38: the run has its end all the same."""

    def broken(run: Run) -> Wrapper:
        raise OSError("no generator")

    run = a_run(one_step(A), {"n": 1}, rules=Rules(around_run=(broken,)))

    assert perform(enter_run(run), run) == []
    assert "OSError: no generator" in str(run.input_error)


@pytest.mark.parametrize("how", ["deadline", "token"])
def test_a_run_that_ends_while_a_generator_around_it_waits_is_cancelled(how: str):
    """R23, R38: the one that waits is closed, those that have let it proceed are to be left."""
    outer, wrapper = Around("outer"), Around("w", waits=(5.0,))
    run = a_run(one_step(A), {"n": 1}, rules=Rules(around_run=(outer, wrapper)), deadline_s=1.0)
    life = enter_run(run)
    command = next(life)
    assert command.seconds == 1.0
    with pytest.raises(StopIteration) as ended:
        life.send(None) if how == "deadline" else life.throw(RunCancelled("token"))

    assert run.cancelled is not None
    assert run.cancelled.reason == how
    assert len(ended.value.value) == 1
    assert wrapper.seen[-1] == "w flow is closed"


def nesting(wrapper: Callable[[Run], Wrapper], *, attended: Any = None, **step: Any) -> Walk:
    """A sub-flow inside of a generator."""
    plan = a_plan([a_sub_step("sub", "inner", **step)], [A, B], flows=[a_flow("inner", [a_step("a")])])
    return Walk(a_run(plan, {"n": 1}, rules=Rules(around_run=(wrapper,)), **(attended or {})))


def test_a_nested_run_has_generators_around_it_too():
    """R27, R38: the step that it is in waits for them; a map is none."""
    wrapper = Around(waits=(2.0,))
    walk = nesting(wrapper)

    assert walk.asks == ("sleep", 2.0, False)
    assert walk.ok(after_s=2.0) == ("call", "a", {"n": 1})
    walk.ok({"a_out": 2})
    nested = walk.run.details[0].nested
    assert nested is not None
    assert wrapper.seen == ["w inner opens", ("w inner", 2_000_000_000), ("w inner", nested)]
    assert nested.status == "ok"


def test_a_nested_run_that_is_not_let_proceed_fails_its_step():
    """R21, R38: with the policies of the step, since to it the sub-flow has failed."""
    failed = nesting(Around(raises=OSError("closed today")))
    replaced = nesting(Around(raises=OSError("closed today")), on_error="fallback:b")

    assert statuses(failed.run) == {"sub": "failed"}
    assert "OSError: closed today" in str(error_of(failed.run))
    assert replaced.asks == ("call", "b", {"n": 1})


@pytest.mark.parametrize("how", ["deadline", "token"])
def test_a_nested_run_that_never_proceeded_has_its_end(how: str):
    """R17, R38: it is concluded, told and left like any other."""
    seen: list[Any] = []
    outer, wrapper = Around("outer", seen=seen), Around("w", waits=(5.0,), seen=seen)
    plan = a_plan([a_sub_step("sub", "inner")], [A, B], flows=[a_flow("inner", [a_step("a")])])
    attended: dict[str, Any] = {"listening": True, "announcing": True, "deadline_s": 1.0}
    walk = Walk(a_run(plan, {"n": 1}, rules=Rules(around_run=(outer, wrapper)), **attended))
    told = []
    while walk.asks is not None:
        told.append(walk.asks[:2])
        if walk.asks[0] != "sleep":
            walk.ok()
        elif how == "deadline":
            walk.ok(after_s=1.0)
        else:
            walk.err(RunCancelled("token"))
    nested = walk.run.details[0].nested

    assert nested is not None
    assert (walk.run.status, nested.status) == ("cancelled", "cancelled")
    assert seen[-2:] == ["w inner is closed", ("outer inner", nested)]
    assert [one for one in told if one[0] != "sleep"] == [
        ("step_start", "sub"),
        ("flow_start", "inner/sub"),
        ("flow_end", "inner/sub"),
        ("step_end", "sub"),
    ]


def test_a_limit_of_the_step_holds_for_what_is_around_its_sub_flow():
    """R22, R38: it is part of the attempt."""
    walk = nesting(Around(waits=(5.0,)), timeout_seconds=1.0, on_error="skip")

    assert walk.asks == ("sleep", 1.0, False)
    walk.ok(after_s=1.0)
    assert statuses(walk.run) == {"sub": "skipped"}
