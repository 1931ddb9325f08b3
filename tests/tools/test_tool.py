"""The Tool itself: what it refuses, what it knows about itself, and one call of it by hand."""

import copy
import functools
import pickle

import pytest
from pydantic import BaseModel, computed_field

from chainweaver.exceptions import (
    FlowExecutionError,
    SchemaValidationError,
    ToolDefinitionError,
    ToolOutputSizeError,
    ToolTimeoutError,
)
from chainweaver.flow import ToolSafetyContract
from chainweaver.tools import Tool, ToolContext


class Order(BaseModel):
    rows: int
    price: float = 1.0


class Total(BaseModel):
    total: float


def sum_up(order):
    return {"total": order.rows * order.price}


def make(**arguments):
    settings = {
        "name": "total",
        "description": "Sum of an order.",
        "input_schema": Order,
        "output_schema": Total,
        "fn": sum_up,
    }
    return Tool(**{**settings, **arguments})


def test_run_validates_both_borders_and_returns_the_output_fields():
    """R10: inputs are coerced on the way in, outputs on the way out."""
    assert make(fn=lambda order: {"total": str(order.rows * 2)}).run({"rows": "3"}) == {"total": 6.0}


def test_a_tool_says_its_name():
    assert repr(make()) == "Tool(name='total')"


def test_every_argument_that_makes_no_tool_is_named_at_once():
    with pytest.raises(ToolDefinitionError) as caught:
        make(name=" ", fn=None, timeout_seconds=0, max_output_size=-1, lane="", mutates=["row"], output_schema=dict)

    text = str(caught.value)
    for part in ("name is empty", "fn is None", "timeout_seconds is 0", "max_output_size is -1", "lane is empty"):
        assert part in text
    assert "output_schema is <class 'dict'>, not a pydantic model class" in text
    assert "did you mean 'rows'?" in text
    assert caught.value.known == ("rows", "price")


def test_an_async_function_is_not_given_the_lane_of_worker_processes():
    """Lanes: it would run on a loop of this process all the same, where nothing can kill it."""

    async def wait(order):
        return {"total": 1}

    with pytest.raises(ToolDefinitionError, match="lane is 'process', and the function is async"):
        make(fn=wait, lane="process")


def test_a_tool_cannot_be_changed():
    tool = make()
    with pytest.raises(AttributeError, match="make another tool"):
        tool.name = "other"
    with pytest.raises(AttributeError, match="cannot be deleted"):
        del tool.fn
    assert tool.name == "total"


def test_a_tool_is_equal_to_itself_only_and_copies_are_the_tool():
    """R29: plans are keyed by the registration, so equal-looking tools have to differ."""
    tool = make()
    assert tool != make()
    assert copy.copy(tool) is tool
    assert copy.deepcopy(tool) is tool


def test_the_metadata_of_the_caller_is_copied():
    metadata = {"team": "billing"}
    tool = make(metadata=metadata)
    metadata["team"] = "other"
    assert tool.metadata == {"team": "billing"}


def test_safety_has_a_value_and_says_whether_it_was_declared():
    declared = ToolSafetyContract(idempotent=False)
    assert make().safety == ToolSafetyContract()
    assert not make().safety_declared
    assert make(safety=declared).safety is declared
    assert make(safety=declared).safety_declared


def test_a_tool_of_module_level_parts_survives_pickling():
    again = pickle.loads(pickle.dumps(make(timeout_seconds=5)))
    assert again.run({"rows": 2}) == {"total": 2.0}
    assert again.timeout_seconds == 5


class AsyncCall:
    async def __call__(self, order):
        return {"total": 1}


async def fetch_total(order, scale=1):
    return {"total": order.rows * scale}


@pytest.mark.parametrize(
    ("fn", "is_async"),
    [
        (sum_up, False),
        (fetch_total, True),
        (functools.partial(functools.partial(fetch_total), scale=2), True),
        (AsyncCall(), True),
        (AsyncCall, False),
    ],
)
def test_a_tool_knows_whether_it_has_to_be_awaited(fn, is_async):
    assert make(fn=fn).is_async is is_async


def with_context(order, context: ToolContext):
    return {"total": context.attempt}


def with_text_context(order, context: "ToolContext | None" = None):
    return {"total": 1}


def with_optional_text(order, context: "typing.Optional[chainweaver.ToolContext]" = None):  # type: ignore[name-defined]  # noqa: F821 - only its text is read
    return {"total": 1}


def with_other_context(order, context: "dict | None" = None):
    return {"total": 1}


def with_many_contexts(order, context: list[ToolContext]):
    return {"total": 1}


@pytest.mark.parametrize(
    ("fn", "wants"),
    [
        (with_context, True),
        (with_text_context, True),
        (with_optional_text, True),
        (with_other_context, False),
        (with_many_contexts, False),
        (sum_up, False),
        (len, False),
    ],
)
def test_a_parameter_context_of_type_tool_context_asks_for_the_context(fn, wants):
    """R32: such a tool gets the run id, the attempt and a stable key."""
    assert make(fn=fn).wants_context is wants


def test_a_call_by_hand_is_a_first_attempt_without_a_deadline():
    """R32: the context is there even outside a flow."""
    seen = []

    def look(order, context: ToolContext):
        seen.append(context)
        return {"total": 0}

    make(fn=look).run({"rows": 1})
    assert (seen[0].attempt, seen[0].deadline, seen[0].step_path) == (1, None, ("total",))


def test_an_input_that_does_not_fit_names_every_field():
    with pytest.raises(SchemaValidationError) as caught:
        make().run({"rows": "many", "price": "high"})

    first, *rest = str(caught.value).splitlines()
    assert first.startswith("Schema validation failed for tool 'total' at step 0 (input): rows: ")
    assert "price: Input should be a valid number" in first
    assert "  known   rows, price" in rest


@pytest.mark.parametrize("outputs", [{}, None, 3, Order(rows=1)])
def test_an_output_that_does_not_fit_is_told_apart_from_an_input(outputs):
    with pytest.raises(SchemaValidationError) as caught:
        make(fn=lambda order: outputs).run({"rows": 1})
    assert caught.value.context == "output"


def test_what_the_function_raises_comes_through_unchanged():
    """R18: a tool's exception keeps its type."""

    def fail(order):
        raise ZeroDivisionError("nothing to share")

    with pytest.raises(ZeroDivisionError, match="nothing to share"):
        make(fn=fail).run({"rows": 1})
    with pytest.raises(ZeroDivisionError, match="nothing to share"):
        make(fn=fail, timeout_seconds=5).run({"rows": 1})


def test_an_output_larger_than_allowed_is_refused():
    with pytest.raises(ToolOutputSizeError) as caught:
        make(max_output_size=10).run({"rows": 1000})
    assert (caught.value.limit, caught.value.size) == (10, len('{"total":1000.0}'))


def test_a_sync_tool_that_is_late_is_abandoned():
    """R22: a limit binds during the call, and a late finish is no success."""
    import threading

    released = threading.Event()
    late = make(fn=lambda order: released.wait(10), timeout_seconds=0.01)
    with pytest.raises(ToolTimeoutError) as caught:
        late.run({"rows": 1})
    released.set()
    assert caught.value.timeout_seconds == 0.01


def test_contextvars_are_visible_behind_a_time_limit():
    """R5: the caller's contextvars reach the thread."""
    import contextvars

    user = contextvars.ContextVar("user", default="nobody")
    user.set("ada")
    seen = []
    make(fn=lambda order: seen.append(user.get()) or {"total": 0}, timeout_seconds=5).run({"rows": 1})
    assert seen == ["ada"]


async def test_run_async_awaits_async_tools_and_calls_sync_ones():
    assert await make(fn=fetch_total).run_async({"rows": 4}) == {"total": 4.0}
    assert await make(fn=fetch_total, timeout_seconds=5).run_async({"rows": 4}) == {"total": 4.0}
    assert await make().run_async({"rows": 4}) == {"total": 4.0}


async def test_an_async_tool_that_is_late_is_cancelled():
    """R22: async tools are cancelled."""
    import anyio

    ended = []

    async def sleep_long(order):
        try:
            await anyio.sleep(10)
        finally:
            ended.append(True)

    with pytest.raises(ToolTimeoutError):
        await make(fn=sleep_long, timeout_seconds=0.01).run_async({"rows": 1})
    assert ended == [True]


def test_run_refuses_an_async_tool_and_says_what_to_use():
    with pytest.raises(FlowExecutionError, match="run_async"):
        make(fn=fetch_total).run({"rows": 1})


def test_a_dry_run_calls_the_dry_function_only():
    def never(order):
        raise AssertionError

    tool = make(fn=never, dry_run_fn=lambda order: {"total": "7"})
    assert tool.supports_dry_run
    assert tool.run_dry({"rows": 1}) == {"total": 7.0}


def test_a_tool_without_a_dry_run_says_how_to_get_one():
    assert not make().supports_dry_run
    with pytest.raises(ToolDefinitionError, match="pass dry_run_fn="):
        make().run_dry({"rows": 1})
    with pytest.raises(FlowExecutionError, match="dry_run=True"):
        make(dry_run_fn=fetch_total).run_dry({"rows": 1})


def test_outputs_are_the_objects_that_the_tool_returned():
    """R14: fields come out by identity, extra and computed ones included."""

    class Open(BaseModel, extra="allow"):
        rows: list[int]

        @computed_field
        @property
        def count(self) -> int:
            return len(self.rows)

    filled = Open(rows=[1], note=(note := ["x"]))
    outputs = make(fn=lambda order: filled, output_schema=Open).run({"rows": 1})

    assert outputs == {"rows": [1], "note": ["x"], "count": 1}
    assert outputs["rows"] is filled.rows
    assert outputs["note"] is note


def test_a_model_of_another_class_is_read_field_by_field():
    class Wide(BaseModel):
        total: float
        currency: str

    assert make(fn=lambda order: Wide(total=2, currency="EUR")).run({"rows": 1}) == {"total": 2.0}
