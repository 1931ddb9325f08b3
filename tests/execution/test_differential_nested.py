"""Flows in flows, maps, branches, skips and retries, generated: at every limit and in every order they leave one run.

The counterpart of `test_differential` for everything that is no plain step. Each generated flow is walked, and played
by the schedule at limits 1, 2 and 16 with replies in random order; slots, records, errors, decisions and nested runs
have to be equal. Times are left out, and so is what a failure had made superfluous.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from hypothesis import event, given, settings, strategies as st

from chainweaver import ConditionalEdge, RetryPolicy, Tool
from chainweaver._execution import Command, Invoke, Lead, Lookup, Run, RunCancelled
from chainweaver._execution.commands import Ask
from chainweaver._execution.rules import Rules
from chainweaver.plan import Plan
from tests.conftest import PROOF
from tests.execution.kit import Crowd, Walk, a_flow, a_plan, a_run, a_step, a_sub_step, a_tool, facts

NS = [0, 1, 2]
"""What maps go over; a tool does one thing for even numbers, and perhaps another one for odd numbers."""


@dataclass(frozen=True)
class Part:
    """One generated step.

    Attributes:
        back: The steps it needs, as distances in the order of declaration.
        odd: What its tool does with odd numbers: "fine", "raises" or "unfit".
        inside: The steps of its sub-flow; None for a step that calls a tool.
        per_item: What happens to an item that fails, None for a step that runs once.
        own_limit: How many items of it may run at once, None for that of the run.
        on_error: As in a definition; a fallback always succeeds.
        retries: How often it is tried again.
        way: Which of its dependents its branch leads to when `n` is 1, None without a branch.
        shares: It writes a key that others write as well.
        stops: Its sub-flow stops at a failure, instead of finishing what does not depend on it.
    """

    back: tuple[int, ...]
    odd: str
    inside: tuple[Part, ...] | None = None
    per_item: str | None = None
    own_limit: int | None = None
    on_error: str = "fail"
    retries: int = 0
    way: int | None = None
    shares: bool = False
    stops: bool = True


def parts(depth: int) -> st.SearchStrategy[tuple[Part, ...]]:
    inside: Any = st.none() if depth == 0 else st.one_of(st.none(), st.none(), parts(depth - 1))
    part = st.builds(
        Part,
        back=st.lists(st.integers(1, 3), max_size=2, unique=True).map(tuple),
        odd=st.sampled_from(("fine", "fine", "fine", "raises", "unfit")),
        inside=inside,
        per_item=st.sampled_from((None, None, None, "fail", "skip", "collect")),
        own_limit=st.sampled_from((None, None, 1, 2, 3)),
        on_error=st.sampled_from(("fail", "fail", "skip", "fallback:rescue")),
        retries=st.sampled_from((0, 0, 1)),
        way=st.sampled_from((None, None, 0, 1)),
        shares=st.sampled_from((False, False, False, False, True)),
        stops=st.booleans(),
    )
    return st.lists(part, min_size=1, max_size=2 + depth).map(tuple)


@dataclass
class Story:
    """A generated flow with the flows in it and their tools."""

    odd: dict[str, str] = field(default_factory=dict)
    tools: list[Tool] = field(default_factory=lambda: [a_tool("rescue", ["n"], {})])
    flows: list[Any] = field(default_factory=list)

    def plan(self, steps: tuple[Part, ...], on_failure: str) -> Plan:
        made = self._steps(steps, "s")
        return a_plan(made, self.tools, flows=self.flows, on_failure=on_failure)

    def _steps(self, steps: tuple[Part, ...], prefix: str) -> list[Any]:
        needs = [[index - back for back in part.back if back <= index] for index, part in enumerate(steps)]
        return [
            self._step(part, f"{prefix}{index}", [f"{prefix}{need}" for need in needs[index]],
                       [f"{prefix}{later}" for later, its in enumerate(needs) if index in its])
            for index, part in enumerate(steps)
        ]  # fmt: skip

    def _step(self, part: Part, name: str, needs: list[str], feeds: list[str]) -> Any:
        options: dict[str, Any] = {"on_error": part.on_error}
        if part.retries:
            options["retry"] = RetryPolicy(max_retries=part.retries, backoff_seconds=1.0)
        if part.per_item is not None:
            options.update(map_over="ns", map_as="n", on_item_error=part.per_item, map_concurrency=part.own_limit)
        if part.way is not None and feeds:
            edge = ConditionalEdge(target_step_id=feeds[part.way % len(feeds)], predicate="n == 1")
            options["branches"] = [edge]
        if part.inside is not None:
            steps = self._steps(part.inside, f"{name}_")
            self.flows.append(a_flow(f"flow_{name}", steps, on_failure="stop" if part.stops else "finish"))
            options["input_mapping"] = {"n": "n", "ns": "ns"}
            return a_sub_step(name, f"flow_{name}", " ".join(needs), **options)
        self.odd[name] = part.odd
        gives = {f"v_{name}": Any, **({"shared": int} if part.shares else {})}
        # What is read of others may be missing, or a list, or written by nobody at all.
        takes = {"n": int, **{f"from_{need}": Any for need in needs}}
        self.tools.append(a_tool(name, takes, gives))
        mapping = {"n": "n", **{f"from_{need}": {"$key": f"v_{need}", "$default": None} for need in needs}}
        return a_step(name, " ".join(needs), input_mapping=mapping, **options)

    def reply(self, command: Command) -> Any:
        """What a lane would say to this command."""
        if isinstance(command, (tuple, Invoke)):
            tool, value = command if isinstance(command, tuple) else (command.tool, command.value)
            return self._called(tool, value)
        if isinstance(command, Ask):
            return None
        return Lead("flight") if isinstance(command, Lookup) else None

    def _called(self, tool: Any, value: Any) -> Any:
        if tool.name == "rescue":
            return {}
        odd = self.odd[tool.name]
        if value.n % 2 and odd == "raises":
            return OSError(f"{tool.name} of {value.n}")
        if value.n % 2 and odd == "unfit":
            return {"other": 1}
        values = {f"v_{tool.name}": [value.n, {"deep": sorted(vars(value))}]}
        return {**values, "shared": value.n} if "shared" in tool.output_model.model_fields else values


GIVEN = {"n": 1, "ns": NS}


def walked(story: Story, plan: Plan, **attended: Any) -> Run:
    walk = Walk(a_run(plan, GIVEN, **attended))
    while walk.command is not None:
        reply = story.reply(walk.command)
        walk.err(reply) if isinstance(reply, Exception) else walk.ok(reply)
    return walk.run


def crowded(story: Story, plan: Plan, limit: int, random: Random, **attended: Any) -> Run:
    """Replies in random order; what is doomed is sometimes cancelled and sometimes ends all the same."""
    crowd = Crowd(a_run(plan, GIVEN, **attended), limit)
    going, doomed = list(crowd.began), set()
    while going:
        name = going.pop(random.randrange(len(going)))
        command = crowd.flying[name].command
        assert command is not None
        reply = story.reply(command)
        if name in doomed:
            doomed.discard(name)
            reply = RunCancelled("surplus") if random.random() < 0.5 else reply
        going += crowd.err(name, reply) if isinstance(reply, BaseException) else crowd.ok(name, reply)
        doomed.update(crowd.doomed())
    return crowd.concluded()


@settings(max_examples=1_000 if PROOF else 40)
@given(parts(2), st.sampled_from(["stop", "finish"]), st.randoms(use_true_random=False))
def test_nested_runs_are_the_same_at_every_limit_and_in_every_order(steps, on_failure, random):
    """R1, R24, R27, R28: values, statuses, errors and records depend on the definition and the inputs only."""
    story = Story()
    plan = story.plan(steps, on_failure)
    walk = walked(story, plan)
    expected = facts(walk)
    event(walk.status)

    for limit in (1, 2, 16):
        assert facts(crowded(story, plan, limit, random)) == expected
    assert facts(walked(story, plan, listening=True, announcing=True, saving=True)) == expected
    assert facts(walked(story, plan, deadline_s=100_000.0)) == expected
    assert facts(walked(story, plan, rules=Rules(guards=True))) == expected
    attended = {"listening": True, "announcing": True, "saving": True, "caching": True}
    assert facts(crowded(story, plan, 2, random, **attended)) == expected


@settings(max_examples=500 if PROOF else 30)
@given(parts(1), st.integers(1, 4), st.integers(0, 20), st.randoms(use_true_random=False))
def test_a_run_that_ends_anywhere_leaves_nothing_open(steps, limit, end, random):
    """R17, R23: cancelled after any number of replies, every run inside it has a status, and nothing more starts."""
    story = Story()
    crowd = Crowd(a_run(story.plan(steps, "finish"), GIVEN, listening=True, announcing=True, caching=True), limit)
    going = list(crowd.began)
    while going and end:
        name = going.pop(random.randrange(len(going)))
        command = crowd.flying[name].command
        assert command is not None
        reply = story.reply(command)
        going += crowd.err(name, reply) if isinstance(reply, Exception) else crowd.ok(name, reply)
        end -= 1
    gives_up = random.random() < 0.5
    last = crowd.give_up(RunCancelled("interrupt")) if gives_up else crowd.cancel(RunCancelled("token"))
    going = list(last) if gives_up else [*going, *last]
    while going:
        name = going.pop()
        command = crowd.flying[name].command
        if command is None:
            continue
        if isinstance(command, (tuple, Invoke, Ask, Lookup)):
            assert not gives_up, "nothing new begins after a run was given up"
            going += crowd.err(name, RunCancelled("token"))
        else:
            going += crowd.ok(name)

    assert_over(crowd.concluded())


def assert_over(run: Run) -> None:
    """Nothing of a run, or of those in it, is still on its way."""
    assert run.status != "running"
    for detail in run.details.values():
        if detail.nested is not None:
            assert_over(detail.nested)
