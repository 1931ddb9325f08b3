"""Streams in a definition: who reads one, what fits it, and which steps a run has to look at for it."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import pytest

from chainweaver import Chunk, ConditionalEdge, Flow, Stream, StreamReadError
from chainweaver.compiler import CompilationResult
from chainweaver.compiler.core_schemas import gives_stream
from chainweaver.compiler.model_traits import grows
from chainweaver.compiler.types import compatible, describe
from tests.compiler import kit
from tests.compiler.kit import a_dag, a_tool, call, node, sub
from tests.compiler.schemas import Streamed

NUMBERS = Stream[int]
MAKE = a_tool("make", {}, {"rows": NUMBERS})
READ = a_tool("read", {"rows": NUMBERS}, {"total": int})
COUNT = a_tool("count", {"rows": Stream}, {"size": int})
DOUBLE = a_tool("double", {"rows": NUMBERS}, {"doubled": NUMBERS})
TOOLS = [MAKE, READ, COUNT, DOUBLE]


def compiled(flow: Any, tools: Any = TOOLS, **options: Any) -> CompilationResult:
    return kit.compiled(flow, *tools, **options)


def a_chain(*steps: Any, **options: Any) -> Flow:
    """A linear flow; a name alone is a step that calls the tool."""
    return kit.a_chain(*(call(step) if isinstance(step, str) else step for step in steps), **options)


def detail(result: CompilationResult) -> str:
    [error] = result.errors
    return error.detail


def conflicts(result: CompilationResult) -> list[tuple[int, str]]:
    return [(one.step_index, one.detail) for one in result.errors if one.issue_type == "stream_read_twice"]


# ---- types


@pytest.mark.parametrize(
    ("source", "target", "verdict"),
    [
        (Stream[int], Stream[int], True),
        (Stream[int], Stream[str], False),
        (Stream[int], Stream, True),
        (Stream, Stream[int], True),
        (Stream[int] | None, Stream[int], True),
        (list[int], Stream[int], True),
        (list[str], Stream[dict], False),
        (dict[str, int], Stream[Any], False),
        (str, Stream[Any], False),
        (int, Stream[int], False),
        (Any, Stream[int], True),
        (Stream[int], Any, True),
        (Stream[int], list[int], False),
        (Stream[int], list, False),
        (Stream[int], tuple[int, ...], False),
        (Stream[int], str, False),
        (Stream[int], dict, False),
    ],
)
def test_what_goes_into_a_stream_and_what_a_stream_goes_into(source: Any, target: Any, verdict: bool) -> None:
    """R16: a stream of the items, anything that can be gone through; and into no container."""
    assert compatible(source, target) is verdict


def test_an_async_source_of_the_users_own_goes_into_a_stream() -> None:
    class Feed:
        def __aiter__(self) -> Any: ...

    assert compatible(Feed, Stream[int])


def test_a_stream_is_named_as_it_is_written_and_is_no_container_that_validation_rebuilds() -> None:
    """R14: no warning `native_copy` for it."""
    assert describe(Stream[int]) == "Stream[int]"
    assert not grows(Stream[list[int]])
    assert compiled(a_chain("make", "read"), TOOLS).warnings == ()


def test_a_stream_for_a_list_is_an_error_that_says_what_to_do() -> None:
    collect = a_tool("collect", {"rows": list[int]}, {"n": int})
    result = compiled(a_chain("make", "collect"), [MAKE, collect])
    assert "takes list[int], but key 'rows' gives Stream[int]; let the tool take a Stream" in detail(result)


def test_a_part_of_a_stream_has_no_name_and_a_map_does_not_take_one() -> None:
    """R28: a map needs a list."""
    one = a_tool("one", {"row": int}, {"out": int})
    result = compiled(a_chain("make", call(one, {"row": "/rows/0"})), [MAKE, one])
    assert [error.issue_type for error in result.errors] == ["missing_mapping_key"]
    mapped = call(one, map_over="rows", map_as="row")
    assert "which is no list" in detail(compiled(a_chain("make", mapped), [MAKE, one]))


# ---- read once


def test_two_steps_that_read_one_stream_are_an_error_of_the_second() -> None:
    """R14: named with the other one, and with a way out; its step fails with it."""
    result = compiled(a_chain("make", "read", "count"), TOOLS)
    [(index, text)] = conflicts(result)
    assert index == 2
    assert "step 'read' reads it as well; a stream can be read once: collect its items in a list" in text
    fault = result.plan.steps[2].fault
    assert fault is not None
    assert isinstance(fault(), StreamReadError)


def test_a_stream_that_was_written_anew_is_another_one() -> None:
    """R3: what counts is the writer."""
    again = a_tool("again", {"rows": NUMBERS}, {"rows": NUMBERS})
    steps = a_chain("make", "again", "read", on_context_collision="overwrite")
    assert conflicts(compiled(steps, [*TOOLS, again])) == []


def test_ways_out_of_one_branching_step_never_both_read() -> None:
    """R24: but without a default they may."""

    def branching(**default: Any) -> Any:
        edge = ConditionalEdge(target_step_id="b", predicate="flag == 1")
        flag = a_tool("flag", {}, {"flag": int})
        return [*TOOLS, flag], a_dag(
            node("a", MAKE), node("f", flag, "a", branches=[edge], **default),
            node("b", READ, "f"), node("c", COUNT, "f"),
        )  # fmt: skip

    tools, flow = branching(default_next="c")
    assert conflicts(compiled(flow, tools)) == []
    tools, flow = branching()
    assert len(conflicts(compiled(flow, tools))) == 1


def test_two_fields_of_a_step_count_as_two_readers() -> None:
    both = a_tool("both", {"left": NUMBERS, "right": NUMBERS}, {"n": int})
    result = compiled(a_chain("make", call(both, {"left": "rows", "right": "rows"})), [MAKE, both])
    assert "it goes into two fields of this step" in detail(result)


def test_the_caller_is_a_reader_of_what_outputs_names() -> None:
    """R13: he would get a stream that is closed."""
    assert "for its caller to read" in detail(compiled(a_chain("make", "read", outputs=["total", "rows"]), TOOLS))
    assert conflicts(compiled(a_chain("make", "double", outputs=["doubled"]), TOOLS)) == []
    assert conflicts(compiled(a_chain("make", "read"), TOOLS)) == []


def test_the_items_of_a_map_must_not_share_a_stream_but_may_be_streams() -> None:
    """R28: each item would read all of it."""
    pick = a_tool("pick", {"rows": NUMBERS, "at": int}, {"picked": int})
    shared = call(pick, map_over="ats", map_as="at")
    assert "every item of the map reads it" in detail(compiled(a_chain("make", shared), [MAKE, pick]))
    own = compiled(a_chain(call(READ, map_over="all", map_as="rows")), TOOLS)
    assert own.success
    each = own.plan.steps[0].each
    assert each is not None
    assert each.step.streams is not None
    assert own.plan.steps[0].streams is None


def test_a_sub_flow_reads_what_its_steps_read() -> None:
    """R27: with and without an input schema."""
    inner = Flow(name="inner", description="d", steps=[call(READ)])
    result = compiled(a_chain("make", sub("inner"), "count"), TOOLS, flows=[inner])
    assert conflicts(result)[0][0] == 2


def test_what_takes_a_stream_without_saying_so_reads_it_too() -> None:
    """R14: an iterable reads it, and so does a chunked step; what takes anything need not."""
    from collections.abc import Iterable

    walk = a_tool("walk", {"rows": Iterable[int]}, {"n": int})
    anything = a_tool("anything", {"rows": Any}, {"m": int})
    chunked = call(a_tool("add", {"rows": list[int]}, {"sum": int}), chunk=Chunk(input="rows", rows=2, combine="sum"))
    add = a_tool("add", {"rows": list[int]}, {"sum": int})
    assert len(conflicts(compiled(a_chain("make", "walk", "read"), [*TOOLS, walk]))) == 1
    assert len(conflicts(compiled(a_chain("make", chunked, "read"), [*TOOLS, add]))) == 1
    assert conflicts(compiled(a_chain("make", "anything", "read"), [*TOOLS, anything])) == []


def test_streams_of_chunks_cannot_be_combined() -> None:
    """R28: whatever the way."""
    chunked = call(DOUBLE, chunk=Chunk(input="rows", rows=2))
    assert "return a list of the items" in detail(compiled(a_chain("make", chunked), TOOLS))


# ---- the plan


def test_only_steps_with_streams_are_looked_at() -> None:
    """R14: others stay plain, and so do flows without."""
    plain = a_tool("plain", {"total": int}, {"n": int})
    plan = compiled(a_chain("make", "double", "plain"), [*TOOLS, plain]).plan
    streams = [step.streams and (step.streams.takes, step.streams.gives) for step in plan.steps]
    assert streams == [((), ("rows",)), (("rows",), ("doubled",)), None]
    assert [step.plain for step in plan.steps] == [False, False, True]
    assert plan.streams is None


def test_where_nobody_has_imported_streams_nobody_looks_for_them(monkeypatch: Any) -> None:
    """R14: compiling costs what it did."""
    plain = a_tool("plain", {"total": int}, {"n": int})
    monkeypatch.delitem(sys.modules, "chainweaver.objects.streams")
    plan = compiled(a_chain("plain"), [plain]).plan
    assert (plan.steps[0].streams, plan.streams) == (None, None)
    assert not gives_stream(int)


def test_a_type_that_cannot_be_hashed_is_looked_at_as_well() -> None:
    """R14: metadata of all kinds."""
    assert gives_stream(Annotated[Stream[int], ["metadata"]])


def test_what_a_caller_may_give_as_a_stream_is_known() -> None:
    """R8: what the input schema says, and what steps look for."""
    plan = compiled(a_chain("read"), TOOLS).plan
    assert plan.streams is not None
    assert plan.streams.takes == ("rows",)
    plan = compiled(a_chain("read", input_schema_ref=kit.schema(Streamed))).plan
    assert plan.streams is not None
    assert "others" in plan.streams.takes


def test_what_is_cut_into_chunks_need_not_be_a_stream() -> None:
    """R28: two steps may cut one list."""
    add = a_tool("add", {"rows": list[int]}, {"sum": int})
    cut: dict[str, Any] = {"chunk": Chunk(input="rows", rows=2, combine="sum")}
    result = compiled(a_chain(call(add, **cut), call(add, output_mapping={"s": "sum"}, **cut)), [add])
    assert result.success
    assert result.plan.steps[1].streams is None


def test_tools_know_their_stream_fields() -> None:
    """R15: for lanes that have none."""
    plan = compiled(a_chain("make", "double"), TOOLS).plan
    assert [step.tool and step.tool.streams for step in plan.steps] == [("rows",), ("rows", "doubled")]


def test_what_closes_streams_is_called_beside_the_tools() -> None:
    """R14: on the loop where one of them has to be awaited."""
    streams = compiled(a_chain("make"), TOOLS).plan.steps[0].streams
    assert streams is not None

    async def items() -> Any:
        yield 1

    assert not streams.closing([Stream([1])]).is_async
    assert streams.closing([Stream([1]), Stream(items())]).is_async
    assert streams.closing([Stream([1])]).validate_input(1) == 1
