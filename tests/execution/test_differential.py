"""The short path, the life of a step and the schedule leave the same run behind.

Flows of plain steps, generated, with successes and failures in every phase: reading, validating inputs, calling,
validating outputs, opening them. Each flow is played in several ways, and every way has to give equal slots, records,
errors and collisions. Times are left out, and so is what a failure had made superfluous.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from hypothesis import event, given, settings, strategies as st
from pydantic import BaseModel, computed_field, create_model

from chainweaver._execution import Command, Invoke, Lead, Lookup, Run, RunCancelled
from chainweaver.plan import Plan
from tests.conftest import PROOF
from tests.execution.kit import Crowd, Walk, a_model, a_plan, a_run, a_step, a_tool, facts

FAILURES = ("unread", "unfit input", "raises", "unfit output", "unfit model", "unopened")
SUCCESSES = ("dict", "own model", "other model")


class Trap(BaseModel):
    """An output model that validates and cannot be opened."""

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def trap(self) -> int:
        raise ZeroDivisionError("trap")


@dataclass(frozen=True)
class Part:
    """One generated step.

    Attributes:
        back: The steps it needs, as distances in the order of declaration.
        what: What happens to it.
        containers: Its outputs are containers, which records have to copy.
        shares: It writes a key that others write as well.
    """

    back: tuple[int, ...]
    what: str
    containers: bool
    shares: bool


PARTS = st.builds(
    Part,
    st.lists(st.integers(1, 4), max_size=3, unique=True).map(tuple),
    st.sampled_from(SUCCESSES * 4 + FAILURES),
    st.booleans(),
    st.sampled_from((False, False, False, True)),
)


class Played:
    """A generated flow and the replies of its tools."""

    def __init__(self, parts: list[Part], on_failure: str) -> None:
        self.replies: dict[str, Any] = {}
        steps, tools = [], []
        for index, part in enumerate(parts):
            name = f"s{index}"
            needs = [index - back for back in part.back if back <= index]
            takes = {"n": str if part.what == "unfit input" else int, **{f"from{need}": Any for need in needs}}
            gives: dict[str, Any] = {f"v{index}": Any if part.containers else int}
            if part.shares:
                gives["shared"] = int
            model: Any = gives
            if part.what == "unopened":
                fields: dict[str, Any] = dict.fromkeys(gives, (Any, ...))
                model = create_model(f"{name}_output", __base__=Trap, **fields)
            tool = a_tool(name, takes, model)
            mapping = {
                "n": "missing" if part.what == "unread" else "n",
                **{f"from{need}": f"v{need}" for need in needs},
            }
            steps.append(a_step(name, " ".join(f"s{need}" for need in needs), input_mapping=mapping))
            tools.append(tool)
            self.replies[name] = self._reply(index, part, gives, tool.output_schema)
        self.plan: Plan = a_plan(steps, tools, on_failure=on_failure)

    def _reply(self, index: int, part: Part, gives: dict[str, Any], model: Any) -> Callable[[], Any]:
        value = [index, {"deep": [index]}] if part.containers else index
        values = {key: index if key == "shared" else value for key in gives}
        return {
            "raises": lambda: OSError(f"s{index}"),
            "unfit output": lambda: {"other": 1},
            "unfit model": lambda: a_model("unfit", ["other"])(other=1),
            "own model": lambda: model(**values),
            "other model": lambda: a_model("other", gives)(**values),
        }.get(part.what, lambda: dict(values))

    def reply(self, command: Command) -> Any:
        """What a lane would say to this command."""
        if isinstance(command, tuple):
            return self.replies[command[0].name]()
        if isinstance(command, Invoke):
            return self.replies[command.tool.name]()
        return Lead("flight") if isinstance(command, Lookup) else None

    def walk(self, **attended: Any) -> Run:
        walk = Walk(a_run(self.plan, {"n": 1}, **attended))
        while walk.command is not None:
            reply = self.reply(walk.command)
            walk.err(reply) if isinstance(reply, Exception) else walk.ok(reply)
        return walk.run

    def crowd(self, limit: int, random: Random, **attended: Any) -> Run:
        crowd = Crowd(a_run(self.plan, {"n": 1}, **attended), limit)
        going, doomed = list(crowd.began), set()
        while going:
            name = going.pop(random.randrange(len(going)))
            command = crowd.flying[name].command
            assert command is not None
            reply = self.reply(command)
            if name in doomed and isinstance(command, (tuple, Invoke)) and random.random() < 0.5:
                reply = RunCancelled("surplus")
            going += crowd.err(name, reply) if isinstance(reply, BaseException) else crowd.ok(name, reply)
            doomed.update(crowd.doomed())
        return crowd.concluded()


@settings(max_examples=1_000 if PROOF else 60)
@given(st.lists(PARTS, min_size=1, max_size=7), st.sampled_from(["stop", "finish"]), st.randoms(use_true_random=False))
def test_every_way_through_the_core_leaves_the_same_run_behind(parts, on_failure, random):
    """R1: values, statuses, errors and records depend on the definition and the inputs only."""
    played = Played(parts, on_failure)
    short = played.walk()
    expected = facts(short)
    event(short.status)

    assert facts(played.walk(resumed=True)) == expected
    assert facts(played.walk(listening=True, saving=True)) == expected
    assert facts(played.walk(caching=True)) == expected
    assert facts(played.walk(deadline_s=3_600.0)) == expected
    for limit in (1, 2, 16):
        assert facts(played.crowd(limit, random)) == expected
        assert facts(played.crowd(limit, random, resumed=True)) == expected
    assert facts(played.crowd(16, random, listening=True, saving=True, caching=True)) == expected


@pytest.mark.parametrize("what", SUCCESSES + FAILURES)
@pytest.mark.parametrize("containers", [False, True])
def test_every_phase_of_a_plain_step_is_told_alike(what, containers):
    """R1: one step, each thing that can happen to it."""
    played = Played([Part((), what, containers, False)], "stop")
    run = played.walk()

    assert played.plan.steps[0].plain
    assert run.status == ("ok" if what in SUCCESSES else "failed")
    assert facts(run) == facts(played.walk(resumed=True)) == facts(played.crowd(16, Random(1)))
