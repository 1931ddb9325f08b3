"""A worker process: finds tools by their names, calls them one after the other, and ends with its owner.

It decides nothing and validates nothing: inputs come validated, and outputs are validated by the owner. What a tool
raises, prints and returns goes back; what has no form in which it could go back is named.

Started by `forker`, or as a program of its own by `processes`; nothing in the owner calls this.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import pickle
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from chainweaver.exceptions import told
from chainweaver.lanes import naming
from chainweaver.lanes.naming import Found
from chainweaver.lanes.sharing import Cargo, Sharing, unload
from chainweaver.lanes.wire import MOST_DESCRIPTORS, Stand, Wire, dumped, loaded

if TYPE_CHECKING:
    from chainweaver.lanes.naming import SentVariables, ToolName
    from chainweaver.objects.store import ObjectRef

IS_WORKER = False
"""This process is one of ours: it starts no workers while it loads the program of its owner."""

MOST_PRINTED = 1 << 16
"""Bytes of each stream that are captured per call; of more, the end is kept."""


NO_CHANGES = (
    "arrays and frames that a tool gets in a worker process cannot be changed in place: name the input in mutates= of "
    "the tool, which then gets a copy of its own, or change a copy"
)
"""What to do about an array that refuses; its own words do not say why it does."""


class Settings(NamedTuple):
    """What a worker has from its owner.

    Attributes:
        path: `sys.path`.
        arguments: `sys.argv`.
        folder: The working directory.
        main: How the program is loaded again; None where it cannot be.
        cpus: The processors that the worker keeps to; None for all.
        min_shared_bytes: Objects from this size on travel in shared memory.
        captures: What tools print is sent back.
    """

    path: list[str]
    arguments: list[str]
    folder: str
    main: tuple[str, str] | None
    cpus: list[int] | None
    min_shared_bytes: int
    captures: bool


class ModelState(NamedTuple):
    """What an instance of a model holds. Its class need not be importable: both ends have it from the tool."""

    fields: dict[str, Any]
    extra: dict[str, Any] | None
    fields_set: set[str]
    private: dict[str, Any] | None


def state_of(model: BaseModel) -> ModelState:
    """The values of a model as they are, without a copy."""
    return ModelState(
        model.__dict__, model.__pydantic_extra__, model.__pydantic_fields_set__, model.__pydantic_private__
    )


def model_of(kind: Any, state: ModelState) -> Any:
    """The instance that holds these values; they were validated where they come from."""
    model = kind.__new__(kind)
    object.__setattr__(model, "__dict__", state.fields)
    object.__setattr__(model, "__pydantic_extra__", state.extra)
    object.__setattr__(model, "__pydantic_fields_set__", state.fields_set)
    object.__setattr__(model, "__pydantic_private__", state.private)
    return model


class Load(NamedTuple):
    """Find a tool, and call it by this number from now on."""

    number: int
    name: ToolName


class Call(NamedTuple):
    """Call a tool that was loaded.

    Attributes:
        body: State of the input model, and the context of the call or None; pickled apart, since it may be unreadable.
        rows: The objects in shared memory that it refers to.
        is_private: The tool declares to change what it is given, so that all of it is its own.
    """

    number: int
    body: bytes
    rows: list[tuple[ObjectRef, bool]]
    variables: SentVariables
    is_private: bool


class Returned(NamedTuple):
    """What came of a call.

    Attributes:
        is_model: The body is the state of an instance of the tool's own output model.
        printed: What the tool wrote to its output and error streams; None where nobody captures.
    """

    body: bytes
    rows: list[tuple[ObjectRef, bool]]
    is_model: bool
    printed: tuple[str, str] | None


class Raised(NamedTuple):
    """What a tool raised.

    Attributes:
        error: The exception, pickled; None where it has no such form.
        kind: Module and name of its class.
        text: What it says.
        trace: The traceback, as text.
    """

    error: bytes | None
    kind: str
    text: str
    trace: str
    printed: tuple[str, str] | None


class Refused(NamedTuple):
    """What could not be done: the tool was not found, its inputs could not be read, its result could not be sent.

    Attributes:
        field: The name of the value that is in the way; None where that is not known.
    """

    border: str
    field: str | None
    reason: str
    printed: tuple[str, str] | None = None


class _Worker:
    def __init__(self, wire: Wire, settings: Settings) -> None:
        self.wire = wire
        self.settings = settings
        self.sharing = Sharing(settings.min_shared_bytes)
        self.tools: dict[int, Found] = {}

    def serve(self) -> None:
        """Answer until the owner hangs up."""
        lent: Cargo | None = None
        while True:
            try:
                frame, descriptors = self.wire.receive()
            except (EOFError, OSError):
                return
            if lent is not None:
                lent.release()
            asked = loaded(frame, _nothing)
            del frame
            reply, cargo = (self._load(asked), None) if isinstance(asked, Load) else self._call(asked, descriptors)
            try:
                self.wire.send(dumped(reply, _left_in), () if cargo is None else cargo.descriptors)
            except OSError:
                return
            # What goes by name has to be held until the owner holds it too, so until it calls again.
            lent = cargo if cargo is not None and not cargo.descriptors else None
            if cargo is not None and lent is None:
                cargo.release()
            # Nothing of a call may live on until the next one.
            del asked, reply, cargo, descriptors

    def _load(self, asked: Load) -> Refused | None:
        try:
            if asked.name.tool.module == "__main__":
                self._load_main()
            self.tools[asked.number] = naming.find(asked.name)
        except naming.NotThere as exc:
            return Refused("tool", None, str(exc))
        except BaseException as exc:
            return Refused("tool", None, f"{told(exc)}\n{_trace_of(exc)}")
        return None

    def _load_main(self) -> bool:
        """Load the program of the owner, where it can be loaded again."""
        if self.settings.main is not None:
            naming.load_main(*self.settings.main)
        return self.settings.main is not None

    def _call(self, asked: Call, descriptors: list[int]) -> tuple[Returned | Raised | Refused, Cargo | None]:
        tool = self.tools[asked.number]
        try:
            take = self.sharing.take_private if asked.is_private else self.sharing.take
            state, context = self._read(asked.body, unload(take, asked.rows, descriptors))
        except BaseException as exc:
            return Refused("input", None, told(exc)), None
        args = (model_of(tool.schema, state),) if context is None else (model_of(tool.schema, state), context)
        del state
        printer = _Printer() if self.settings.captures else None
        raised: BaseException | None = None
        result: Any = None
        try:
            surroundings = contextvars.copy_context()
            surroundings.run(naming.set_variables, asked.variables)
            result = surroundings.run(tool.fn, *args)
        except BaseException as exc:
            raised = exc
        printed = None if printer is None else printer.end()
        if raised is not None:
            if not asked.is_private and type(raised) is ValueError and "read-only" in str(raised):
                raised.args = (f"{raised}; {NO_CHANGES}",)
            return _raised(raised, printed), None
        return self._returned(tool, result, printed)

    def _read(self, body: bytes, shared: list[Any]) -> Any:
        try:
            return loaded(body, shared.__getitem__)
        except AttributeError:
            # A class of the program itself, which is loaded only where it is needed.
            if not self._load_main():
                raise
            return loaded(body, shared.__getitem__)

    def _returned(
        self, tool: Found, result: Any, printed: tuple[str, str] | None
    ) -> tuple[Returned | Refused, Cargo | None]:
        is_model = tool.gives is not None and type(result) is tool.gives
        value: Any = state_of(result) if is_model else result
        cargo = Cargo(self.sharing, MOST_DESCRIPTORS)
        try:
            body = dumped(lifted(value, cargo), cargo.reduced)
        except Exception as exc:
            cargo.release()
            field, reason = culprit(value, exc)
            return Refused("output", field, reason, printed), None
        return Returned(body, cargo.rows, is_model, printed), cargo


def lifted(value: Any, cargo: Cargo) -> Any:
    """Fields with a stand in place of large bytes, which pickle would not ask about."""
    if isinstance(value, ModelState):
        return value._replace(fields=lifted(value.fields, cargo))
    if type(value) is not dict or not any(type(item) in (bytes, bytearray) for item in value.values()):
        return value
    found = {}
    for name, item in value.items():
        number = cargo.lift(item) if type(item) in (bytes, bytearray) else None
        found[name] = item if number is None else Stand(number)
    return found


def culprit(value: Any, exc: Exception) -> tuple[str | None, str]:
    """The field that keeps values from being pickled, and why."""
    fields = value.fields if isinstance(value, ModelState) else value
    for name, item in fields.items() if isinstance(fields, Mapping) else ():
        try:
            dumped(item, _left_in)
        except Exception as own:
            return str(name), told(own)
    return None, told(exc)


def _raised(exc: BaseException, printed: tuple[str, str] | None) -> Raised:
    kind = type(exc)
    error: bytes | None = None
    try:
        error = pickle.dumps(exc, protocol=5)
        if type(pickle.loads(error)) is not kind:  # noqa: S301 - our own words, read back
            error = None
    except Exception:  # it stays here; what can be said of it goes
        error = None
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return Raised(error, name, told(exc), _trace_of(exc), printed)


def _trace_of(exc: BaseException) -> str:
    """The traceback as text, without the frames of this file."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    try:
        return "".join(traceback.format_exception(type(exc), exc, trace)).rstrip()
    except Exception:  # an exception may have any __str__
        return type(exc).__name__


def _nothing(number: int) -> Any:
    raise pickle.UnpicklingError("a frame refers to an object that did not come with it")


def _left_in(value: Any) -> None:
    """Lifts nothing."""


class _Printer:
    """Takes what is written to the output and error streams, also by libraries and child processes."""

    def __init__(self) -> None:
        _flush()
        self._files = [tempfile.TemporaryFile(), tempfile.TemporaryFile()]  # noqa: SIM115 - closed by `end`
        self._streams = [os.dup(1), os.dup(2)]
        for number, file in enumerate(self._files, 1):
            os.dup2(file.fileno(), number)

    def end(self) -> tuple[str, str]:
        """Put the streams back; the end of what was written to each."""
        _flush()
        found = []
        for number, (file, stream) in enumerate(zip(self._files, self._streams, strict=True), 1):
            os.dup2(stream, number)
            os.close(stream)
            file.seek(max(0, file.seek(0, os.SEEK_END) - MOST_PRINTED))
            found.append(file.read().decode("utf-8", "replace"))
            file.close()
        return found[0], found[1]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a tool may have closed or replaced it
            stream.flush()


# ---- the process


def begin(sock: socket.socket, settings: Settings) -> None:
    """Be a worker until the owner hangs up."""
    global IS_WORKER
    IS_WORKER = True
    sys.path[:] = settings.path
    sys.argv[:] = settings.arguments
    with contextlib.suppress(OSError):  # it may have been removed meanwhile
        os.chdir(settings.folder)
    if settings.cpus and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):  # taken away meanwhile: a hint that cannot be followed
            os.sched_setaffinity(0, settings.cpus)
    _Worker(Wire(sock), settings).serve()


def main_spawned(handle: str) -> None:
    """A worker that is a program of its own; its settings come first.

    Args:
        handle: The number of the descriptor of its socket; empty where the socket comes through standard input.
    """
    if handle:
        sock = socket.socket(fileno=int(handle))
    else:
        size = int.from_bytes(sys.stdin.buffer.read(4), "big")
        sock = socket.fromshare(sys.stdin.buffer.read(size))  # type: ignore[attr-defined,unused-ignore]  # Windows
    frame, _ = Wire(sock).receive()
    threading.Thread(target=_end_with_owner, daemon=True).start()
    begin(sock, Settings(*loaded(frame, _nothing)))


def _end_with_owner() -> None:
    """End in the middle of a call, when the owner has gone: its end of the pipe is closed then."""
    with contextlib.suppress(OSError, ValueError):
        while sys.stdin.buffer.read(1):
            pass
    os._exit(0)
