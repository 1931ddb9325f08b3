"""Taping: an executor whose tools are recorded once and replayed ever after.

Tools are put into a twin of the executor, and nothing is patched: other executors, also of the same tools, call them as
ever. What is kept of a call, and how, is in `cassettes`.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, defaultdict
from collections.abc import Awaitable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from chainweaver.canonical import Unfingerprintable, bind_fingerprint
from chainweaver.exceptions import CassetteError, ToolNotFoundError, UnrecordedCallError
from chainweaver.objects import RestoreError, UncopyableError, bind_restore, independent_copy
from chainweaver.runtime import Runtime
from chainweaver.testing.cassettes import NO_FINGERPRINT, Cassette, RecordedCall, readable, restored_error
from chainweaver.testing.fakes import FakeTool, ToolCall, copied_fields
from chainweaver.testing.matching import shown
from chainweaver.testing.twins import UNKEPT, check_executor, twin_of
from chainweaver.tools.opening import foreign_fields, opener_of

if TYPE_CHECKING:
    from chainweaver.executor import FlowExecutor
    from chainweaver.tools import Tool, ToolContext


@contextmanager
def record_then_replay(
    executor: FlowExecutor,
    cassette: Cassette | str | os.PathLike[str],
    *,
    tools: Collection[str] | None = None,
    errors: Collection[type[BaseException]] = (),
    mode: Literal["auto", "record", "replay"] = "auto",
) -> Iterator[FlowExecutor]:
    """An executor that records what its tools give the first time, and replays it from then on.

    Recorded are outputs and exceptions, by tool and validated inputs; of equal calls the one from the same step and
    attempt. A run that comes again takes the next recording of its calls, and the last one for ever. While a run is
    replayed no tool is called and no wait takes place. The given executor is not changed; the yielded one has its flows
    and settings, without its step cache and checkpointer, and is closed with the block.

    Args:
        executor: Whose tools are recorded.
        cassette: Path of the file, written at the end of a block that recorded and did not raise; or a `Cassette`.
        tools: Names of the tools that are recorded. None: all. The others are called as ever.
        errors: Exception classes beside the builtin ones that a replay from a file may raise; of others it raises a
            stand-in of the same name.
        mode: "auto" records when the cassette is empty and replays otherwise; "record" begins anew; "replay" never
            calls a tool.

    Raises:
        CassetteError: The file cannot be read or written; or "replay" finds nothing.
        ToolNotFoundError: `tools` names one that the executor does not have.

    While replaying, a call that was not recorded fails its step with `UnrecordedCallError`. A call that ran into its
    time limit is not recorded.

    >>> from chainweaver.executor import FlowExecutor
    >>> from chainweaver.flow import Flow, FlowStep
    >>> from chainweaver.tools import tool
    >>> @tool
    ... def dice() -> int:
    ...     import random
    ...     return random.randrange(1_000_000)
    >>> flow = Flow(name="throw", description="Throws dice.", steps=[FlowStep(tool_name="dice")])
    >>> executor, tape = FlowExecutor(tools=[dice], flows=[flow]), Cassette()
    >>> with record_then_replay(executor, tape) as recorded:
    ...     first = recorded.execute_flow("throw", {})
    >>> with record_then_replay(executor, tape) as replayed:
    ...     replayed.execute_flow("throw", {}).final_output == first.final_output
    True
    """
    check_executor(executor)
    tape = cassette if isinstance(cassette, Cassette) else Cassette(cassette)
    chosen = chosen_tools(executor, tools)
    records = mode == "record" or (mode == "auto" and not len(tape))
    if records:
        tape.clear()
        twin = twin_of(executor, tools=[recorder(tool, tape) for tool in chosen.values()], **UNKEPT)
    else:
        if not len(tape):
            raise CassetteError(tape.name, "it holds no calls to replay", fix='record first, with mode="auto"')
        player = Player(tape, errors)
        runtime = without_waits(executor.settings["runtime"] or Runtime())
        twin = twin_of(executor, tools=[player.stand_in(tool) for tool in chosen.values()], runtime=runtime, **UNKEPT)
    with twin:
        yield twin
    if records:
        tape.save(chosen)


def chosen_tools(executor: FlowExecutor, names: Collection[str] | None) -> dict[str, Tool]:
    """The tools that are taped, by name."""
    known = executor.registered_tools
    if names is None:
        return known
    if isinstance(names, str):
        raise TypeError(f"tools has to be a list of names, not the text {names!r}.")
    for name in names:
        if name not in known:
            raise ToolNotFoundError(name, known=sorted(known))
    return {name: known[name] for name in names}


def without_waits(runtime: Runtime) -> Runtime:
    """The same clock, ids and random numbers; nobody waits."""
    pause = runtime.pause or (lambda seconds: None)
    return Runtime(
        now_ns=runtime.now_ns, wall_time=runtime.wall_time, new_id=runtime.new_id, random=runtime.random, pause=pause
    )


class Fingerprints:
    """Fingerprints of the inputs of one tool."""

    def __init__(self, tool: Tool) -> None:
        self._fingerprint = bind_fingerprint(tool.input_schema)

    def of(self, inputs: BaseModel) -> str:
        """The fingerprint, or the sign that there is none."""
        try:
            return self._fingerprint(inputs)
        except Unfingerprintable:
            return NO_FINGERPRINT


# ---- recording


def recorder(tool: Tool, tape: Cassette) -> FakeTool:
    """The tool, with every call recorded."""
    fingerprints, opened = Fingerprints(tool), opener_of(tool.input_schema)

    def blank(inputs: Any, context: ToolContext) -> RecordedCall:
        # Before the call: a tool may change what it is given.
        step = "/".join(context.step_path)
        fingerprint, told = fingerprints.of(inputs), readable(opened(inputs))
        return RecordedCall(tool.name, context.flow_name, step, context.attempt, fingerprint, tool.schema_hash, told)

    def record(call: RecordedCall, raw: Any) -> Any:
        outputs, is_raw = fields_of(tool, raw)
        if outputs is not None:
            tape.add(replace(call, outputs=outputs, is_raw=is_raw))
        return raw

    async def record_async(call: RecordedCall, coming: Awaitable[Any]) -> Any:
        try:
            raw = await coming
        except Exception as exc:
            tape.add(replace(call, error=exc))
            raise
        return record(call, raw)

    def act(inputs: Any, context: ToolContext, _: ToolCall) -> Any:
        call = blank(inputs, context)
        try:
            raw = tool.fn(inputs, context) if tool.wants_context else tool.fn(inputs)
        except Exception as exc:
            tape.add(replace(call, error=exc))
            raise
        return record_async(call, raw) if isinstance(raw, Awaitable) else record(call, raw)

    return FakeTool(tool, act, tool.is_async)


def fields_of(tool: Tool, raw: Any) -> tuple[dict[str, Any] | None, bool]:
    """The validated output fields of what a tool returned; what broke the schema as it is, where it is data at all."""
    fields = foreign_fields(tool.output_schema, raw)
    try:
        return copied_fields(tool.output_schema.model_validate(raw if fields is None else fields)), False
    except Exception:  # a validator of the user's may raise anything; the run will find out for itself
        return (dict(raw), True) if isinstance(raw, Mapping) else (None, True)


# ---- replaying


class Player:
    """Plays a cassette to the runs of one executor."""

    def __init__(self, tape: Cassette, errors: Collection[type[BaseException]]) -> None:
        self.tape = tape
        self.errors = tuple(errors)
        self._by_inputs: dict[tuple[str, str], list[RecordedCall]] = defaultdict(list)
        for call in tape.calls:
            self._by_inputs[call.tool, call.fingerprint].append(call)
        self._played: Counter[Any] = Counter()
        self._lock = threading.Lock()

    def stand_in(self, tool: Tool) -> FakeTool:
        """A tool that gives what was recorded."""
        fingerprints, restore = Fingerprints(tool), bind_restore(tool.output_schema)

        def act(inputs: Any, context: ToolContext, _: ToolCall) -> Any:
            fingerprint = fingerprints.of(inputs)
            call = self.find(tool.name, fingerprint, context)
            if call is None:
                raise self.miss(tool, fingerprint, inputs, context)
            if call.error is not None:
                raise restored_error(call.error, self.errors)
            outputs = call.outputs or {}
            if call.is_raw:
                return dict(outputs)
            try:
                fields = restore(outputs) if call.is_plain else own_copy(outputs)
            except RestoreError as exc:
                detail = f"its call of tool '{tool.name}' at step '{call.step}' does not fit the output schema ({exc})"
                raise CassetteError(self.tape.name, detail, fix="delete the cassette to record anew") from exc
            return tool.output_schema.model_construct(set(fields), **fields)

        return FakeTool(tool, act, tool.is_async)

    def find(self, tool_name: str, fingerprint: str, context: ToolContext) -> RecordedCall | None:
        """The recording for a call; None where there is none."""
        place = (context.flow_name, "/".join(context.step_path), context.attempt)
        equal = self._by_inputs.get((tool_name, fingerprint), [])
        exact = [call for call in equal if call.place == place]
        if exact:
            # The runs of the recording one after the other, then the last one again and again.
            return exact[min(self._next((tool_name, fingerprint, place)), len(exact) - 1)]
        if fingerprint == NO_FINGERPRINT:
            return None  # nothing but the place tells such calls apart
        number = self._next((tool_name, fingerprint, context.run_id))
        return equal[number] if number < len(equal) else None

    def _next(self, key: Any) -> int:
        with self._lock:
            number = self._played[key]
            self._played[key] += 1
        return number

    # ---- what is not there

    def miss(self, tool: Tool, fingerprint: str, inputs: BaseModel, context: ToolContext) -> UnrecordedCallError:
        """Why there is no recording of a call, with the one that comes nearest."""
        step = "/".join(context.step_path)
        calls = [call for call in self.tape.calls if call.tool == tool.name]
        if not calls:
            known = sorted({call.tool for call in self.tape.calls})
            detail = "the tool was never called while the cassette was recorded"
            return UnrecordedCallError(tool.name, step, detail, known=known, where=self._where())
        equal = sum(call.fingerprint == fingerprint for call in calls)
        if equal:
            detail = (
                f"it was called {equal} time(s) with these inputs, and not at this step on attempt {context.attempt}"
            )
            return UnrecordedCallError(tool.name, step, detail, where=self._where())
        told = readable(opener_of(type(inputs))(inputs)) or {}
        nearest = max(calls, key=lambda call: (likeness(call.inputs, told), call.step == step))
        why = "the tool had other schemas then" if nearest.schema != tool.schema_hash else None
        detail = f"nearest is step '{nearest.step}', attempt {nearest.attempt}, {difference(nearest.inputs, told)}"
        return UnrecordedCallError(tool.name, step, detail, where=self._where(), why=why)

    def _where(self) -> str:
        return f"cassette '{self.tape.name}'"


def own_copy(outputs: dict[str, Any]) -> dict[str, Any]:
    """Outputs that the run may change; what cannot be copied is handed out itself."""
    try:
        return independent_copy(outputs)
    except UncopyableError:
        return dict(outputs)


def likeness(recorded: Mapping[str, Any] | None, asked: Mapping[str, Any]) -> int:
    """How many inputs of two calls are equal."""
    return sum((recorded or {}).get(name, ...) == value for name, value in asked.items())


def difference(recorded: Mapping[str, Any] | None, asked: Mapping[str, Any]) -> str:
    """How the inputs of two calls differ, in words."""
    if recorded is None:
        return "whose inputs are too long to be compared"
    names = [name for name in {**recorded, **asked} if recorded.get(name, ...) != asked.get(name, ...)]
    if not names:
        return "whose inputs read the same; they differ in their types, or in what is not shown"
    told = (f"{name}={shown(recorded.get(name))} where this call has {shown(asked.get(name))}" for name in names)
    return f"with {', '.join(told)}"
