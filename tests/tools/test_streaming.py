"""Tools that stream, and flows as tools."""

import pickle

import pytest
from pydantic import BaseModel

from chainweaver.exceptions import ToolDefinitionError
from chainweaver.executor import FlowExecutor
from chainweaver.flow import Flow, FlowStep, ToolSafetyContract
from chainweaver.tools import StreamingTool, Tool, ToolChunk


class Text(BaseModel):
    text: str


async def spell(inputs):
    for letter in inputs.text:
        yield ToolChunk(letter)
    yield ToolChunk(Text(text=inputs.text.upper()), is_final=True)


def streaming(stream_fn, **settings):
    return StreamingTool(
        name="spell", description="", input_schema=Text, output_schema=Text, stream_fn=stream_fn, **settings
    )


async def test_where_nobody_listens_the_chunks_are_read_to_the_final_one():
    made = streaming(spell, timeout_seconds=5)
    assert made.is_streaming
    assert made.is_async
    assert made.stream_fn is spell
    assert await made.run_async({"text": "ab"}) == {"text": "AB"}


def test_a_streaming_tool_survives_pickling():
    assert pickle.loads(pickle.dumps(streaming(spell))).stream_fn is spell


async def test_the_stream_is_closed_after_the_final_chunk():
    """R23: resources are closed."""
    closed = []

    async def talks_on(inputs):
        try:
            yield ToolChunk({"text": "done"}, is_final=True)
            raise AssertionError
        finally:
            closed.append(True)

    assert await streaming(talks_on).run_async({"text": ""}) == {"text": "done"}
    assert closed == [True]


async def ends_early(inputs):
    yield ToolChunk("a")


async def no_chunk(inputs):
    yield "a"


@pytest.mark.parametrize(
    ("stream_fn", "error", "text"),
    [
        (
            ends_early,
            RuntimeError,
            r"its stream ended without a final chunk; yield ToolChunk\(outputs, is_final=True\)",
        ),
        (no_chunk, TypeError, r"its stream gave str, not ToolChunk; yield ToolChunk\(data\)"),
    ],
)
async def test_a_stream_that_breaks_its_promise_is_named(stream_fn, error, text):
    """R16: the tool was made, and went wrong when it was called."""
    with pytest.raises(error, match=text):
        await streaming(stream_fn).run_async({"text": ""})
    flow = Flow(name="f", description="", steps=[FlowStep(tool_name="spell")])
    record = FlowExecutor(tools=[streaming(stream_fn)], flows=[flow]).execute_flow("f", {"text": ""}).step("0")
    assert record.error_message.startswith(f"Tool 'spell' failed at step 0: {error.__name__}: its stream ")


async def coroutine(inputs):
    return None


def generator(inputs):
    yield ToolChunk(1)


@pytest.mark.parametrize("stream_fn", [None, coroutine, generator])
def test_what_gives_no_async_iterator_is_refused(stream_fn):
    with pytest.raises(ToolDefinitionError, match="stream_fn"):
        streaming(stream_fn)


class Record:
    step_id, status = "0", "ok"

    def __init__(self, outputs):
        self.outputs = outputs


class Result:
    def __init__(self, final_output):
        self.final_output = final_output
        self.execution_log = [Record(final_output)]

    def raise_for_failure(self):
        if self.final_output is None:
            raise LookupError("the flow failed")


class RecordingExecutor:
    """Runs nothing: notes how it was called."""

    def __init__(self, final_output):
        self.calls = []
        self.final_output = final_output

    def execute_flow(self, name, initial_input, *, version=None):
        self.calls.append((name, initial_input, version))
        return Result(self.final_output)


FLOW = Flow(name="inner", version="1.2.0", description="A recipe.", steps=[FlowStep(tool_name="a")])


def test_a_flow_becomes_a_tool_that_runs_it_when_called():
    executor = RecordingExecutor({"text": "x", "more": 1})
    made = Tool.from_flow(FLOW, executor)
    assert executor.calls == []

    assert made.run({"text": "a", "n": 2}) == {"text": "x", "more": 1}
    assert executor.calls == [("inner", {"text": "a", "n": 2}, "1.2.0")]
    assert (made.name, made.description) == ("inner", "A recipe.")
    assert not made.safety_declared


def test_a_flow_tool_takes_name_schemas_and_safety_from_the_caller():
    safety = ToolSafetyContract(cacheable=False)
    made = Tool.from_flow(
        FLOW,
        RecordingExecutor({"text": "x", "more": 1}),
        name="outer",
        description="Mine.",
        input_schema=Text,
        output_schema=Text,
        safety=safety,
    )
    assert (made.name, made.description, made.safety) == ("outer", "Mine.", safety)
    assert made.run({"text": "a"}) == {"text": "x"}


def test_a_flow_that_fails_raises_out_of_its_tool():
    with pytest.raises(LookupError, match="the flow failed"):
        Tool.from_flow(FLOW, RecordingExecutor(None)).run({})


def test_a_flow_tool_is_made_of_the_flow_itself_and_of_something_that_runs_it():
    """R27: what is no flow, or runs none, is told at once and not when the tool is called."""
    with pytest.raises(TypeError, match=r"not of 'inner'; executor\.registry\.get_flow\('inner'\) gives it"):
        Tool.from_flow("inner", RecordingExecutor(None))
    with pytest.raises(TypeError, match="makes a tool of a flow, not of 5"):
        Tool.from_flow(5, RecordingExecutor(None))
    with pytest.raises(TypeError, match="needs the executor that runs the flow, not None"):
        Tool.from_flow(FLOW, None)
