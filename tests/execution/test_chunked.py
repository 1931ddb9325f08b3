"""Chunked steps: what is read aside and what is called, under which limits and gates, and what becomes of a chunk.

A lane performs what lies aside by calling it; `read` does the same by hand, so that every chunk here is a real one.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from chainweaver import Chunk, FlowStep, SideEffectLevel, ToolSafetyContract
from chainweaver._execution import Invoke, RunCancelled, TimedOut
from chainweaver._execution.chunked import NOT_CACHED
from chainweaver._execution.commands import Printed
from chainweaver._execution.rules import Rules
from chainweaver.exceptions import (
    ApprovalDeniedError,
    DecisionCallbackError,
    FlowExecutionError,
    GuardrailViolationError,
    InputMappingError,
    SafetyCeilingError,
    SchemaValidationError,
    ToolTimeoutError,
)
from chainweaver.flow import RetryPolicy
from chainweaver.plan import ASIDE, ToolContext
from chainweaver.tools import StreamingTool
from tests.execution.kit import Crowd, Walk, a_plan, a_run, a_step, a_tool, error_of, one_step, statuses

TOTAL = a_tool("total", {"data": Any}, ["total"])
BACKUP = a_tool("backup", {"data": Any}, ["total"])
LARGEST = a_tool("largest", {"total": list[int]}, ["biggest"])
TWICE = RetryPolicy(max_retries=1, backoff_seconds=0.0)
ROWS = list(range(10))
"""Cut into 0-3, 4-7 and 8-9 unless a test says otherwise."""


def cutting(
    tool: Any = TOTAL, *others: Any, combine: str = "sum", data: Any = ROWS, rows: int = 4, run: Any = None, **step: Any
) -> Walk:
    """A chunked step, at its first command."""
    plan = one_step(tool, *others, chunk=Chunk(input="data", rows=rows, combine=combine), **step)
    return Walk(a_run(plan, {"data": data}, **(run or {})))


def aside(walk: Walk) -> Any:
    """What stands for a tool, and what it is to do; None where the run asks for something else."""
    command = walk.command
    if isinstance(command, Invoke):
        found: Any = command.tool, command.value
    else:
        found = command if isinstance(command, tuple) else (None, None)
    return found if getattr(found[0], "lane", None) == ASIDE else None


def read(walk: Walk) -> Any:
    """Do one thing aside, as a lane does it; what came of it."""
    performer, work = aside(walk)
    reply = performer.fn(work)
    walk.ok(reply)
    return reply


def called(walk: Walk) -> Any:
    """What the run asks for once everything aside is done."""
    while aside(walk) is not None:
        read(walk)
    return walk.asks


# ---- a pass


def test_a_pass_reads_a_chunk_calls_the_tool_and_reads_the_next_one():
    """R28: an attempt calls the tool for each chunk of the input in turn and combines the outputs."""
    walk = cutting()
    pieces = read(walk)
    seen: list[Any] = []
    for total in (6, 22, 17):
        seen.append(read(walk))
        assert walk.asks == ("call", "total", {"data": seen[-1]})
        walk.ok({"total": total})
    end = read(walk)

    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert end is walk.run.plan.steps[0].chunks.end  # type: ignore[union-attr]
    assert read(walk) == pieces.combined() == {"total": 45}
    assert walk.asks is None
    assert walk.run.final_output == {"data": ROWS, "total": 45}


def test_what_is_read_is_work_of_this_process_without_a_policy_of_the_tool():
    """R28: no worker has what is read, and a limit of the tool is one for its calls."""
    safety = ToolSafetyContract(side_effects=SideEffectLevel.WRITE)
    walk = cutting(a_tool("total", {"data": Any}, ["total"], timeout_seconds=2.0, safety=safety, cacheable=True))
    performer, _ = aside(walk)

    assert (performer.lane, performer.is_async, performer.inline) == (ASIDE, False, False)
    assert (performer.timeout_s, performer.safety, performer.cacheable, performer.wants_context) == (
        None, None, False, False,
    )  # fmt: skip
    assert called(walk) == ("invoke", "total", {"data": ROWS[:4]}, 2.0, None)


COMBINED = {"list": {"total": [6, 22, 17]}, "sum": {"total": 45}}


@pytest.mark.parametrize("combine", COMBINED)
def test_the_step_gives_what_the_chunks_gave_together(combine: str):
    """R28: a list of the values, or their sum."""
    walk = cutting(combine=combine)
    for total in (6, 22, 17):
        called(walk)
        walk.ok({"total": str(total)})
    called(walk)

    assert walk.run.slots[1] == COMBINED[combine]


def test_the_record_has_the_whole_input_and_the_names_of_the_context_have_the_outputs():
    """R11, R28: it stays one step."""
    walk = cutting(combine="list", output_mapping={"totals": "total"})
    while called(walk) is not None:
        walk.ok({"total": 1})

    assert walk.run.inputs == [{"data": ROWS}]
    assert walk.run.slots[1] == {"totals": [1, 1, 1]}
    assert walk.run.shown_outputs(0) == {"total": [1, 1, 1]}


def test_chunks_come_one_after_the_other_at_every_limit():
    """R28: a step with `chunk` stays one step run, whatever `max_step_concurrency` says."""
    chunk = Chunk(input="data", rows=4, combine="sum")
    other = a_tool("other", ["n"], ["out"])
    plan = a_plan([a_step("total", chunk=chunk), a_step("other")], [TOTAL, other])
    crowd = Crowd(a_run(plan, {"data": ROWS, "n": 1}))

    assert crowd.began == ["total", "other"]
    calls: list[Any] = []
    while (step := crowd.flying["total"]).command is not None and not crowd.run.finished(0):
        tool, value = step.command  # type: ignore[misc]  # no limit, no context
        reply = tool.fn(value) if tool.lane == ASIDE else {"total": calls.append(value.data) or len(value.data)}
        assert crowd.ok("total", reply) in (["total"], [])
    crowd.ok("other", {"out": 2})

    assert calls == [ROWS[:4], ROWS[4:8], ROWS[8:]]
    assert crowd.concluded().final_output == {"data": ROWS, "n": 1, "total": 10, "out": 2}


class Part:
    """An item that can be referred to weakly."""


def test_a_chunk_is_let_go_before_the_next_one_is_read():
    """R28: two chunks at a time would be one too many."""
    alive: list[Any] = []

    def parts() -> Iterator[Part]:
        for _ in range(3):
            assert [one() for one in alive] == [None] * len(alive)
            part = Part()
            alive.append(weakref.ref(part))
            yield part
            del part

    walk = cutting(data=parts(), rows=1)
    while called(walk) is not None:
        walk.ok({"total": 1})

    assert (len(alive), walk.run.slots[1]) == (3, {"total": 3})


def test_an_input_that_is_not_there_cannot_be_cut():
    """R16: the tool could do without it, a step that cuts it could not."""
    walk = cutting_optional({"factor": 2})
    error = error_of(walk.run)

    assert isinstance(error, InputMappingError)
    assert (walk.asks, error.key, error.known) == (None, "data", ("factor",))
    assert called(cutting_optional({"data": [1]})) == ("call", "total", {"data": [1], "factor": 1})


def cutting_optional(initial: dict[str, Any]) -> Walk:
    tool = a_tool("total", {"data": (list[int], []), "factor": (int, 1)}, ["total"])
    return Walk(a_run(one_step(tool, chunk=Chunk(input="data", rows=4)), initial))


def test_what_goes_wrong_while_a_chunk_is_read_fails_the_step():
    """R16: like an error of the tool."""
    walk = cutting()
    read(walk)
    broken = OSError("the file is gone")
    walk.err(broken)
    error = error_of(walk.run)

    assert isinstance(error, FlowExecutionError)
    assert error.sentence == "Tool 'total' failed at step 0: OSError: the file is gone."
    assert error.__cause__ is broken


def test_a_chunk_or_an_output_that_does_not_fit_fails_the_step():
    """R10: what goes in and what comes out is validated call by call."""
    typed = a_tool("total", {"data": list[int]}, ["total"])
    taken, given = cutting(typed, data=[1, 2, 3, 4, "x"]), cutting(typed)
    called(taken)
    taken.ok({"total": 1})
    assert called(taken) is None
    called(given)
    given.ok({"total": "many"})

    assert error_of(taken.run).context == "input"
    assert "data.0: Input should be a valid integer" in str(error_of(taken.run))
    assert (called(given), error_of(given.run).context) == (None, "output")


@pytest.mark.parametrize("end", ["failed", "cancelled", "timed out", "done"])
def test_a_pass_is_closed_however_it_ends(end: str):
    """R23: the file that is read is closed; a pass that was closed has no further chunk."""
    walk = cutting()
    pieces = read(walk)
    read(walk)
    if end == "done":
        walk.ok({"total": 1})
        while called(walk) is not None:
            walk.ok({"total": 1})
    else:
        walk.err({"failed": OSError("down"), "cancelled": RunCancelled("token"), "timed out": TimedOut()}[end])

    assert statuses(walk.run) == {"0": {"cancelled": "cancelled", "done": "ok"}.get(end, "failed")}
    assert pieces.following(None) is walk.run.plan.steps[0].chunks.end  # type: ignore[union-attr]


def test_what_may_stop_a_step_stops_it_between_two_chunks():
    """R23: no further chunk is read, and nothing of those before is kept."""
    walk = cutting()
    called(walk)
    walk.ok({"total": 1})
    walk.err(RunCancelled("token"))

    assert (walk.asks, walk.run.status, walk.run.slots[1]) == (None, "cancelled", None)


# ---- attempts


def test_a_retry_begins_with_the_first_chunk():
    """R20, R28: an attempt is a pass; what the failed one had summed up is forgotten."""
    walk = cutting(retry=TWICE)
    called(walk)
    walk.ok({"total": 100})
    called(walk)
    walk.err(OSError("busy"))
    assert called(walk) == ("call", "total", {"data": ROWS[:4]})
    while called(walk) is not None:
        walk.ok({"total": 1})

    assert walk.run.slots[1] == {"total": 3}
    assert walk.run.details[0].retries == 1
    assert walk.run.details[0].retry_errors == ("Tool 'total' failed at step 0: OSError: busy.",)


@pytest.mark.parametrize("step", [{"retry": TWICE}, {"on_error": "fallback:backup"}], ids=["retry", "fallback"])
def test_what_can_be_read_only_once_is_not_tried_again(step: dict[str, Any]):
    """R20, R21, R28: another attempt would see the rest and call it the whole."""
    rest = iter(ROWS)
    walk = cutting(TOTAL, BACKUP, data=rest, **step)
    called(walk)
    walk.err(OSError("busy"))

    assert (walk.asks, statuses(walk.run)) == (None, {"0": "failed"})
    assert list(rest) == ROWS[4:]


def test_a_fallback_takes_over_from_the_first_chunk():
    """R21: with the same inputs and attempts of its own."""
    walk = cutting(TOTAL, BACKUP, on_error="fallback:backup")
    called(walk)
    walk.ok({"total": 1})
    called(walk)
    walk.err(OSError("down"))

    assert called(walk) == ("call", "backup", {"data": ROWS[:4]})
    while called(walk) is not None:
        walk.ok({"total": 2})
    assert walk.run.slots[1] == {"total": 6}
    assert walk.run.details[0].fallback == "backup"


def test_a_skipped_step_leaves_nothing_of_the_chunks_that_went_well():
    """R21: on_error="skip"."""
    walk = cutting(on_error="skip")
    called(walk)
    walk.ok({"total": 1})
    called(walk)
    walk.err(OSError("down"))

    assert (statuses(walk.run), walk.run.status) == ({"0": "skipped"}, "ok")
    assert walk.run.final_output == {"data": ROWS}


# ---- limits


def test_the_limit_of_the_step_is_for_the_whole_pass():
    """R22: every call gets what is left of it; reading counts as well."""
    walk = cutting(timeout_seconds=1.0)
    limits = []
    while walk.asks is not None:
        limits.append(walk.command.timeout_s)  # type: ignore[union-attr]
        done = aside(walk)
        walk.ok({"total": 1} if done is None else done[0].fn(done[1]), after_s=0.125)

    assert limits == [1.0 - 0.125 * at for at in range(8)]
    assert walk.asks is None
    assert isinstance(error_of(walk.run), ToolTimeoutError), "the ninth thing to do had no time left"


def test_a_pass_that_has_used_up_its_limit_does_nothing_more():
    """R22: what is left is nothing, so that nothing is asked for."""
    walk = cutting(timeout_seconds=1.0)
    read(walk)
    walk.ok([0], after_s=1.5)

    assert walk.asks is None
    assert error_of(walk.run).sentence == "Tool 'total' did not finish within 1.0 seconds."


def test_the_limit_of_the_tool_is_for_each_call():
    """R22: the tighter one counts; reading has that of the step alone."""
    tool = a_tool("total", {"data": Any}, ["total"], timeout_seconds=0.5)
    walk = cutting(tool, timeout_seconds=0.75)
    read(walk)

    assert walk.asks[0:2] + walk.asks[3:4] == ("invoke", "total", 0.749)
    read(walk)
    assert walk.asks == ("invoke", "total", {"data": ROWS[:4]}, 0.5, None)
    walk.ok({"total": 1}, after_s=0.375)
    read(walk)
    assert walk.asks[3] == pytest.approx(0.372)
    walk.err(TimedOut())
    assert isinstance(error_of(walk.run), ToolTimeoutError)


def test_a_call_that_ran_out_of_the_time_of_the_run_ends_the_run():
    """R22, R23: a lane may see the end of the run a moment early."""
    walk = cutting(timeout_seconds=5.0, run={"deadline_s": 1.0})
    assert walk.asks[3] == 1.0
    walk.err(TimedOut(), after_s=0.9)

    assert (walk.run.status, walk.run.cancelled.reason) == ("cancelled", "deadline")  # type: ignore[union-attr]
    assert statuses(walk.run) == {"0": "cancelled"}


def test_a_reply_that_comes_after_the_deadline_ends_the_run():
    """R22: also while a chunk is read."""
    for replies in (0, 1, 2):
        walk = cutting(run={"deadline_s": 1.0})
        for _ in range(replies):
            read(walk)
        walk.ok({"total": 1}, after_s=2.0)

        assert (walk.asks, walk.run.status) == (None, "cancelled")
        assert walk.run.cancelled.reason == "deadline"  # type: ignore[union-attr]


# ---- what a call knows


def test_every_call_knows_the_step_and_the_attempt():
    """R32: the idempotency key is that of the step."""

    def total(given: Any, context: ToolContext) -> Any: ...

    walk = cutting(a_tool("total", {"data": Any}, ["total"], total), retry=TWICE)
    contexts = []
    for reply in ({"total": 1}, OSError("busy"), {"total": 1}):
        called(walk)
        contexts.append(walk.command.context)  # type: ignore[union-attr]
        walk.err(reply) if isinstance(reply, OSError) else walk.ok(reply)

    assert [one.attempt for one in contexts] == [1, 1, 2]
    assert {(one.step_path, one.idempotency_key) for one in contexts} == {(("0",), "0" * 32 + "/0")}


@pytest.mark.parametrize("wanted", [True, False])
def test_what_a_tool_streams_is_for_the_listeners_of_the_step(wanted: bool):
    """R38: `on_step_chunk` is told of every call, where somebody listens."""

    async def stream(given: Any) -> Any:
        yield None  # never run here

    tool = StreamingTool(
        name="total", description="", input_schema=TOTAL.input_schema, output_schema=TOTAL.output_schema,
        stream_fn=stream,
    )  # fmt: skip
    walk = cutting(tool, run={"streaming": wanted})
    assert isinstance(walk.command, tuple), "what is read is no chunk of the tool's"
    called(walk)

    assert isinstance(walk.command, Invoke) is wanted
    if wanted:
        assert walk.command.place == (walk.run, walk.run.plan.steps[0])  # type: ignore[attr-defined]


def test_what_the_calls_have_printed_is_kept_of_the_last_one():
    """R38: a lane that captures replies with it beside the value."""
    walk = cutting(run={"printing": True})
    for at in range(3):
        called(walk)
        walk.ok(Printed(f"out {at}", "", {"total": at}))
    called(walk)
    printed = walk.run.details[0].printed

    assert walk.run.slots[1] == {"total": 3}
    assert printed is not None
    assert (printed.stdout, printed.value) == ("out 2", None)


# ---- gates


class AtMostThree(BaseModel):
    data: Any

    def model_post_init(self, context: Any) -> None:
        if len(self.data) > 3:
            raise ValueError("too many")


class AtLeastFifty(BaseModel):
    total: int

    def model_post_init(self, context: Any) -> None:
        if self.total < 50:
            raise ValueError("too little")


def test_the_input_contract_holds_for_every_call():
    """R16: what a call is given, not what the step is given."""
    ref = f"{__name__}:AtMostThree"
    fits, large = cutting(rows=3, input_contract=ref), cutting(rows=4, input_contract=ref)

    assert called(fits) == ("call", "total", {"data": [0, 1, 2]})
    assert called(large) is None
    assert (error_of(large.run).context, "too many" in str(error_of(large.run))) == ("input contract", True)


@pytest.mark.parametrize(("each", "is_enough"), [(20, True), (10, False)])
def test_the_output_contract_holds_for_what_the_step_gives(each: int, is_enough: bool):
    """R16: no single call has to give as much."""
    walk = cutting(output_contract=f"{__name__}:AtLeastFifty")
    while called(walk) is not None:
        walk.ok({"total": each})

    assert (walk.run.status == "ok") is is_enough
    if not is_enough:
        error = error_of(walk.run)
        assert isinstance(error, SchemaValidationError)
        assert (error.context, error.tool_name) == ("output contract", "total")


def test_an_approval_is_asked_once_for_all_chunks_and_attempts():
    """R26: with the whole input, before the first chunk is read."""
    tool = a_tool("total", {"data": Any}, ["total"], safety=ToolSafetyContract(requires_approval=True))
    walk = cutting(tool, retry=TWICE, run={"rules": Rules(approves=True)})

    assert walk.asks == ("ask", "approval", "0", None)
    assert walk.command.context.inputs == {"data": ROWS}  # type: ignore[union-attr]
    walk.ok(True)
    called(walk)
    walk.err(OSError("busy"))
    while called(walk) is not None:
        assert walk.asks[0] == "call"
        walk.ok({"total": 1})
    assert walk.run.status == "ok"


def test_a_denied_approval_reads_no_chunk():
    """R26: also where nobody can be asked."""
    tool = a_tool("total", {"data": Any}, ["total"], safety=ToolSafetyContract(requires_approval=True))
    walk = cutting(tool)

    assert walk.asks is None
    assert isinstance(error_of(walk.run), ApprovalDeniedError)


def test_a_guardrail_looks_at_every_call_before_and_after():
    """R26: at the values of the chunk."""
    walk = cutting(rows=5, run={"rules": Rules(guards=True)})
    seen = []
    while called(walk) is not None:
        if walk.asks[0] == "ask":
            context = walk.command.context  # type: ignore[union-attr]
            seen.append((context.stage, context.values))
            walk.ok(None)
        else:
            seen.append(("call", walk.asks[2]))
            walk.ok({"total": 7})

    first, second = {"data": ROWS[:5]}, {"data": ROWS[5:]}
    assert seen == [
        ("input", first), ("call", first), ("output", {"total": 7}),
        ("input", second), ("call", second), ("output", {"total": 7}),
    ]  # fmt: skip
    assert walk.run.slots[1] == {"total": 14}


def test_a_refused_chunk_is_not_tried_again():
    """R20, R26: a guardrail's word is the last one."""
    for stage in ("input", "output"):
        walk = cutting(retry=TWICE, run={"rules": Rules(guards=True)})
        while called(walk) is not None:
            if walk.asks[0] == "ask":
                walk.ok("no" if walk.command.context.stage == stage else None)  # type: ignore[union-attr]
            else:
                walk.ok({"total": 1})

        assert isinstance(error_of(walk.run), GuardrailViolationError)
        assert error_of(walk.run).detail == f"{stage}: no"
        assert walk.run.details[0].retries == 0


def test_a_dry_run_calls_the_rehearsal_with_chunks():
    """R26: behind the same gates; what cannot be rehearsed is passed over before a chunk is read."""
    dry = a_tool("total", {"data": Any}, ["total"], dry_run_fn=lambda given: {"total": 0})
    walk = cutting(dry, run={"rules": Rules(dry="skip")})
    while called(walk) is not None:
        assert walk.command[0].fn is dry.dry_run_fn  # type: ignore[index]
        walk.ok({"total": 0})
    without = cutting(run={"rules": Rules(dry="skip")})

    assert walk.run.slots[1] == {"total": 0}
    assert (without.asks, statuses(without.run)) == (None, {"0": "skipped"})


def test_a_tool_that_is_chosen_in_the_run_gets_the_chunks():
    """R26: a step with candidates asks once, and calls the one that the decision names."""
    walk = cutting(TOTAL, BACKUP, decision_candidates=["total", "backup"], run={"rules": Rules(decides=True)})

    assert walk.asks == ("ask", "decision", "0", None)
    walk.ok("backup")
    assert called(walk) == ("call", "backup", {"data": ROWS[:4]})
    refused = cutting(TOTAL, BACKUP, decision_candidates=["backup"], run={"rules": Rules(decides=True)})
    refused.ok("nobody")
    assert isinstance(error_of(refused.run), DecisionCallbackError)


# ---- a tool that combines


def test_a_tool_that_combines_is_called_once_with_a_list_for_each_output():
    """R28: its outputs are those of the step."""
    walk = cutting(TOTAL, LARGEST, combine="largest")
    for total in (6, 22, 17):
        called(walk)
        walk.ok({"total": total})

    assert called(walk) == ("call", "largest", {"total": [6, 22, 17]})
    assert walk.ok({"biggest": "22"}) is None
    assert walk.run.slots[1] == {"biggest": 22}


def test_what_the_tool_that_combines_cannot_take_fails_the_step():
    """R10, R16: it is validated like any other, and named; the contract of the step is for the first tool."""
    wide = a_tool("total", {"data": Any}, {"total": Any})
    walk = cutting(wide, LARGEST, combine="largest", input_contract=f"{__name__}:AtMostThree", rows=3)
    while called(walk) is not None:
        walk.ok({"total": "x"})
    error = error_of(walk.run)

    assert (error.tool_name, error.context) == ("largest", "input")
    assert "total.0: Input should be a valid integer" in str(error)


def test_the_tool_that_combines_passes_the_same_gates():
    """R26: who approves is asked before a chunk is read, the guardrail when it is called."""
    careful = a_tool("largest", {"total": list[int]}, ["biggest"], safety=ToolSafetyContract(requires_approval=True))
    walk = cutting(TOTAL, careful, combine="largest", rows=10, run={"rules": Rules(approves=True, guards=True)})
    seen = []
    while called(walk) is not None:
        if walk.asks[0] == "ask":
            context = walk.command.context  # type: ignore[union-attr]
            seen.append((walk.asks[1], context.tool_name))
            walk.ok(True)
        else:
            seen.append(("call", walk.asks[1]))
            walk.ok({"total": 45} if walk.asks[1] == "total" else {"biggest": 45})

    assert seen == [
        ("approval", "largest"),
        ("guardrail", "total"), ("call", "total"), ("guardrail", "total"),
        ("guardrail", "largest"), ("call", "largest"), ("guardrail", "largest"),
    ]  # fmt: skip
    assert walk.run.slots[1] == {"biggest": 45}


def test_a_tool_that_combines_above_the_ceiling_is_refused_before_a_chunk_is_read():
    """R26: the work of the chunks would be for nothing."""
    writes = ToolSafetyContract(side_effects=SideEffectLevel.WRITE)
    careful = a_tool("largest", {"total": list[int]}, ["biggest"], safety=writes)
    walk = cutting(TOTAL, careful, combine="largest", run={"rules": Rules(ceiling=SideEffectLevel.READ)})

    assert walk.asks is None
    assert isinstance(error_of(walk.run), SafetyCeilingError)
    assert error_of(walk.run).tool_name == "largest"


def test_a_dry_run_combines_with_the_rehearsal():
    """R26: the very function is called that was given for it."""
    dry = a_tool("total", {"data": Any}, ["total"], dry_run_fn=lambda given: {"total": 0})
    combines = a_tool("largest", {"total": list[int]}, ["biggest"], dry_run_fn=lambda given: {"biggest": 0})
    walk = cutting(dry, combines, combine="largest", rows=10, run={"rules": Rules(dry="skip")})
    called(walk)
    walk.ok({"total": 0})

    assert called(walk) == ("call", "largest", {"total": [0]})
    assert walk.command[0].fn is combines.dry_run_fn  # type: ignore[index]


# ---- stores


@pytest.mark.parametrize(("cacheable", "caching"), [(True, True), (False, True), (True, False)])
def test_a_chunked_step_is_not_cached_and_says_so(cacheable: bool, caching: bool):
    """R29: the cache is not asked; where there is none, or for a tool that is never cached, there is nothing to say."""
    tool = a_tool("total", {"data": Any}, ["total"], cacheable=cacheable)
    walk = cutting(tool, run={"caching": caching})
    while called(walk) is not None:
        assert walk.asks[0] == "call"
        walk.ok({"total": 1})

    detail = walk.run.details.get(0)
    assert (None if detail is None else detail.cache_note) == (NOT_CACHED if cacheable and caching else None)
    assert NOT_CACHED == "a step that takes its input in chunks is not cached"


def test_a_chunked_step_is_saved_when_it_is_done():
    """R31: as one step, with what its chunks gave together."""
    walk = cutting(run={"saving": True})
    for _ in range(3):
        called(walk)
        assert walk.asks[0] == "call"
        walk.ok({"total": 2})

    assert called(walk) == ("save", "total", {"total": 6})


def test_a_step_after_a_chunked_one_reads_what_it_gives():
    """R6: the list of an output is a list."""
    steps = [FlowStep(tool_name="total", chunk=Chunk(input="data", rows=4)), FlowStep(tool_name="largest")]
    walk = Walk(a_run(a_plan(steps, [TOTAL, LARGEST]), {"data": ROWS}))
    for _ in range(3):
        called(walk)
        walk.ok({"total": 2})

    assert called(walk) == ("call", "largest", {"total": [2, 2, 2]})
