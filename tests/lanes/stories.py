"""Random flows of every construct, as plain data, and the tools that they call.

`choose` makes every choice, so that hypothesis shrinks a story to its simplest form: what comes first in a list of
options is the simplest one. Whatever is called, tool or sub-flow, takes `x` and `y` and gives `v` and `w`, so that each
can stand for the other. What has to come of a story is said in `oracle`, which shares nothing with a run but the
behaviour of the tools below.
"""

from __future__ import annotations

import operator
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any
from zlib import crc32

import anyio
from pydantic import BaseModel

from chainweaver import ConditionalEdge, DAGFlow, DAGFlowStep, RetryPolicy, Tool, ToolSafetyContract
from chainweaver.plan import ToolContext
from tests.lanes.table import pause

Choose = Callable[[Sequence[Any]], Any]
Sizes = Sequence[Sequence[int]]

INITIAL: dict[str, Any] = {"x": 5, "y": 7, "items": [3, 8, 11], "pair": [4, 9], "none": []}
SHARED, SHARED_LISTS = ("k1", "k2", "y"), ("k3", "none")
"""Keys that several steps write, so that they collide: numbers, and lists."""

LIMIT_S = 60.0
"""The time limit of steps that have one; a tool that is late takes longer, on the clock of the test."""


# ---- tools


class Task(BaseModel):
    """Inputs of every tool: two numbers, and what is to go wrong.

    Attributes:
        salt: Tells steps apart that are given the same numbers.
        failures: How many calls raise before one succeeds, counted over all calls of the step in one run.
        late: How many calls take longer than the limit.
        trips: It raises when `x` is a multiple of this.
        spoils: It returns what its schema refuses.
    """

    x: int
    y: int = 0
    salt: int = 0
    failures: int = 0
    late: int = 0
    trips: int = 0
    spoils: int = 0


class Pair(BaseModel):
    """Outputs of every tool."""

    v: int
    w: int


def values_of(task: Task) -> dict[str, Any]:
    """The outputs of a tool that succeeds."""
    x, y, salt = task.x, task.y, task.salt
    return {"v": (31 * x + 17 * y + salt) % 1009, "w": (13 * x + 7 * y + salt) % 997}


def obey(task: Task, call: int) -> dict[str, Any]:
    """Do what the task says, in the given call of the step."""
    if 0 < call <= task.failures:
        raise ValueError(f"call {call} fails")
    if task.trips and task.x % task.trips == 0:
        raise ArithmeticError(f"{task.x} is a multiple of {task.trips}")
    return {"v": "nothing"} if task.spoils else values_of(task)


def rescue(task: Task, call: int) -> dict[str, Any]:
    """Succeed whatever the task says, with values of its own."""
    return values_of(task.model_copy(update={"salt": task.salt + 1}))


def give_up(task: Task, call: int) -> dict[str, Any]:
    raise OSError("hopeless")


@dataclass(frozen=True)
class Kind:
    """A tool.

    Attributes:
        act: What comes of a call, given its number among the calls of the step; 0 for tools that cannot count.
        counts: It takes a context, and so knows which step it is called for; the others go a shorter way in the core.
    """

    act: Callable[[Task, int], dict[str, Any]] = obey
    counts: bool = True
    is_async: bool = False
    lane: str | None = None
    asks: bool = False


KINDS = {
    "plain": Kind(counts=False),
    "plain_async": Kind(counts=False, is_async=True),
    "work": Kind(),
    "work_async": Kind(is_async=True),
    "work_inline": Kind(lane="inline"),
    "work_thread": Kind(lane="thread"),
    "rescue": Kind(rescue, counts=False),
    "hopeless": Kind(give_up, counts=False),
    "asked": Kind(asks=True),
    "asked_async": Kind(asks=True, is_async=True),
}


@dataclass
class Diary:
    """What the tools of one run remember; they find it in the context of the caller (R5).

    Attributes:
        calls: Calls by the place of the step in its flow and the flows around it.
        tasks: Every task that was begun: the tool, the place where it is known, and the task.
        by_attempt: Tools count attempts instead of calls: a step that begins anew knows nothing of its calls before.
        committed: How many tasks had been begun when a step was last committed; `calls_then` are the calls until then.
    """

    calls: Counter[tuple[str, ...]] = field(default_factory=Counter)
    tasks: list[tuple[Any, ...]] = field(default_factory=list)
    by_attempt: bool = False
    committed: int = 0
    calls_then: Counter[tuple[str, ...]] = field(default_factory=Counter)

    def next_call(self, name: str, task: Task, context: ToolContext | None) -> int:
        """Note a call; its number among those of the step, 0 where the step is not known."""
        place = () if context is None else context.step_path
        self.tasks.append((name, place, *task.__dict__.values()))
        self.calls[place] += 1
        if context is None:
            return 0
        return context.attempt if self.by_attempt else self.calls[place]

    def commit(self) -> None:
        """A step was committed."""
        self.committed, self.calls_then = len(self.tasks), self.calls.copy()

    def crash(self) -> None:
        """Forget what was not committed, since it will be done again, and begin a new list of tasks."""
        self.calls, self.tasks = self.calls_then, []


DIARY: ContextVar[Diary] = ContextVar("diary")


def seconds_of(task: Task, call: int) -> float:
    """How long a call takes."""
    return 2 * LIMIT_S if 0 < call <= task.late else 0.0


def tools() -> list[Tool]:
    """All tools of all stories."""
    return [_tool(name, kind) for name, kind in KINDS.items()]


def _tool(name: str, kind: Kind) -> Tool:
    def work(task: Task, context: ToolContext | None) -> dict[str, Any]:
        call = DIARY.get().next_call(name, task, context)
        spend(seconds_of(task, call))
        return kind.act(task, call)

    def plain(task: Task) -> dict[str, Any]:
        return work(task, None)

    async def plain_async(task: Task) -> dict[str, Any]:
        await pause(0)
        return work(task, None)

    def counted(task: Task, context: ToolContext) -> dict[str, Any]:
        return work(task, context)

    async def counted_async(task: Task, context: ToolContext) -> dict[str, Any]:
        await pause(0)
        return work(task, context)

    fn: Any = (counted_async if kind.is_async else counted) if kind.counts else plain_async if kind.is_async else plain
    safety = ToolSafetyContract(requires_approval=True) if kind.asks else None
    return Tool(
        name=name, description="of a story", input_schema=Task, output_schema=Pair, fn=fn, lane=kind.lane, safety=safety
    )


TOOLS = tools()
"""The same under a name that leads to them in any process that imports this module."""


# ---- the clock


class _Hand:
    """What the clock shows to one carrier of steps, until it looks again."""

    def __init__(self, carrier: object, ns: int) -> None:
        self.carrier = carrier
        self.ns = ns


_HAND: ContextVar[_Hand] = ContextVar("hand")


def now_ns() -> int:
    """A clock on which a call takes its own time and nobody else's.

    Every thread or task that carries steps has a time of its own, and a tool moves on that of the one who called it. So
    what is late does not depend on what runs beside it, as if there were a processor for everybody. Whoever looks gets
    a new hand: a tool that was left behind moves one that nobody looks at any more.
    """
    carrier = _carrier()
    hand = _HAND.get(None)
    ns = hand.ns if hand is not None and hand.carrier == carrier else 0
    _HAND.set(_Hand(carrier, ns))
    return ns


def spend(seconds: float) -> None:
    """Let time pass for whoever called the tool."""
    if seconds:
        _HAND.get().ns += round(seconds * 1e9)


def _carrier() -> tuple[int, int | None]:
    try:
        return threading.get_ident(), anyio.get_current_task().id
    except Exception:  # there is no loop in this thread, which every library says in its own way
        return threading.get_ident(), None


# ---- callbacks


def decide(context: Any) -> str:
    """Choose a candidate by the inputs; for some inputs there is no answer, or none that is allowed."""
    return decided(context.candidates, context.inputs)


def decided(candidates: Sequence[str], inputs: Mapping[str, Any]) -> str:
    x = inputs.get("x", 0)
    if not isinstance(x, int) or x % 23 == 1:
        raise LookupError("no idea")
    return "nobody" if x % 23 == 2 else candidates[x % len(candidates)]


async def approve(context: Any) -> bool:
    await pause(0)
    return approves(context.inputs)


def approves(inputs: Mapping[str, Any]) -> bool:
    """Whether a call with these inputs may be made."""
    return bool(inputs["x"] % 8)


# ---- stories


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    "in": lambda value, values: value in values,
    "not in": lambda value, values: value not in values,
}


@dataclass(frozen=True)
class Predicate:
    """A comparison, and perhaps another one linked to it."""

    key: str
    compare: str
    value: Any
    link: str = ""
    other: Predicate | None = None

    @property
    def text(self) -> str:
        first = f"{self.key} {self.compare} {self.value!r}"
        return first if self.other is None else f"{first} {self.link} ({self.other.text})"


@dataclass(frozen=True)
class Step:
    """One step of a story.

    Attributes:
        calls: The name of a tool, or a story that is run as a sub-flow.
        reads: As its input mapping; numbers are literals.
        edges: Its branches; `otherwise` is their default.
        over: The list that it runs over, one item at a time.
        at_once: How many items run at a time.
    """

    name: str
    needs: tuple[str, ...] = ()
    calls: str | Story = "plain"
    reads: dict[str, Any] = field(default_factory=dict)
    writes: dict[str, str] | None = None
    retries: int | None = None
    on_error: str = "fail"
    has_limit: bool = False
    edges: tuple[tuple[str, Predicate], ...] = ()
    otherwise: str | None = None
    candidates: tuple[str, ...] = ()
    over: str | None = None
    on_item_error: str = "fail"
    at_once: int | None = None

    @property
    def branches(self) -> bool:
        return bool(self.edges or self.otherwise)

    def ways_out(self) -> set[str]:
        """The dependents that it chooses among."""
        return {target for target, _ in self.edges} | ({self.otherwise} if self.otherwise else set())

    @property
    def fallback(self) -> str | None:
        return self.on_error.partition(":")[2] or None

    def keys_mapped(self) -> set[str]:
        """The context keys that its inputs may come from."""
        keys = {one["$key"] if isinstance(one, dict) else one for one in self.reads.values() or Task.model_fields}
        return {key for key in keys | {self.over} if isinstance(key, str) and not (self.over and key == "item")}

    def keys_asked(self) -> set[str]:
        """The context keys that its predicates name."""
        predicates = [one for _, first in self.edges for one in (first, first.other) if one]
        return {one.key for one in predicates}

    def keys_written(self) -> set[str]:
        """The context keys that it writes when all goes well, as far as they are known beforehand."""
        return set(self.gives() if self.writes is None else self.writes)

    def gives(self) -> set[str]:
        """The output keys of what it calls, as far as they are known beforehand."""
        return self.calls.gives() if isinstance(self.calls, Story) else {"v", "w"}

    def definition(self) -> DAGFlowStep:
        child = self.calls if isinstance(self.calls, Story) else None
        return DAGFlowStep(
            step_id=self.name,
            depends_on=list(self.needs),
            tool_name=None if child else self.calls,
            flow_name=child.name if child else None,
            flow_version="1.0.0" if child and child.has_newer_version else None,
            input_mapping=self.reads,
            output_mapping=self.writes,
            retry=None if self.retries is None else RetryPolicy(max_retries=self.retries, backoff_seconds=30.0),
            on_error=self.on_error,
            timeout_seconds=LIMIT_S if self.has_limit else None,
            decision_candidates=list(self.candidates) or None,
            branches=[ConditionalEdge(target_step_id=target, predicate=one.text) for target, one in self.edges],
            default_next=self.otherwise,
            **({"map_over": self.over, "map_concurrency": self.at_once} if self.over else {}),
            on_item_error=self.on_item_error,
        )


@dataclass(frozen=True)
class Story:
    """A random flow: its steps and policies.

    Attributes:
        has_newer_version: There is a later version of the flow, which does something else.
    """

    name: str
    steps: tuple[Step, ...]
    on_failure: str = "stop"
    on_collision: str = "warn"
    outputs: tuple[str, ...] | None = None
    has_newer_version: bool = False

    def gives(self) -> set[str]:
        """The keys that it hands back as a sub-flow: those it names, or all that its steps write."""
        if self.outputs is not None:
            return set(self.outputs)
        return {key for step in self.steps for key in step.keys_written()}

    def bears_retries(self) -> bool:
        """Whether a second run of it goes as the clauses say, however many steps the first one had under way.

        A step that had begun when another one failed has noted the call, if there was room for both at the same time.
        """
        reads = [step.reads for step in self.all_steps()]
        return self.is_sequential() or not any(0 < one.get(kind, 0) < ALWAYS for one in reads for kind in COUNTED)

    def is_sequential(self) -> bool:
        """Whether there is never more than one step that could run, whatever the limit."""
        needed = [need for step in self.steps for need in step.needs]
        is_chain = len(set(needed)) == len(needed) == len(self.steps) - 1
        flows = [step.calls for step in self.steps if isinstance(step.calls, Story)]
        return is_chain and not any(step.over for step in self.steps) and all(flow.is_sequential() for flow in flows)

    def definitions(self) -> list[DAGFlow]:
        """The flows of it and of all that it runs."""
        return [definition for flow in self.all_flows() for definition in flow._versions()]

    def _versions(self) -> Iterator[DAGFlow]:
        yield DAGFlow(
            name=self.name,
            version="1.0.0",
            description="a random flow",
            on_failure=self.on_failure,
            on_context_collision=self.on_collision,
            outputs=None if self.outputs is None else list(self.outputs),
            steps=[step.definition() for step in self.steps],
        )
        if self.has_newer_version:
            other = DAGFlowStep(step_id="other", tool_name="hopeless")
            yield DAGFlow(name=self.name, version="2.0.0", description="not this one", steps=[other])

    def all_flows(self) -> Iterator[Story]:
        """It and all that it runs."""
        yield self
        for step in self.steps:
            if isinstance(step.calls, Story):
                yield from step.calls.all_flows()

    def all_steps(self) -> Iterator[Step]:
        """Its steps and those of all that it runs."""
        return (step for flow in self.all_flows() for step in flow.steps)


SIZES: Sizes = ((1, 2, 3, 4, 5, 6, 6, 7, 7, 8, 8, 9, 10, 12), (1, 2, 2, 3), (1, 1, 2))
"""How many steps a flow has, its sub-flows, and theirs."""


def make_story(choose: Choose, sizes: Sizes = SIZES, *, overlaps: bool = True) -> Story:
    """A random story, every choice made by `choose`. Most go well: a flow that fails at once has little to tell.

    Args:
        overlaps: Maps may run several items at a time whatever the limit of the run is.
    """
    return _Author(choose, overlaps).story("story", sizes, list(INITIAL))


ALWAYS, COUNTED = 99, ("failures", "late")
TROUBLES: dict[str, dict[str, int]] = {
    "none": {},
    "fails once": {"failures": 1},
    "fails twice": {"failures": 2},
    "fails": {"failures": ALWAYS},
    "trips": {"trips": 3},
    "spoils": {"spoils": 1},
    "is late once": {"late": 1},
    "is late": {"late": ALWAYS},
}


class _Author:
    """Writes stories."""

    def __init__(self, choose: Choose, overlaps: bool) -> None:
        self.choose = choose
        self.overlaps = overlaps

    def story(self, name: str, sizes: Sizes, given: Sequence[str]) -> Story:
        choose = self.choose
        is_child = name != "story"
        steps = self._branched(self._arranged(name, choose(sizes[0])))
        written = _Written(given)
        for at, step in enumerate(steps):
            last = is_child and at == len(steps) - 1
            steps[at] = self._predicates(self._filled(step, written, sizes[1:], last), written)
            written.add(steps[at], _may_be_passed(steps, steps[at]))
        return Story(
            name,
            tuple(steps[::-1] if choose((False, True)) else steps),
            on_failure=choose(("stop", "finish")),
            on_collision=choose(("warn", "warn", "warn", "overwrite", "overwrite", "overwrite", "error")),
            outputs=choose(
                (None, ("v", "w"), ("v", "w", "x")) if is_child else (None, None, (choose(written.sure_at_the_end()),))
            ),
            has_newer_version=is_child and choose((False, True)),
        )

    # ---- what depends on what

    def _arranged(self, name: str, count: int) -> list[Step]:
        """Steps that mostly depend on one of the three before them."""
        choose = self.choose
        steps: list[Step] = []
        prefix = name[len("story_") :] + "_" if name != "story" else ""
        for at in range(count):
            near = [step.name for step in steps[-3:]]
            parents = choose((1, 1, 1, 1, 1, 2, 2, 0)) if near else 0
            needs = dict.fromkeys(choose(near) for _ in range(parents))
            steps.append(Step(f"{prefix}s{at}", tuple(needs)))
        return steps

    def _branched(self, steps: list[Step]) -> list[Step]:
        """Some of those with dependents choose among them."""
        choose = self.choose
        for at, step in enumerate(steps):
            after = [one.name for one in steps if step.name in one.needs]
            if after and choose((False, False, True) if len(after) < 2 else (False, True)):
                count = choose((1, 1, 2, 0)) if len(after) > 1 else 1
                edges = tuple((choose(after), Predicate("x", "==", 0)) for _ in range(count))
                otherwise = choose((*after, *after, None) if edges else after)
                steps[at] = replace(step, edges=edges, otherwise=otherwise)
        return steps

    def _predicates(self, step: Step, written: _Written) -> Step:
        """Predicates over what the step itself wrote, and over what others did."""
        own = [key for key in step.writes or ("v",) if not step.over and step.on_error != "skip"] or ["x"]
        others = [key for key in written.numbers if written.is_sure(key, step)]
        keys = [*own * (15 // len(own)), *others * (10 // len(others)), *others, "k1"]
        return replace(step, edges=tuple((target, self._predicate(keys)) for target, _ in step.edges))

    def _predicate(self, keys: list[str]) -> Predicate:
        choose = self.choose
        key, compare = choose(keys), choose(tuple(OPERATORS))
        value: Any = choose((100, 300, 500, 700))
        if compare in ("in", "not in"):
            value = tuple(range(choose((0, 1)), 40, 2))
        elif compare in ("==", "!="):
            value = choose((5, "text", None))
        elif choose((False,) * 49 + (True,)):
            value = "text"
        if choose((False, False, False, True)):
            return Predicate(key, compare, value, choose(("and", "or")), Predicate(choose(keys), "<=", 600))
        return Predicate(key, compare, value)

    # ---- what is called, with what

    def _filled(self, step: Step, written: _Written, sizes: Sizes, last: bool) -> Step:
        """The step with a call and its inputs."""
        choose = self.choose
        kind = choose(self._kinds(written, bool(sizes), last))
        over = choose(written.lists_for(step)) if "map" in kind else None
        trouble = TROUBLES[choose((*(("none",) * 4 + ("trips",) * 4 if over else ("none",) * 20), *TROUBLES))]
        step = replace(
            step,
            **self._repairs(bool(trouble), bool(over)),
            writes=None if last else self._writes(step.name, bool(over)),
            over=over,
            has_limit="late" in trouble or choose((False,) * 7 + (True,)),
        )
        reads = {"x": "item" if over else self._number(step, written)}
        if choose((True, True, False)):
            reads["y"] = self._number(step, written)
        if "flow" in kind:
            return self._sub_flow(step, reads, written, sizes)
        if trouble or choose((True, True, True, False)):
            reads.update(salt=crc32(step.name.encode()) % 1009, **trouble)
        elif not over and choose((False, True)):
            reads = {}  # whatever the context has under the names of the fields
        if kind == "decision":
            everybody = ("work", "rescue", "plain_async", "hopeless")
            return replace(step, reads=reads, calls="work", candidates=choose((everybody[::2], everybody)))
        if kind == "approval":
            return replace(step, reads=reads, calls=choose(("asked", "asked_async")))
        names = ["work", "work_async", "work_inline", "work_thread"]
        if not {"failures", "late"} & trouble.keys():
            names = ["plain", "plain", "plain_async", *names]
        return replace(step, reads=reads, calls=choose(names))

    def _kinds(self, written: _Written, may_nest: bool, last: bool) -> list[str]:
        may_map = bool(written.lists) and not last
        kinds = ["tool"] * 6 + ["decision", "approval"] + ["map"] * 2 * may_map + ["flow"] * 2 * may_nest
        return kinds + ["map of flows"] * 2 * (may_map and may_nest)

    def _sub_flow(self, step: Step, reads: dict[str, Any], written: _Written, sizes: Sizes) -> Step:
        choose = self.choose
        reads.setdefault("y", 2)
        if step.fallback is None and written.lists and choose((False, True)):
            reads["items"] = choose(written.lists_for(step))
        child = self.story(f"story_{step.name}", sizes, list(reads))
        if step.retries and child.is_sequential() and choose((True, True, False)):
            child = self._worn(child)
        retries = step.retries if child.bears_retries() else None
        return replace(step, reads=reads, calls=child, retries=retries, has_limit=False)

    def _worn(self, child: Story) -> Story:
        """A sub-flow one of whose steps fails at first, so that all of it has to be tried again."""
        at = self.choose(range(len(child.steps)))
        step = child.steps[at]
        if isinstance(step.calls, Story):
            return child
        reads = {"x": "x", **step.reads, "failures": self.choose((1, 2))}
        step = replace(step, calls="work", reads=reads, candidates=(), retries=None, on_error="fail")
        return replace(child, steps=(*child.steps[:at], step, *child.steps[at + 1 :]))

    def _repairs(self, needed: bool, over: bool) -> dict[str, Any]:
        """What is done about failures; mostly something, where there is trouble."""
        choose = self.choose
        found = {
            "retries": choose((2, 2, 2, 1, None) if needed else (None, None, None, None, 1)),
            "on_error": choose(
                ("fail", "skip", "skip", "fallback:rescue", "fallback:rescue", "fallback:hopeless")
                if needed
                else ("fail", "fail", "fail", "fail", "skip", "fallback:rescue")
            ),
        }
        if over:
            found["on_item_error"] = choose(("collect", "skip", "fail") if needed else ("fail", "skip", "collect"))
            found["at_once"] = choose((None, 1, 2, 3)) if self.overlaps else None
        return found

    def _writes(self, name: str, over: bool) -> dict[str, str] | None:
        choose = self.choose
        kind = choose(("own",) * 8 + ("both",) * 4 + ("shared",) * 3 + ("all",) * (not over))
        if kind == "all":
            return None
        if kind == "both":
            return {f"{name}_own": "w", f"{name}_b": "v"}
        if kind == "shared":
            return {f"{name}_own": "v", choose(SHARED_LISTS if over else SHARED): "w"}
        return {f"{name}_own": "v"}

    def _number(self, step: Step, written: _Written) -> Any:
        """Where a number comes from: mostly a step before, and with a default where that may not have run."""
        choose = self.choose
        near = [key for key in written.numbers if written.writer.get(key) in step.needs]
        key = choose((*(near or ["x"]) * 5, "x", choose(written.numbers)))
        if not written.is_sure(key, step) and choose((True,) * 19 + (False,)):
            return {"$key": key, "$default": 4}
        return key


class _Written:
    """Which keys there are, while a story is written.

    Attributes:
        numbers, lists: Keys by what is behind them.
        skipped: Those that may be missing because their step may be skipped.
        passed: Those that may be missing because there is a branch before their step.
        writer: Key -> step that writes it.
    """

    def __init__(self, given: Sequence[str]) -> None:
        self.lists = [key for key in given if key in ("items", "pair", "none")]
        self.numbers = [key for key in given if key in ("x", "y")] + ["k1", "k2"]
        self.skipped = {"k1", "k2"}
        self.passed: set[str] = set()
        self.writer: dict[str, str] = {}

    def add(self, step: Step, may_be_passed: bool) -> None:
        for key in step.writes or ("v", "w"):
            if key not in SHARED + SHARED_LISTS:
                (self.lists if step.over else self.numbers).append(key)
                self.writer[key] = step.name
                if step.on_error == "skip":
                    self.skipped.add(key)
                if may_be_passed:
                    self.passed.add(key)

    def is_sure(self, key: str, reader: Step) -> bool:
        """Whether the key is there whenever the reader runs."""
        return key not in self.skipped and (key not in self.passed or reader.needs == (self.writer[key],))

    def sure_at_the_end(self) -> list[str]:
        return [key for key in self.numbers if key not in self.skipped | self.passed]

    def lists_for(self, reader: Step) -> list[str]:
        """Lists that a step may run over; mostly one of a step before it."""
        sure = [key for key in self.lists if self.is_sure(key, reader)] or self.lists
        near = [key for key in sure if self.writer.get(key) in reader.needs]
        return near * 3 + sure


def _may_be_passed(steps: Sequence[Step], step: Step) -> bool:
    """Whether there is a branch on the way to the step."""
    before = [one for one in steps if one.name in step.needs]
    return any(one.branches or _may_be_passed(steps, one) for one in before)
