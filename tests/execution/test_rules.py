"""The rules of an executor that need nobody to be asked: ceilings, declared safety, dry runs; and capabilities."""

from __future__ import annotations

from typing import Any

import pytest

from chainweaver import DAGFlowStep, SideEffectLevel, ToolSafetyContract
from chainweaver._execution import TimedOut
from chainweaver._execution.rules import Rules
from chainweaver.exceptions import FlowExecutionError, SafetyCeilingError, ToolTimeoutError
from chainweaver.executor.rules import Callback
from chainweaver.flow import RetryPolicy
from chainweaver.flow.callbacks import CapabilityContext
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


def with_effects(name: str, effects: str, **options: Any) -> Any:
    return a_tool(name, ["n"], ["out"], safety=ToolSafetyContract(side_effects=SideEffectLevel(effects), **options))


def under(rules: Rules, *tools: Any, attended: Any = None, **step: Any) -> Walk:
    return Walk(a_run(one_step(*tools, **step), {"n": 1}, rules=rules, **(attended or {})))


# ---- what may be called


READS = Rules(ceiling=SideEffectLevel.READ)
STRICT = Rules(strict=True)
A = a_tool("a", ["n"], ["out"])


@pytest.mark.parametrize(
    ("effects", "is_let_through"), [("none", True), ("read", True), ("write", False), ("external", False)]
)
def test_a_tool_above_the_ceiling_is_not_called(effects: str, is_let_through: bool):
    """R16: recorded at the step that would call it."""
    walk = under(READS, with_effects("tool", effects))

    assert walk.asks == (("call", "tool", {"n": 1}) if is_let_through else None)
    if not is_let_through:
        error = error_of(walk.run)
        assert isinstance(error, SafetyCeilingError)
        assert (error.tool_name, error.side_effects, error.ceiling) == ("tool", effects, "read")
        assert "max_side_effect_level" in str(error.fix)


def test_a_tool_that_declares_nothing_is_let_through_unless_that_is_asked_for():
    """R16: `strict_safety` refuses what nothing is known about, whatever the ceiling."""
    lenient, strict = under(READS, A), under(STRICT, A)
    both = under(Rules(strict=True, ceiling=SideEffectLevel.DESTRUCTIVE), A)

    assert lenient.asks == ("call", "a", {"n": 1})
    assert strict.asks is both.asks is None
    error = error_of(strict.run)
    assert isinstance(error, SafetyCeilingError)
    assert (error.tool_name, error.side_effects, error.ceiling) == ("a", "undeclared", "none")
    assert error_of(both.run).ceiling == "destructive"


def test_a_declared_tool_passes_the_strict_rule():
    """R16: a contract is enough, whatever it says."""
    assert under(STRICT, with_effects("tool", "destructive")).asks == ("call", "tool", {"n": 1})


def test_a_refused_tool_may_be_skipped_or_replaced_by_one_that_is_allowed():
    """R21: the fallback is held against the same rules."""
    writes, sends, reads = (with_effects(name, name) for name in ("write", "external", "read"))

    assert statuses(under(READS, writes, on_error="skip").run) == {"0": "skipped"}
    assert under(READS, writes, reads, on_error="fallback:read").asks == ("call", "read", {"n": 1})
    refused = under(READS, writes, sends, on_error="fallback:external")
    assert (refused.asks, error_of(refused.run).tool_name) == (None, "external")


def test_what_comes_before_a_refused_tool_has_run():
    """R16: the rules hold where a step begins, at every limit."""
    steps = [a_step("one", tool_name="read"), a_step("two", "one", tool_name="write", output_mapping={"w": "out"})]
    plan = a_plan(steps, [with_effects("read", "read"), with_effects("write", "write")])
    crowd = Crowd(a_run(plan, {"n": 1}, rules=READS))

    assert crowd.ok("one", {"out": 1}) == []
    assert statuses(crowd.concluded()) == {"one": "ok", "two": "failed"}


@pytest.mark.parametrize("rules", [STRICT, READS], ids=["strict", "ceiling"])
def test_a_sub_flow_is_no_tool_and_its_tools_are(rules: Rules):
    """R27: what is called inside is held against the rules there."""
    reads, writes = with_effects("read", "read"), with_effects("write", "write")
    inner = a_flow(
        "inner", [a_step("x", tool_name="read"), a_step("y", "x", tool_name="write", output_mapping={"w": "out"})]
    )
    walk = Walk(a_run(a_plan([a_sub_step("sub", "inner")], [reads, writes], flows=[inner]), {"n": 1}, rules=rules))

    assert walk.asks == ("call", "read", {"n": 1})
    walk.ok({"out": 1})
    if rules is STRICT:
        assert walk.asks == ("call", "write", {"n": 1})
    else:
        assert isinstance(error_of(walk.run), SafetyCeilingError)
        assert error_of(walk.run).tool_name == "write"


# ---- dry runs


SKIP, ABORT = Rules(dry="skip"), Rules(dry="abort")
REHEARSED = a_tool("rehearsed", ["n"], ["out"], dry_run_fn=lambda given: {"out": 0})
HARMLESS = a_tool("harmless", ["n"], ["out"], safety=ToolSafetyContract(supports_dry_run=True))


def test_a_dry_run_calls_the_rehearsal_in_place_of_the_tool():
    """R26: behind the same gates; a tool that declares that it can do without effects is called itself."""
    for tool in (REHEARSED, HARMLESS):
        walk = under(SKIP, tool)
        assert walk.asks == ("call", tool.name, {"n": 1})
        called = walk.command[0]  # type: ignore[index]  # a plain call
        assert called.fn is (tool.dry_run_fn or tool.fn)
        assert called.fn is not tool.fn or tool is HARMLESS
        walk.ok({"out": "many"})
        assert "out: Input should be a valid integer" in str(error_of(walk.run))


def test_a_tool_that_cannot_be_rehearsed_is_passed_over():
    """R26: recorded as skipped, with an error that says so; no fallback takes over."""
    for on_error in ("fail", "skip", "fallback:rehearsed"):
        walk = under(SKIP, A, REHEARSED, on_error=on_error)

        assert walk.asks is None
        assert statuses(walk.run) == {"0": "skipped"}
        assert isinstance(error_of(walk.run), FlowExecutionError)
        assert "tool 'a' has no dry run" in str(error_of(walk.run))
        assert "dry_run_fn" in error_of(walk.run).fix
        assert walk.run.status == "ok"


def test_a_dry_run_may_end_at_a_tool_that_cannot_be_rehearsed():
    """R26: "abort" makes it a failure, for which `on_error` holds."""
    failed, replaced = under(ABORT, A), under(ABORT, A, REHEARSED, on_error="fallback:rehearsed")

    assert statuses(failed.run) == {"0": "failed"}
    assert "tool 'a' has no dry run" in str(error_of(failed.run))
    assert replaced.asks == ("call", "rehearsed", {"n": 1})


@pytest.mark.parametrize("rules", [SKIP, ABORT], ids=["skip", "abort"])
def test_what_lacks_the_outputs_of_a_step_that_was_passed_over_is_passed_over_too(rules: Rules):
    """R26: a dry run tells what it can; other failures stay failures."""
    reader, other = (
        a_tool(name, takes, [name], dry_run_fn=dict) for name, takes in (("reader", ["out"]), ("other", ["n"]))
    )
    steps = [a_step("a"), a_step("reader", "a"), a_step("other", "a"), a_step("late", "reader", tool_name="other")]
    walk = Walk(a_run(a_plan(steps, [A, reader, other]), {"n": 1}, rules=rules))
    if rules is ABORT:
        assert statuses(walk.run) == {"a": "failed", "reader": None, "other": None, "late": None}
        return
    assert walk.asks == ("call", "other", {"n": 1})
    assert statuses(walk.run)["reader"] == "skipped"
    walk.ok({"other": 1})
    walk.err(OSError("broken rehearsal"))
    assert statuses(walk.run) == {"a": "skipped", "reader": "skipped", "other": "ok", "late": "skipped"}


def test_a_rehearsal_that_fails_although_it_has_all_it_needs_is_a_failure():
    """R26: nothing before it was passed over."""
    again = RetryPolicy(max_retries=1, backoff_seconds=0.0)
    steps = [
        a_step("one", tool_name="rehearsed", retry=again),
        a_step("two", "one", tool_name="rehearsed", output_mapping={"two": "out"}),
    ]
    walk = Walk(a_run(a_plan(steps, [REHEARSED]), {"n": 1}, rules=SKIP))
    walk.err(OSError("busy"))
    walk.ok({"out": 1})
    walk.err(OSError("broken rehearsal"))

    assert statuses(walk.run) == {"one": "ok", "two": "failed"}


def test_a_dry_run_asks_for_no_approval():
    """R26: nothing is done that somebody would have to agree to."""
    tool = a_tool("pay", ["n"], ["out"], safety=ToolSafetyContract(requires_approval=True, supports_dry_run=True))

    assert under(Rules(dry="skip", approves=True), tool).asks == ("call", "pay", {"n": 1})
    assert under(SKIP, tool).asks == ("call", "pay", {"n": 1})


@pytest.mark.parametrize("inside", ["alone", "per item"])
def test_a_sub_flow_is_rehearsed_step_by_step(inside: str):
    """R26, R27: a dry run of the step is one of the steps inside."""
    inner = a_flow("inner", [a_step("x", tool_name="rehearsed")])
    each: dict[str, Any] = {"map_over": "ns", "map_as": "n"} if inside == "per item" else {}
    plan = a_plan([a_sub_step("sub", "inner", **each)], [REHEARSED], flows=[inner])
    walk = Walk(a_run(plan, {"n": 1, "ns": [1]}, rules=SKIP))

    assert walk.asks == ("call", "rehearsed", {"n": 1})
    walk.ok({"out": 5})
    assert walk.run.slots[1] == {"out": [5] if each else 5}


def test_a_sub_flow_that_cannot_give_all_its_outputs_gives_those_that_it_has():
    """R26, R27: it ends with what there is, and so does the run; what reads the others is passed over."""
    inner = a_flow(
        "inner",
        [a_step("x", tool_name="a"), a_step("y", tool_name="rehearsed", output_mapping={"y": "out"})],
        outputs=["out", "y"],
    )
    reader = a_tool("reader", ["out"], ["read"], dry_run_fn=dict)
    steps = [a_sub_step("sub", "inner"), a_step("reader", "sub")]
    plan = a_plan(steps, [A, REHEARSED, reader], flows=[inner], outputs=["y", "read"])
    walk = Walk(a_run(plan, {"n": 1}, rules=SKIP))
    walk.ok({"out": 1})

    assert statuses(walk.run) == {"sub": "ok", "reader": "skipped"}
    assert walk.run.slots[1] == {"y": 1}
    assert (walk.run.status, walk.run.final_output) == ("ok", {"y": 1})


def test_a_step_whose_sub_flow_lacks_what_it_maps_is_passed_over():
    """R11, R26: the gap is inside."""
    inner = a_flow("inner", [a_step("x", tool_name="a")])
    plan = a_plan([a_sub_step("sub", "inner", output_mapping={"found": "out"})], [A], flows=[inner])
    walk = Walk(a_run(plan, {"n": 1}, rules=SKIP))

    assert statuses(walk.run) == {"sub": "skipped"}
    assert walk.run.status == "ok"


def test_who_reads_what_a_sub_flow_could_not_give_is_passed_over():
    """R26, R27: a step inside that was passed over leaves a gap like one outside."""
    inner = a_flow("inner", [a_step("x", tool_name="a")])
    reader = a_tool("reader", ["out"], ["read"], dry_run_fn=dict)
    plan = a_plan([a_sub_step("sub", "inner"), a_step("reader", "sub")], [A, reader], flows=[inner])
    walk = Walk(a_run(plan, {"n": 1}, rules=SKIP))

    assert walk.asks is None
    assert statuses(walk.run) == {"sub": "ok", "reader": "skipped"}


def test_a_failure_inside_a_sub_flow_is_one_outside_although_another_step_was_passed_over():
    """R26, R27: a rehearsal that is broken is told as such."""
    inner = a_flow(
        "inner", [a_step("x", tool_name="a"), a_step("y", tool_name="rehearsed", output_mapping={"y": "out"})]
    )
    walk = Walk(a_run(a_plan([a_sub_step("sub", "inner")], [A, REHEARSED], flows=[inner]), {"n": 1}, rules=SKIP))
    walk.err(OSError("broken rehearsal"))

    assert statuses(walk.run) == {"sub": "failed"}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(("policy", "expected"), [("fail", None), ("skip", []), ("collect", 2)])
def test_a_map_whose_items_cannot_be_rehearsed(policy: str, expected: Any, inside: bool):
    """R26, R28: it is passed over as a whole, unless its policy has something to put in their place; a sub-flow that
    could be rehearsed in part is no better."""
    steps = [a_step("x", tool_name="rehearsed", output_mapping={"x": "out"}), a_step("y", tool_name="a")]
    items: dict[str, Any] = {"map_over": "ns", "map_as": "n", "on_item_error": policy}
    if inside:
        plan = a_plan([a_sub_step("0", "inner", **items)], [A, REHEARSED], flows=[a_flow("inner", steps)])
    else:
        plan = one_step(A, **items)
    walk = Walk(a_run(plan, {"ns": [1, 2]}, rules=SKIP))
    walk.to_the_end({"rehearsed": {"out": 0}})

    assert walk.asks is None
    merged = walk.run.slots[1]
    if expected is None:
        assert (merged, statuses(walk.run)) == (None, {"0": "skipped"})
        assert "tool 'a' has no dry run" in str(error_of(walk.run))
    else:
        assert merged is not None
        assert merged["out"] == [] if policy == "skip" else len(merged["out"]) == expected


# ---- capabilities


HOOK: Any = Callback("capability_hook", lambda context: {})


def capable(asks: bool = True, attended: Any = None, **step: Any) -> Walk:
    """A step that somebody outside has to perform."""
    one = DAGFlowStep(step_id="ask", step_type="capability", capability_id="people", **step)
    rules = Rules(capability=HOOK if asks else None)
    return Walk(a_run(a_plan([one], [A]), {"n": 1, "m": 2}, rules=rules, **(attended or {})))


def test_a_capability_is_performed_by_the_hook():
    """R26: it is told what and for whom; without a mapping it sees the whole context, and what it gives is merged."""
    walk = capable()

    assert walk.asks == ("perform", "people", {"n": 1, "m": 2}, None, 1)
    assert walk.command.value == CapabilityContext(  # type: ignore[union-attr]
        "0" * 32, "flow", 0, "ask", "people", {"n": 1, "m": 2}, f"{'0' * 32}/ask", 1
    )
    assert walk.command.tool is HOOK  # type: ignore[union-attr]
    walk.ok({"name": "Ada", "m": 3})
    assert walk.run.slots[1] == {"name": "Ada", "m": 3}


def test_a_capability_obeys_its_mappings():
    """R6, R11: like a tool."""
    walk = capable(input_mapping={"who": "n"}, output_mapping={"found": "name"})

    assert walk.asks == ("perform", "people", {"who": 1}, None, 1)
    walk.ok({"name": "Ada", "age": 36})
    assert walk.run.slots[1] == {"found": "Ada"}


def test_a_capability_gets_the_values_of_dynamic_parameters():
    """R13: whoever performs a step needs them, and the record does not show them."""
    one = DAGFlowStep(step_id="ask", step_type="capability", capability_id="people", input_mapping={"key": "token"})
    plan = a_plan([one], [], dynamic_params=["token"])
    walk = Walk(a_run(plan, {}, dynamic={"token": 7}, rules=Rules(capability=HOOK)))

    assert walk.asks == ("perform", "people", {"key": 7}, None, 1)
    assert walk.run.inputs[0] == {"key": "<dynamic parameter>"}


def test_without_a_hook_a_capability_fails():
    """R16: recorded, and the message says what to do."""
    walk = capable(asks=False)

    assert walk.asks is None
    assert "there is nobody to perform capability 'people'" in str(error_of(walk.run))
    assert "capability_hook=" in error_of(walk.run).fix


def test_a_capability_declares_no_effects_and_so_passes_no_strict_rule():
    """R16: nothing is known about it; with a tool beside it, it is still the hook that would do the work."""
    one = DAGFlowStep(step_id="ask", step_type="capability", capability_id="people")
    walk = Walk(a_run(a_plan([one], []), {"n": 1}, rules=Rules(strict=True, capability=HOOK)))
    error = error_of(walk.run)

    assert walk.asks is None
    assert isinstance(error, SafetyCeilingError)
    assert (error.tool_name, error.side_effects) == ("people", "undeclared")
    assert error.fix == "a capability declares no effects: put a tool in its place, or run it without strict_safety"


@pytest.mark.parametrize("returned", [None, 3, "text", [1]])
def test_what_a_capability_gives_has_to_have_names(returned: object):
    """R10: anything else is refused, as a tool's output would be."""
    walk = capable()
    walk.ok(returned)

    assert f"it returned {type(returned).__name__}, not a mapping" in str(error_of(walk.run))
    assert "let the capability hook give back a mapping" in str(error_of(walk.run))


def test_a_capability_gives_names_that_are_texts():
    """R10, R36: a record could not show others."""
    walk = capable()
    walk.ok({"name": "Ada", 3: "C"})

    assert "it returned a mapping with 3 for a name, and a name is a text" in str(error_of(walk.run))


def test_a_capability_is_tried_again_and_obeys_limits():
    """R20, R22: the same key for every attempt, the number says which."""
    again = RetryPolicy(max_retries=1, backoff_seconds=0.0)
    walk = capable(retry=again, timeout_seconds=0.5, attended={"deadline_s": 3.0})

    assert walk.asks == ("perform", "people", {"n": 1, "m": 2}, 0.5, 1)
    assert walk.err(OSError("asleep"), after_s=2.75) == ("perform", "people", {"n": 1, "m": 2}, 0.25, 2)
    limited = capable(timeout_seconds=0.5)
    limited.err(TimedOut())
    assert isinstance(error_of(limited.run), ToolTimeoutError)


def test_a_fallback_stands_in_for_a_capability():
    """R21: a tool, called like any other."""
    walk = capable(on_error="fallback:a")

    assert walk.err(OSError("asleep")) == ("call", "a", {"n": 1, "m": 2}) or walk.asks == ("call", "a", {"n": 1})


def test_a_dry_run_passes_over_a_capability():
    """R26: nobody knows what it would do."""
    one = DAGFlowStep(step_id="ask", step_type="capability", capability_id="people")
    walk = Walk(a_run(a_plan([one], []), {"n": 1}, rules=Rules(dry="skip", capability=HOOK)))

    assert walk.asks is None
    assert statuses(walk.run) == {"ask": "skipped"}


def test_a_capability_with_a_tool_takes_its_schemas_and_its_rehearsal():
    """R26: `tool_name` beside the capability says what goes in and out; the hook performs it."""
    one = DAGFlowStep(step_id="ask", step_type="capability", capability_id="people", tool_name="rehearsed")
    plan = a_plan([one], [REHEARSED])
    walk, dry = (Walk(a_run(plan, {"n": 1, "m": 2}, rules=Rules(capability=HOOK, dry=dry))) for dry in (None, "skip"))

    assert walk.asks == ("perform", "people", {"n": 1}, None, 1)
    walk.ok({"out": "many"})
    assert "out: Input should be a valid integer" in str(error_of(walk.run))
    assert dry.asks == ("call", "rehearsed", {"n": 1})
