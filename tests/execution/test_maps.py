"""Maps: a step that runs once per item of a list, and what becomes of the items that fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from chainweaver import ConditionalEdge, Tool
from chainweaver._execution import Invoke, Lead, Run, RunCancelled, TimedOut
from chainweaver._execution.rules import Rules
from chainweaver.exceptions import (
    FlowExecutionError,
    InputMappingError,
    OutputMappingError,
    SchemaValidationError,
    ToolTimeoutError,
)
from chainweaver.flow import RetryPolicy
from chainweaver.flow.callbacks import DecisionPolicy
from chainweaver.plan import ItemError, PlannedStep, ToolContext
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
    facts,
    statuses,
)

DOUBLE = a_tool("double", ["item"], ["twice"])
OTHER = a_tool("other", ["item"], ["twice"])
LAST = a_tool("last", {"twice": Any}, ["done"])
AGAIN = RetryPolicy(max_retries=1, backoff_seconds=0.0)
ITEMS = [3, 4, 5]
HERE = "tests.execution.test_maps"


class Anything(BaseModel):
    model_config = ConfigDict(extra="allow")


class Small(BaseModel):
    item: int

    def model_post_init(self, context: Any) -> None:
        if self.item > 3:
            raise ValueError("too large")


class Even(BaseModel):
    twice: int

    def model_post_init(self, context: Any) -> None:
        if self.twice % 2:
            raise ValueError("odd")


def each(needs: str = "", **options: Any) -> Any:
    """A step that calls `double` for every item of `items`."""
    return a_step("each", needs, **{"tool_name": "double", "map_over": "items", **options})


def a_map(
    *more: Any, tools: list[Tool] | None = None, flows: Any = (), items: Any = ITEMS, attended: Any = None, **step: Any
) -> Run:
    """A run of `each` and perhaps of further steps."""
    plan = a_plan([each(**step), *more], tools or [DOUBLE, OTHER, LAST], flows=flows)
    given = {"n": 1, "items": items} if items is not None else {"n": 1}
    return a_run(plan, given, **(attended or {}))


def nested_of(run: Run, step_id: str = "each") -> Run:
    """The run of the items of a map."""
    nested = run.details[run.plan.names[step_id]].nested
    assert nested is not None
    return nested


def replies_of(items: Any = ITEMS) -> list[dict[str, int]]:
    return [{"twice": 2 * item} for item in items]


# ---- every item


def test_a_map_calls_its_tool_once_per_item_and_gives_lists():
    """R28: every output key becomes a list in the order of the items."""
    walk = Walk(a_map())

    assert walk.asks == ("call", "double", {"item": 3})
    assert walk.ok({"twice": 6}) == ("call", "double", {"item": 4})
    assert walk.ok({"twice": 8}) == ("call", "double", {"item": 5})
    assert walk.ok({"twice": 10}) is None
    assert walk.run.final_output == {"n": 1, "items": ITEMS, "twice": [6, 8, 10]}
    assert walk.run.shown_outputs(0) == {"twice": [6, 8, 10]}
    assert walk.run.inputs[0] == {"items": ITEMS}


def test_every_item_has_a_record_of_its_own():
    """R28: under its position, with its inputs, its outputs and its times."""
    walk = Walk(a_map())
    for reply in replies_of():
        walk.ok(reply)
    nested = nested_of(walk.run)

    assert [step.step_id for step in nested.plan.steps] == ["0", "1", "2"]
    assert [step.step_id for step in nested.plan.steps[1:]] == ["1", "2"]
    assert [row.step.step_id for row in nested.plan.rows[1:]] == ["1", "2"]
    assert nested.inputs == [{"item": 3}, {"item": 4}, {"item": 5}]
    assert [nested.shown_outputs(at) for at in range(3)] == replies_of()
    assert (nested.status, nested.path, nested.parent) == ("ok", ("each",), walk.run)
    assert [nested.ended[at] - nested.started[at] for at in range(3)] == [1_000_000] * 3


@pytest.mark.parametrize("way", [Walk, Crowd])
def test_an_empty_list_gives_empty_lists(way: Any):
    """R28: every output key is there, and nothing is called."""
    ended = way(a_map(items=[]))
    if way is Crowd:
        ended.concluded()

    assert ended.run.final_output == {"n": 1, "items": [], "twice": []}
    assert list(nested_of(ended.run).plan.steps) == []


def test_an_empty_list_over_open_outputs_gives_nothing():
    """R28: nobody knows the keys that such a tool would have given."""
    walk = Walk(a_map(tools=[a_tool("double", ["item"], Anything)], items=[]))

    assert walk.run.slots[1] == {}


def test_open_outputs_are_gathered_by_the_names_that_came():
    """R28: a key that some items did not give holds None in their places."""
    walk = Walk(a_map(tools=[a_tool("double", ["item"], Anything)]))
    walk.ok({"a": 1})
    walk.ok({"a": 2, "b": 3})
    walk.ok({})

    assert walk.run.slots[1] == {"a": [1, 2, None], "b": [None, 3, None]}


def test_a_call_sees_the_context_and_its_item():
    """R28: under the name that the step gives it, which may hide a key of the context."""
    add = a_tool("add", ["n", "m", "row"], ["sum"])
    walk = Walk(
        a_map(
            tools=[add],
            tool_name="add",
            map_as="row",
            input_mapping={"n": "n", "m": "/row/m", "row": "/row/k"},
            items=[{"m": 7, "k": 8}],
        )
    )
    hidden = Walk(a_map(tools=[a_tool("double", ["n"], ["twice"])], map_as="n"))

    assert walk.asks == ("call", "add", {"n": 1, "m": 7, "row": 8})
    assert hidden.asks == ("call", "double", {"n": 3})


def test_a_map_may_read_its_items_at_a_pointer():
    """R6, R28: a list inside of a value."""
    plan = a_plan([each(map_over="/order/lines")], [DOUBLE])
    walk = Walk(a_run(plan, {"order": {"lines": [9]}}))

    assert walk.asks == ("call", "double", {"item": 9})
    walk.ok({"twice": 18})
    assert walk.run.slots[1] == {"twice": [18]}


def test_a_map_reads_the_list_that_an_earlier_step_wrote():
    """R3, R28: and later steps read the lists that it wrote."""
    make = a_tool("make", ["n"], {"items": list[int]})
    steps = [a_step("make"), each("make"), a_step("last", "each")]
    walk = Walk(a_run(a_plan(steps, [make, DOUBLE, LAST]), {"n": 1}))

    assert walk.ok({"items": [7]}) == ("call", "double", {"item": 7})
    assert walk.ok({"twice": 14}) == ("call", "last", {"twice": [14]})


@pytest.mark.parametrize("items", [(3, 4), [3, 4], range(3, 5)], ids=["tuple", "list", "range"])
def test_anything_that_has_an_order_and_a_length_can_be_mapped_over(items: Any):
    """R28: a list by any other name."""
    walk = Walk(a_map(items=items))
    walk.ok({"twice": 6})
    walk.ok({"twice": 8})

    assert walk.run.slots[1] == {"twice": [6, 8]}


@pytest.mark.parametrize(
    "items", ["text", b"bytes", {"a": 1}, {1, 2}, 3, iter([1])], ids=lambda items: type(items).__name__
)
def test_what_is_no_list_fails_the_step(items: Any):
    """R16, R28: the message names the type; a text is no list of letters."""
    walk = Walk(a_map(items=items))

    assert walk.asks is None
    assert isinstance(error_of(walk.run), FlowExecutionError)
    assert f"it maps over a value of type '{type(items).__name__}', which is no list" in str(error_of(walk.run))


def test_a_list_that_is_not_there_fails_the_step():
    """R16, R28: like any key that a step reads; and the step may be skipped."""
    failed, skipped = Walk(a_map(items=None)), Walk(a_map(items=None, on_error="skip"))

    assert isinstance(error_of(failed.run), InputMappingError)
    assert error_of(failed.run).key == "items"
    assert statuses(skipped.run) == {"each": "skipped"}


def test_a_tool_that_changes_the_list_does_not_change_the_map():
    """R28: the items are those that were there when the step began."""
    items = [3, 4]
    walk = Walk(a_map(items=items))
    items.append(5)
    items[1] = 99

    assert walk.ok({"twice": 6}) == ("call", "double", {"item": 4})
    assert walk.ok({"twice": 8}) is None
    assert walk.run.inputs[0] == {"items": [3, 4]}


def test_the_very_items_reach_the_tool_and_its_very_values_the_context():
    """R14: nothing is copied on the way."""
    take = a_tool("take", {"item": Any}, {"made": Any})
    item, made = object(), object()
    walk = Walk(a_map(tools=[take], tool_name="take", items=[item]))

    assert walk.asks[2]["item"] is item
    walk.ok({"made": made})
    assert walk.run.slots[1]["made"][0] is made  # type: ignore[index]


def test_the_lists_of_a_map_are_renamed_as_a_whole():
    """R11, R28: the record shows the names of the tool."""
    walk = Walk(a_map(output_mapping={"all": "twice"}))
    for reply in replies_of():
        walk.ok(reply)

    assert walk.run.slots[1] == {"all": [6, 8, 10]}
    assert walk.run.shown_outputs(0) == {"twice": [6, 8, 10]}


def test_a_mapping_of_an_output_that_no_item_gave_fails_the_step():
    """R11, R28: it is seen when the lists are there."""
    walk = Walk(a_map(tools=[a_tool("double", ["item"], Anything)], output_mapping={"all": "gone"}))
    for reply in replies_of():
        walk.ok(reply)

    assert isinstance(error_of(walk.run), OutputMappingError)


def test_dynamic_parameters_reach_every_call_and_no_record():
    """R13, R28: beside the item, also as the list itself."""
    add = a_tool("add", ["item", "key"], ["sum"])
    plan = a_plan(
        [each(tool_name="add"), a_step("two", tool_name="double", map_over="secrets", output_mapping={"t": "twice"})],
        [add, DOUBLE],
        dynamic_params=["key", "secrets"],
    )
    walk = Walk(a_run(plan, {"items": [3]}, dynamic={"key": 7, "secrets": [5]}))

    assert walk.asks == ("call", "add", {"item": 3, "key": 7})
    assert walk.ok({"sum": 10}) == ("call", "double", {"item": 5})
    walk.ok({"twice": 10})
    assert nested_of(walk.run).inputs[0] == {"item": 3, "key": "<dynamic parameter>"}
    assert walk.run.inputs[0] == {"items": [3], "key": "<dynamic parameter>"}
    assert walk.run.inputs[1] == {"secrets": "<dynamic parameter>"}
    assert nested_of(walk.run, "two").inputs[0] == {"item": "<dynamic parameter>"}


def test_a_branch_behind_a_map_reads_its_lists():
    """R24, R28: like the outputs of any step."""
    edge = ConditionalEdge(target_step_id="last", predicate="twice[0] == 6 and 8 in twice")
    steps = [each(branches=[edge]), a_step("last", "each"), a_step("other", "each", input_mapping={"item": "n"})]
    walk = Walk(a_run(a_plan(steps, [DOUBLE, OTHER, LAST]), {"n": 1, "items": [3, 4]}))
    walk.ok({"twice": 6})

    assert walk.ok({"twice": 8}) == ("call", "last", {"twice": [6, 8]})
    walk.ok({"done": 1})
    assert statuses(walk.run)["other"] == "passed"


# ---- items that fail


def test_the_first_item_that_fails_fails_the_step():
    """R28: "fail", the default; later items do not run, and the error says which item it was."""
    walk = Walk(a_map())
    walk.ok({"twice": 6})
    walk.err(OSError("down"))
    nested = nested_of(walk.run)

    assert walk.asks is None
    assert statuses(walk.run) == {"each": "failed"}
    assert (nested.status, statuses(nested)) == ("failed", {"0": "ok", "1": "failed", "2": None})
    assert "step 'each', item 1" in str(error_of(walk.run))
    assert "OSError: down" in str(error_of(walk.run))


def test_items_that_fail_can_be_left_out():
    """R28: "skip": every list lacks them; their records keep the error."""
    walk = Walk(a_map(on_item_error="skip"))
    walk.ok({"twice": 6})
    walk.err(OSError("down"))
    walk.ok({"twice": 10})
    nested = nested_of(walk.run)

    assert walk.run.slots[1] == {"twice": [6, 10]}
    assert (nested.status, statuses(nested)) == ("ok", {"0": "ok", "1": "skipped", "2": "ok"})
    assert "item 1" in str(error_of(nested, 1))


def test_items_that_fail_can_leave_an_error_in_their_place():
    """R28: "collect": the lists stay aligned with the items."""
    walk = Walk(a_map(on_item_error="collect"))
    walk.ok({"twice": 6})
    walk.err(OSError("down"))
    walk.ok({"twice": "many"})
    assert walk.run.slots[1] is not None
    six, broken, refused = walk.run.slots[1]["twice"]

    assert six == 6
    assert broken == ItemError(1, "FlowExecutionError", "E006", "Tool 'double' failed at step 0: OSError: down.")
    assert (refused.index, refused.error_type, refused.error_code) == (2, "SchemaValidationError", "E004")


@pytest.mark.parametrize(("policy", "expected"), [("skip", []), ("collect", 3)])
def test_all_items_may_fail(policy: str, expected: Any):
    """R28: the keys are there all the same."""
    walk = Walk(a_map(on_item_error=policy))
    for _ in ITEMS:
        walk.err(OSError("down"))

    assert walk.run.slots[1] is not None
    found = walk.run.slots[1]["twice"]
    assert found == [] if policy == "skip" else [one.index for one in found] == [0, 1, 2]


@pytest.mark.parametrize("policy", ["fail", "skip", "collect"])
def test_what_an_item_gives_may_be_refused(policy: str):
    """R16, R28: inputs before the call, outputs after it, item by item."""
    walk = Walk(a_map(items=["three", 4, 5], on_item_error=policy))

    if policy == "fail":
        assert isinstance(error_of(walk.run), SchemaValidationError)
        return
    assert walk.asks == ("call", "double", {"item": 4})
    walk.ok({"twice": "many"})
    walk.ok({"twice": 10})
    assert statuses(nested_of(walk.run)) == {"0": "skipped", "1": "skipped", "2": "ok"}


def test_a_failed_map_may_be_skipped():
    """R21, R28: `on_error` of the step is about the step as a whole."""
    walk = Walk(a_map(a_step("last", "each", input_mapping={"twice": "n"}), on_error="skip"))

    assert walk.err(OSError("down")) == ("call", "last", {"twice": 1})
    assert walk.run.status_of(0) == "skipped"


def test_every_item_has_attempts_a_fallback_and_contracts_of_its_own():
    """R20, R21, R28: what concerns a call holds per item."""
    walk = Walk(
        a_map(
            retry=AGAIN,
            on_error="fallback:other",
            input_contract=f"{HERE}:Small",
            output_contract=f"{HERE}:Even",
            items=[3, 2, 4],
        )
    )
    assert walk.err(OSError("busy")) == ("call", "double", {"item": 3})
    assert walk.ok({"twice": 6}) == ("call", "double", {"item": 2})
    assert walk.ok({"twice": 5}) == ("call", "other", {"item": 2}), "an odd number is refused, and not tried again"
    walk.ok({"twice": 4})
    nested = nested_of(walk.run)

    assert (nested.details[0].retries, nested.details[1].fallback) == (1, "other")
    assert isinstance(error_of(walk.run), SchemaValidationError), "4 is too large for the contract of the inputs"
    assert "input contract" in str(error_of(walk.run))
    assert walk.run.details[0].retries == 0


def test_a_limit_holds_per_item():
    """R22, R28: also when it is that of the step."""
    walk = Walk(a_map(timeout_seconds=1.0, on_item_error="skip"))

    assert walk.asks == ("invoke", "double", {"item": 3}, 1.0, None)
    assert walk.ok({"twice": 6}, after_s=0.75) == ("invoke", "double", {"item": 4}, 1.0, None)
    assert walk.err(TimedOut(), after_s=1.0) == ("invoke", "double", {"item": 5}, 1.0, None)
    walk.ok({"twice": 10})
    assert isinstance(error_of(nested_of(walk.run), 1), ToolTimeoutError)
    assert walk.run.slots[1] == {"twice": [6, 10]}


def test_every_item_decides_for_itself():
    """R26, R28: and the budget is spent in the order of the items."""
    rules = Rules(decides=True, decision=DecisionPolicy(budget=2, default="tool_name"))
    walk = Walk(a_map(decision_candidates=["other"], attended={"rules": rules}))

    assert walk.asks == ("ask", "decision", "0", None)
    assert walk.ok("other") == ("call", "other", {"item": 3})
    assert walk.ok({"twice": 6}) == ("ask", "decision", "1", None)
    assert walk.ok("other") == ("call", "other", {"item": 4})
    assert walk.ok({"twice": 8}) == ("call", "double", {"item": 5})
    walk.ok({"twice": 10})
    nested = nested_of(walk.run)
    assert [nested.decision_of(step)["by"] for step in nested.plan.steps] == ["callback", "callback", "default"]  # type: ignore[index]
    assert walk.run.decision_of(walk.run.plan.steps[0]) is None


# ---- flows per item


INNER = a_flow("inner", [a_step("double"), a_step("more", "double")])
MORE = a_tool("more", ["twice"], ["sum"])
PER_FLOW: dict[str, Any] = {"tool_name": None, "flow_name": "inner"}
FLOW_TOOLS = [DOUBLE, OTHER, LAST, MORE]


def test_a_sub_flow_runs_once_per_item():
    """R27, R28: each item has a run of its own in the record of the item."""
    walk = Walk(a_map(**PER_FLOW, tools=FLOW_TOOLS, flows=[INNER], items=[3, 4]))

    assert walk.asks == ("call", "double", {"item": 3})
    assert walk.ok({"twice": 6}) == ("call", "more", {"twice": 6})
    assert walk.ok({"sum": 7}) == ("call", "double", {"item": 4})
    walk.ok({"twice": 8})
    walk.ok({"sum": 9})
    assert walk.run.slots[1] == {"twice": [6, 8], "sum": [7, 9]}
    second = nested_of(walk.run).details[1].nested
    assert second is not None
    assert (second.path, second.plan.flow_name, second.final_output) == (
        ("each", "1"),
        "inner",
        {"item": 4, "twice": 8, "sum": 9},
    )


@pytest.mark.parametrize("policy", ["skip", "collect"])
def test_the_keys_of_a_map_do_not_depend_on_which_items_failed(policy: str):
    """R28: what goes into a sub-flow does not come out of the map, with or without a failure."""
    walk = Walk(a_map(**PER_FLOW, tools=FLOW_TOOLS, flows=[INNER], items=[3, 4], on_item_error=policy))
    walk.err(OSError("down"))
    walk.ok({"twice": 8})
    walk.ok({"sum": 9})
    merged = walk.run.slots[1]

    assert merged is not None
    assert list(merged) == ["twice", "sum"]
    assert [one[-1] for one in merged.values()] == [8, 9]
    assert [len(one) for one in merged.values()] == [1, 1] if policy == "skip" else [2, 2]


def test_a_value_that_a_sub_flow_did_not_write_is_none_in_its_place():
    """R28: lists stay aligned."""
    inner = a_flow("inner", [a_step("double", on_error="skip"), a_step("other", output_mapping={"o": "twice"})])
    walk = Walk(a_map(**PER_FLOW, tools=FLOW_TOOLS, flows=[inner], items=[3, 4]))
    walk.err(OSError("down"))
    for reply in ({"twice": 1}, {"twice": 8}, {"twice": 2}):
        walk.ok(reply)

    assert walk.run.slots[1] == {"twice": [None, 8], "o": [1, 2]}


def test_maps_in_maps_give_lists_of_lists():
    """R28: through a sub-flow that maps."""
    rows = a_flow("rows", [a_step("cell", tool_name="double", map_over="row")])
    plan = a_plan([a_sub_step("table", "rows", map_over="items", map_as="row")], [DOUBLE], flows=[rows])
    walk = Walk(a_run(plan, {"items": [[1, 2], [], [3]]}))
    for twice in (2, 4, 6):
        assert walk.asks == ("call", "double", {"item": twice // 2})
        walk.ok({"twice": twice})

    assert walk.run.slots[1] == {"twice": [[2, 4], [], [6]]}


def test_a_tool_of_an_item_learns_where_it_is():
    """R28, R32: every item has a key of its own, which stays the same over its attempts."""

    def tell(given: Any, context: ToolContext) -> dict[str, int]:
        raise AssertionError("the run core calls no tool")

    telling = a_tool("double", ["item"], ["twice"], fn=tell)
    walk, deep = (
        Walk(a_map(tools=[telling], retry=AGAIN, items=[3, 4])),
        Walk(a_map(**PER_FLOW, tools=[telling, MORE], flows=[INNER], items=[3])),
    )
    keys = []
    for reply in (OSError("busy"), {"twice": 6}, {"twice": 8}):
        assert isinstance(walk.command, Invoke)
        assert walk.command.context is not None
        keys.append(walk.command.context.idempotency_key.partition("/")[2])
        walk.err(reply) if isinstance(reply, OSError) else walk.ok(reply)

    assert keys == ["each/0", "each/0", "each/1"]
    assert isinstance(deep.command, Invoke)
    assert deep.command.context is not None
    assert deep.command.context.step_path == ("each", "0", "double")


# ---- several at a time


def crowd_of(limit: int, *more: Any, **options: Any) -> Crowd:
    return Crowd(a_map(*more, **options), limit)


def test_items_run_side_by_side_and_give_lists_in_their_order():
    """R1, R28: whoever was faster."""
    crowd = crowd_of(16)

    assert crowd.began == ["each/0", "each/1", "each/2"]
    for name, reply in (("each/2", 10), ("each/0", 6), ("each/1", 8)):
        crowd.ok(name, {"twice": reply})
    assert crowd.concluded().final_output == {"n": 1, "items": ITEMS, "twice": [6, 8, 10]}


def test_the_items_of_a_map_share_the_places_of_the_run():
    """R4: a step that maps holds none itself; its items go on before a later step begins."""
    crowd = crowd_of(2, a_step("last", input_mapping={"twice": "n"}))

    assert crowd.began == ["each/0", "each/1"]
    assert crowd.ok("each/0", {"twice": 6}) == ["each/2"]
    assert crowd.ok("each/2", {"twice": 10}) == ["last"]


@pytest.mark.parametrize(("limit", "own", "began"), [(16, 2, 2), (2, 16, 3), (1, 2, 2), (16, 1, 1)])
def test_the_limit_of_a_map_replaces_that_of_the_run(limit: int, own: int, began: int):
    """R4, R28: inside the map, and nowhere else."""
    crowd = crowd_of(limit, map_concurrency=own)

    assert crowd.began == [f"each/{at}" for at in range(began)]


def test_a_map_with_a_limit_of_its_own_takes_no_place_of_the_run():
    """R4: what runs beside it has all of them."""
    crowd = crowd_of(
        2,
        a_step("last", input_mapping={"twice": "n"}),
        a_step("other", input_mapping={"item": "n"}, output_mapping={"o": "twice"}),
        map_concurrency=2,
    )

    assert crowd.began == ["each/0", "each/1", "last", "other"]


def test_at_limit_1_nothing_runs_beside_a_map_with_a_limit_of_its_own():
    """R4: 1 is one step after the other, in plan order; only the items overlap."""
    crowd = crowd_of(1, a_step("other", input_mapping={"item": "n"}, output_mapping={"o": "twice"}), map_concurrency=3)

    assert crowd.began == ["each/0", "each/1", "each/2"]
    assert crowd.ok("each/0", {"twice": 6}) == []
    assert crowd.ok("each/1", {"twice": 8}) == []
    assert crowd.ok("each/2", {"twice": 10}) == ["other"]


def test_items_that_are_flows_are_bounded_as_items():
    """R4, R28: no more of them are under way than may run at a time, whatever they wait for."""
    inner = a_flow("inner", [a_step("double", retry=RetryPolicy(max_retries=1, backoff_seconds=5.0))])
    crowd = crowd_of(2, **PER_FLOW, tools=FLOW_TOOLS, flows=[inner])

    assert crowd.began == ["each/0/double", "each/1/double"]
    assert crowd.err("each/0/double", OSError("busy")) == ["each/0/double"]
    assert crowd.asks("each/0/double") == ("sleep", 5.0, False)
    assert crowd.ok("each/1/double", {"twice": 8}) == ["each/2/double"]


def test_steps_of_an_item_share_the_places_of_its_map():
    """R4, R28: the limit of the map is the limit of calls inside of it."""
    inner = a_flow("inner", [a_step("double"), a_step("other", output_mapping={"o": "twice"})])
    crowd = crowd_of(1, **PER_FLOW, tools=FLOW_TOOLS, flows=[inner], map_concurrency=3)

    assert crowd.began == ["each/0/double", "each/0/other", "each/1/double"]
    assert crowd.ok("each/0/other", {"twice": 1}) == ["each/1/other"]
    assert crowd.ok("each/0/double", {"twice": 6}) == ["each/2/double"]


def test_the_failing_item_lowest_in_order_is_the_one_that_is_told():
    """R1, R28: whoever failed first; items behind it are superfluous."""
    crowd = crowd_of(16)
    assert crowd.err("each/2", OSError("third")) == []
    assert crowd.doomed() == []

    assert crowd.err("each/1", OSError("second")) == []
    assert crowd.ok("each/0", {"twice": 6}) == []
    assert "item 1" in str(error_of(crowd.concluded()))
    nested = nested_of(crowd.run)
    assert statuses(nested) == {"0": "ok", "1": "failed", "2": "failed"}
    assert nested.details[2].surplus


def test_items_behind_a_failure_are_cancelled():
    """R19, R28: they keep a record that counts for nothing."""
    crowd = crowd_of(2)
    crowd.err("each/0", OSError("down"))

    assert crowd.doomed() == ["each/1"]
    assert crowd.ok("each/1", {"twice": 8}) == []
    nested = nested_of(crowd.concluded())
    assert statuses(nested) == {"0": "failed", "1": "ok", "2": None}
    assert nested.details[1].surplus
    assert statuses(crowd.run) == {"each": "failed"}


@pytest.mark.parametrize("policy", ["fail", "skip", "collect"])
@pytest.mark.parametrize("order", ["forwards", "backwards"])
def test_every_order_of_replies_leaves_the_same_facts_behind(policy: str, order: str):
    """R1, R28: for every policy."""
    replies = {"0": {"twice": 6}, "1": OSError("down"), "2": {"twice": "many"}}
    walk = Walk(a_map(on_item_error=policy))
    while walk.asks is not None:
        reply = replies[str(walk.asks[2]["item"] - 3)]
        walk.err(reply) if isinstance(reply, Exception) else walk.ok(reply)
    crowd = crowd_of(16, on_item_error=policy)
    for name in crowd.began if order == "forwards" else crowd.began[::-1]:
        reply = replies[name[-1]]
        crowd.err(name, reply) if isinstance(reply, Exception) else crowd.ok(name, reply)

    assert facts(crowd.concluded()) == facts(walk.run)


# ---- the end of the run


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_a_run_that_is_told_to_end_inside_a_map_ends(policy: str):
    """R23, R28: whatever the policies say."""
    walk = Walk(a_map(on_item_error=policy, on_error="skip", retry=AGAIN))
    walk.ok({"twice": 6})
    walk.err(RunCancelled("token"))
    nested = nested_of(walk.run)

    assert walk.asks is None
    assert (walk.run.status, statuses(walk.run)) == ("cancelled", {"each": "cancelled"})
    assert (nested.status, statuses(nested)) == ("cancelled", {"0": "ok", "1": "cancelled", "2": None})


@pytest.mark.parametrize("after_s", [1.0, 0.999])
def test_the_deadline_ends_the_map_and_the_run(after_s: float):
    """R22, R28: it is no failure of an item; a lane may see the end a moment early."""
    walk = Walk(a_map(on_item_error="skip", timeout_seconds=5.0, attended={"deadline_s": 1.0}))
    assert walk.asks == ("invoke", "double", {"item": 3}, 1.0, None)
    walk.err(TimedOut(), after_s=after_s)

    assert walk.run.cancelled is not None
    assert (walk.run.status, walk.run.cancelled.reason) == ("cancelled", "deadline")


def test_cancelling_dooms_all_items_in_flight():
    """R23, R28: those that wait for a place never start."""
    crowd = crowd_of(2)
    assert crowd.cancel(RunCancelled("token")) == []
    assert crowd.doomed() == ["each/0", "each/1"]
    crowd.err("each/0", RunCancelled("token"))
    crowd.ok("each/1", {"twice": 8})

    assert statuses(crowd.concluded()) == {"each": "cancelled"}
    assert statuses(nested_of(crowd.run)) == {"0": "cancelled", "1": "ok", "2": None}


def test_a_map_that_was_stopped_before_its_first_item_is_cancelled():
    """R23, R28: the run was cancelled while the beginning of the step was told."""
    crowd = crowd_of(2, attended={"listening": True})
    crowd.cancel(RunCancelled("token"))

    assert crowd.ok("each") == ["each"]
    assert crowd.asks("each") == ("step_end", "each")
    crowd.ok("each")
    assert statuses(crowd.concluded()) == {"each": "cancelled"}
    assert nested_of(crowd.run).status == "cancelled"


def test_one_item_that_is_told_to_end_ends_the_run():
    """R23, R28: its siblings hear of it."""
    crowd = crowd_of(16, on_item_error="collect")

    assert crowd.err("each/1", RunCancelled("interrupt")) == []
    assert sorted(crowd.doomed()) == ["each/0", "each/2"]
    crowd.err("each/0", RunCancelled("interrupt"))
    crowd.err("each/2", RunCancelled("interrupt"))
    assert crowd.concluded().status == "cancelled"


def test_a_failure_outside_dooms_the_items_of_a_later_map():
    """R19: superfluous is superfluous, item by item."""
    steps = [a_step("last", input_mapping={"twice": "n"}), each()]
    crowd = Crowd(a_run(a_plan(steps, [DOUBLE, LAST]), {"n": 1, "items": ITEMS}))
    crowd.err("last", OSError("down"))

    assert crowd.doomed() == ["each/0", "each/1", "each/2"]
    for name in ("each/0", "each/1", "each/2"):
        crowd.err(name, RunCancelled("surplus"))
    assert statuses(crowd.concluded()) == {"last": "failed", "each": "cancelled"}
    assert crowd.run.details[1].surplus


def test_giving_up_does_not_wait_for_items():
    """R17: a map that is given up is cancelled with everything in it."""
    crowd = crowd_of(2, attended={"caching": True})
    crowd.ok("each/0", Lead("flight"))

    assert crowd.give_up(RunCancelled("interrupt")) == ["each/0"]
    assert crowd.asks("each/0") == ("settle", None)
    crowd.ok("each/0")
    assert statuses(crowd.concluded()) == {"each": "cancelled"}


# ---- listeners, checkpoints, cache


def test_every_item_is_saved_and_then_the_step():
    """R28, R31: also those that failed and are left out, so that a resume runs none of them again."""
    walk = Walk(a_map(on_item_error="skip", attended={"saving": True}))
    seen = []
    replies: list[Any] = [{"twice": 6}, OSError("down"), {"twice": 10}]
    while walk.asks is not None:
        seen.append(walk.asks)
        reply = replies.pop(0) if walk.asks[0] == "call" else None
        walk.err(reply) if isinstance(reply, Exception) else walk.ok(reply)

    assert [one[1:] for one in seen if one[0] == "save"] == [
        ("each/0", {"twice": 6}),
        ("each/1", None),
        ("each/2", {"twice": 10}),
        ("each", {"twice": [6, 10]}),
    ]


def test_an_item_that_fails_the_step_is_not_saved():
    """R32: a resume tries it again, and leaves those before it alone."""
    walk = Walk(a_map(attended={"saving": True}))
    walk.ok({"twice": 6})
    assert walk.asks[0] == "save"
    walk.ok()

    assert walk.err(OSError("down")) is None


class Remembered:
    """What a store holds of the items of one map: position -> outputs, None for one that was skipped."""

    def __init__(self, outcomes: Mapping[int, dict[str, Any] | None]) -> None:
        self.outcomes = outcomes

    def attempts(self, run: Run, step: PlannedStep) -> int:
        return 1

    def fill(self, nested: Run) -> None:
        nested.resumed = True
        for index, values in self.outcomes.items():
            nested.slots[index + 1] = values
            if values is None:
                error = FlowExecutionError("double", index, "stored")
                told = {"error_type": "MyError", "error_code": None, "error_message": "it was down.\n  fix  wait"}
                vars(error)["stored"] = {**told, "error_cause": None}
                nested.skip(nested.plan.steps[index], error)


@pytest.mark.parametrize("way", [Walk, Crowd])
def test_a_resumed_map_runs_only_the_items_that_were_not_committed(way: Any):
    """R28, R32: the lists are put together from both."""
    run = a_map(on_item_error="collect", attended={"resumed": True})
    run.past = Remembered({0: {"twice": 60}, 1: None})
    resumed = way(run)
    if way is Walk:
        assert resumed.asks == ("call", "double", {"item": 5})
        resumed.ok({"twice": 10})
    else:
        assert resumed.began == ["each/2"]
        resumed.ok("each/2", {"twice": 10})
        resumed.concluded()

    assert run.slots[1] is not None
    first, second, third = run.slots[1]["twice"]
    assert (first, third) == (60, 10)
    assert second == ItemError(1, "MyError", "", "it was down.")


def test_every_item_is_looked_up_for_itself():
    """R28, R29: a hit gives no call."""
    walk = Walk(a_map(attended={"caching": True}))

    assert walk.asks == ("look up", "double", None)
    assert walk.ok({"twice": 6}) == ("look up", "double", None)
    assert walk.ok(Lead("flight")) == ("call", "double", {"item": 4})
    assert walk.ok({"twice": 8}) == ("settle", {"twice": 8})
    assert walk.ok() == ("look up", "double", None)
    walk.ok({"twice": 10})
    assert walk.run.slots[1] == {"twice": [6, 8, 10]}
    assert [nested_of(walk.run).details[at].cached for at in (0, 2)] == [True, True]


def test_listeners_hear_of_every_item():
    """R28, R38: inside of the step; the items are no run of their own to them."""
    walk = Walk(a_map(items=[3, 4], attended={"listening": True, "announcing": True}))
    seen = walk.to_the_end({"double": {"twice": 1}})

    assert [one for one in seen if one[0] != "call"] == [
        ("step_start", "each"),
        ("step_start", "each/0"),
        ("step_end", "each/0"),
        ("step_start", "each/1"),
        ("step_end", "each/1"),
        ("step_end", "each"),
    ]


def test_thousands_of_items_are_a_loop_and_no_recursion():
    """R28: and every one of them takes the short path."""
    walk = Walk(a_map(items=list(range(3_000))))
    while walk.asks is not None:
        walk.ok({"twice": 2 * walk.asks[2]["item"]})

    assert walk.run.slots[1] == {"twice": list(range(0, 6_000, 2))}
    assert nested_of(walk.run).details == {}
