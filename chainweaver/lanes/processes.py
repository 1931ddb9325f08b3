"""The process lane: plain calls performed in worker processes. It decides nothing about retries, limits or records.

`Processes` is the pool of one executor: it starts workers when they are needed, gives each call to an idle one, and
kills the worker of a call that is late or in vain. A worker that dies takes its own call along and nothing else.
Large objects go through shared memory (`sharing`), all else through a socket (`wire`).

Called by the performers of the sync and async lanes. Imported on first use.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from chainweaver._execution.commands import Printed, TimedOut
from chainweaver.exceptions import ProcessBorderError, WorkerDiedError, told
from chainweaver.lanes import worker as ours
from chainweaver.lanes.forker import STILL_THERE, Fork, Reap, kill_group
from chainweaver.lanes.naming import Nameless, led_to, main_of_program, name_of, variables_of
from chainweaver.lanes.placement import places
from chainweaver.lanes.sharing import Cargo, Sharing, unload
from chainweaver.lanes.wire import MOST_DESCRIPTORS, Wire, dumped, loaded
from chainweaver.lanes.worker import (
    Call,
    Load,
    Raised,
    Refused,
    Returned,
    Settings,
    culprit,
    lifted,
    model_of,
    state_of,
)

if TYPE_CHECKING:
    from chainweaver.lanes.naming import ToolName
    from chainweaver.lanes.threads import DaemonThreads
    from chainweaver.plan import PlannedTool

START_S = 60.0
"""How long a worker may take to start and to import the module of a tool, in seconds."""

ENDING_S = 1.0
"""How long a worker that has hung up may take to end by itself, in seconds."""

CLOSE_S = 2.0
"""How long `Processes.close` waits for processes to end, in seconds."""

CAN_FORK = hasattr(os, "fork") and hasattr(socket, "send_fds")


class RemoteTrace(Exception):
    """The traceback of an exception that was raised in a worker; it is the cause of that exception here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


class Worker:
    """A worker process, as its owner knows it.

    Attributes:
        loaded: The numbers of the tools that it has found.
        generation: Tools that were replaced later it knows as they were.
    """

    def __init__(self, wire: Wire, pid: int, end: Callable[[Worker, bool], int | None]) -> None:
        self.wire = wire
        self.pid = pid
        self.loaded: set[int] = set()
        self.generation = 0
        self.is_killed = self.has_ended = False
        self._end = end
        self._lock = threading.Lock()

    def kill(self) -> None:
        """End it now, whatever it does; whoever waits for its reply is told that it is gone."""
        with self._lock:  # once it was reaped, its number may belong to somebody else
            self.is_killed = True
            if not self.has_ended:
                kill_group(self.pid) if hasattr(os, "killpg") else os.kill(self.pid, signal.SIGTERM)

    def end(self, kill: bool) -> int | None:
        """See to it that it ends; its exit code, negative for the signal that killed it, None where nobody knows."""
        with self._lock:
            self.has_ended = True
        self.wire.close()
        return self._end(self, kill)

    def is_there(self) -> bool:
        """Whether it still waits for calls, as far as can be seen from here."""
        try:
            self.wire.sock.settimeout(0)
            return bool(self.wire.sock.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False


class ProcessJob:
    """A call on its way in a worker; see `Job`. Keeps its own time limit, since starting a worker does not count."""

    __slots__ = ("_lock", "args", "cancelled", "done", "error", "finished", "pool", "timeout_s", "tool", "trust",
                 "value", "worker")  # fmt: skip

    def __init__(
        self,
        pool: Processes,
        tool: PlannedTool,
        args: tuple[Any, ...],
        timeout_s: float | None,
        trust: object,
        done: Callable[[], None],
    ) -> None:
        self.pool = pool
        self.tool = tool
        self.args = args
        self.timeout_s = timeout_s
        self.trust = trust
        self.done = done
        self.finished = self.cancelled = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.worker: Worker | None = None
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Have a worker perform the call, in this thread."""
        try:
            self.value = self.pool.call(self)
        except BaseException as exc:
            self.error = exc
        self.args = ()
        self.finished = True
        self.done()

    def cancel(self) -> None:
        """Kill the worker that performs it, if it has not finished."""
        with self._lock:
            if self.finished or self.cancelled:
                return
            self.cancelled = True
            worker = self.worker
        if worker is not None:
            worker.kill()
        else:
            self.pool.wake()

    def enters(self, worker: Worker) -> bool:
        """A worker begins with it; False when nobody wants it any more."""
        with self._lock:
            self.worker = worker
            return not self.cancelled

    def leaves(self) -> None:
        """The worker has nothing more to do with it."""
        with self._lock:
            self.worker = None


class Forkserver:
    """Starts workers by having a process fork them that has all imported already."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._wire: Wire | None = None

    def start(self, settings: Settings) -> Worker:
        mine, its = socket.socketpair()
        try:
            pid = self._ask(Fork(settings), [its.fileno()])
        except BaseException:
            mine.close()
            raise
        finally:
            its.close()
        return Worker(Wire(mine), pid, self._end)

    def close(self) -> None:
        """End the process, and with it all that it has forked."""
        with self._lock:
            process, wire, self._process, self._wire = self._process, self._wire, None, None
        if wire is not None:
            wire.close()
        if process is not None:
            _see_off(process)

    def forget(self) -> None:
        self._lock = threading.Lock()
        self._process = None
        if self._wire is not None:
            self._wire.close()
        self._wire = None

    def _end(self, worker: Worker, kill: bool) -> int | None:
        until_s, pause_s = time.monotonic() + ENDING_S, 0.0005
        while True:
            try:
                status = self._ask(Reap(worker.pid, kill), [], restarts=False)
            except (OSError, EOFError):
                status = None
            if status != STILL_THERE:
                break
            # Here, and not in the other process, which others want workers of meanwhile.
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.02)
            kill = kill or time.monotonic() > until_s
        if status is None:
            if kill:
                kill_group(worker.pid)
            return None
        return os.waitstatus_to_exitcode(status)

    def _ask(self, question: Any, descriptors: list[int], *, restarts: bool = True) -> Any:
        with self._lock:
            try:
                return self._answer(question, descriptors, restarts)
            except (OSError, EOFError):
                # Somebody killed it; the workers live on without it.
                self._drop()
                if not restarts:
                    raise
            return self._answer(question, descriptors, restarts)

    def _answer(self, question: Any, descriptors: list[int], restarts: bool) -> Any:
        if self._wire is None and restarts:
            self._begin()
        if self._wire is None:
            raise EOFError
        self._wire.send(dumped(question, ours._left_in), descriptors)
        return loaded(self._wire.receive()[0], ours._nothing)

    def _begin(self) -> None:
        mine, its = socket.socketpair()
        with its:
            number = its.fileno()
            code = f"from chainweaver.lanes.forker import main; main({number})"
            self._process = _python(code, pass_fds=[number], stdin=subprocess.DEVNULL, start_new_session=True)
        self._wire = Wire(mine)

    def _drop(self) -> None:
        process, wire, self._process, self._wire = self._process, self._wire, None, None
        if wire is not None:
            wire.close()
        if process is not None:
            _see_off(process)


class Spawner:
    """Starts each worker as a program of its own, where nothing can be forked."""

    def __init__(self) -> None:
        self._alive: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, settings: Settings) -> Worker:
        mine, its = socket.socketpair()
        with its:
            if hasattr(its, "share"):
                process = _python(_SPAWNED.format(""), stdin=subprocess.PIPE)
                assert process.stdin is not None, "a pipe was asked for"
                shared = its.share(process.pid)
                process.stdin.write(len(shared).to_bytes(4, "big") + shared)
                process.stdin.flush()
            else:
                number = its.fileno()
                process = _python(
                    _SPAWNED.format(number), pass_fds=[number], stdin=subprocess.PIPE, start_new_session=True
                )
        wire = Wire(mine)
        self._alive[process.pid] = process
        wire.send(dumped(settings, ours._left_in))
        return Worker(wire, process.pid, self._end)

    def close(self) -> None:
        """End all that are left."""
        for pid in list(self._alive):
            self._wait(pid, 0.0)

    def forget(self) -> None:
        self._alive = {}

    def _end(self, worker: Worker, kill: bool) -> int | None:
        return self._wait(worker.pid, 0.0 if kill else ENDING_S)

    def _wait(self, pid: int, timeout_s: float) -> int | None:
        process = self._alive.pop(pid, None)
        if process is None:
            return None
        with process:
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
            try:
                return process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                if hasattr(os, "killpg"):
                    kill_group(pid)
                else:
                    process.kill()
                return process.wait()


_SPAWNED = "from chainweaver.lanes.worker import main_spawned; main_spawned('{}')"


def _python(code: str, **options: Any) -> subprocess.Popen[bytes]:
    """Another interpreter like this one, with its path."""
    if not sys.executable:
        raise OSError("this interpreter does not know its own program (sys.executable), so it cannot start workers")
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    code = f"import sys; sys.path[:] = {sys.path!r}; {code}"
    return subprocess.Popen([sys.executable, *flags, "-c", code], **options)


def _see_off(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(CLOSE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Processes:
    """The worker processes of one executor. None is started before the first call.

    Args:
        workers: Most workers at a time. None: as many as there are processors to run on.
        min_shared_bytes: Objects from this size on travel in shared memory.
        placement: Which processors workers keep to; see `places`.
        captures: What tools print goes into the records of their steps.
        forks: Workers are forked from a process that is ready for it; otherwise each is a program of its own.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        min_shared_bytes: int = 256 << 10,
        placement: str | None = None,
        captures: bool = False,
        forks: bool = CAN_FORK,
    ) -> None:
        self._most = workers or cores()
        self._min_shared_bytes = min_shared_bytes
        self._captures = captures
        self._places = places(placement, self._most)
        self._starter: Forkserver | Spawner = Forkserver() if forks else Spawner()
        self._free = threading.Condition()
        self._idle: deque[Worker] = deque()
        self._all: dict[Worker, int] = {}
        self._starting = 0
        self._names: weakref.WeakKeyDictionary[Any, dict[Any, tuple[int, ToolName]]] = weakref.WeakKeyDictionary()
        self._led_to: dict[ToolName, tuple[int, tuple[Any, ...]]] = {}
        self._numbers = count()
        self._generation = 0
        self._past_traffic = 0
        self.sharing = Sharing(min_shared_bytes, is_owner=True)
        self._finalizer = weakref.finalize(self, _end_all, self._starter, self._all, self.sharing)

    def start(
        self,
        threads: DaemonThreads,
        tool: PlannedTool,
        args: tuple[Any, ...],
        timeout_s: float | None,
        trust: object,
        done: Callable[[], None],
    ) -> ProcessJob:
        """Begin a call; `done` is called from another thread when it has finished."""
        job = ProcessJob(self, tool, args, timeout_s, trust, done)
        threads.start(job)
        return job

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        with self._free:
            return [worker.pid for worker in self._all]

    @property
    def traffic(self) -> int:
        """Bytes that went through sockets to workers and back, so far."""
        with self._free:
            return self._past_traffic + sum(worker.wire.sent + worker.wire.received for worker in self._all)

    def close(self) -> None:
        """End all workers, and what they do; they are started anew when they are needed again."""
        with self._free:
            workers = list(self._all)
            self._all.clear()
            self._idle.clear()
            self._starting = 0
            self._free.notify_all()
        _end_all(self._starter, dict.fromkeys(workers, 0), self.sharing)

    def forget(self) -> None:
        """Begin with nothing, in a process that was forked: the workers belong to the other one."""
        self._finalizer.detach()
        self._finalizer = weakref.finalize(self, _end_all, self._starter, self._all, self.sharing)
        for worker in self._all:
            worker.wire.close()
        self._free = threading.Condition()
        self._idle.clear()
        self._all.clear()
        self._starting = 0
        self._starter.forget()
        self.sharing.forget()

    def wake(self) -> None:
        """Somebody who waits for a worker is to look again whether it is wanted."""
        with self._free:
            self._free.notify_all()

    # ---- one call, in the thread of its job

    def call(self, job: ProcessJob) -> Any:
        """What a tool returns, called in a worker.

        Raises:
            TimedOut: It took too long; its worker was killed.
            WorkerDiedError: Its worker ended on the way.
            ProcessBorderError: A value cannot get there or back, or the tool is not found there.
            BaseException: What the tool raised.
        """
        tool = job.tool
        number, name = self._named(tool)
        worker = self._lease(job)
        is_whole = False
        try:
            if not job.enters(worker):
                is_whole = True
                raise TimedOut
            self._load(worker, tool, number, name)
            reply, descriptors = self._exchange(worker, job, number, name)
            is_whole = True
        except TimeoutError:
            job.leaves()
            worker.end(kill=True)
            raise TimedOut from None
        except (EOFError, OSError):
            job.leaves()
            status = worker.end(kill=False)
            if job.cancelled:
                raise TimedOut from None
            raise WorkerDiedError(tool.name, status, _signal_of(status)) from None
        except ProcessBorderError:
            is_whole = True
            raise
        finally:
            job.leaves()
            self._give_back(worker, is_whole and not job.cancelled)
        return self._unwrapped(job, reply, descriptors)

    def _named(self, tool: PlannedTool) -> tuple[int, ToolName]:
        """The number that workers know a tool by, and the name that leads to it.

        Workers keep the modules that they have imported. So where a name leads to something else than it did before, as
        after a reload, all of them end when they are idle, and others begin.
        """
        origin, is_dry = tool.origin, tool.origin is None or tool.fn is not tool.origin.fn
        with self._free:
            found = None if origin is None else self._names.get(origin, {}).get(is_dry)
            if found is not None and self._led_to[found[1]][0] == found[0]:
                return found
        name = self._name_of(tool)
        target = led_to(tool, name)
        with self._free:
            number, before = self._led_to.get(name, (-1, None))
            if before is None or any(one is not its for one, its in zip(target, before, strict=True)):
                if before is not None:
                    self._generation += 1
                number = next(self._numbers)
                self._led_to[name] = number, target
            self._names.setdefault(origin, {})[is_dry] = number, name
        return number, name

    def _name_of(self, tool: PlannedTool) -> ToolName:
        try:
            return name_of(tool)
        except Nameless as exc:
            raise ProcessBorderError(tool.name, "tool", None, str(exc)) from None

    def _lease(self, job: ProcessJob) -> Worker:
        """An idle worker, or a new one; waits while all are busy, for which the limit of the job gets shorter.

        Raises:
            TimedOut: The limit of the call was over first, or nobody wants it any more.
        """
        ended: list[Worker] = []
        try:
            found = self._idle_or_place(job, ended)
        finally:
            for worker in ended:  # not under the lock: it takes as long as the system does
                worker.end(kill=True)
        return found if isinstance(found, Worker) else self._started(job, found)

    def _idle_or_place(self, job: ProcessJob, ended: list[Worker]) -> Worker | int:
        """An idle worker, or the place of one that may be started."""
        with self._free:
            while True:
                while self._idle:
                    worker = self._idle.pop()
                    if worker.generation == self._generation and worker.is_there():
                        return worker
                    self._let_go(worker)
                    ended.append(worker)
                if job.cancelled:
                    raise TimedOut
                if len(self._all) + self._starting < self._most:
                    self._starting += 1
                    return min(set(range(self._most)) - set(self._all.values()), default=0)
                began_s = time.monotonic()
                is_told = self._free.wait(job.timeout_s)
                if job.timeout_s is not None:
                    job.timeout_s -= time.monotonic() - began_s
                    if not is_told or job.timeout_s <= 0:
                        raise TimedOut

    def _started(self, job: ProcessJob, place: int) -> Worker:
        started: Worker | None = None
        generation = self._generation
        try:
            started = self._starter.start(self._settings(place))
            started.generation = generation
        except (OSError, EOFError) as exc:
            reason = f"no worker could be started: {told(exc)}"
            raise ProcessBorderError(job.tool.name, "tool", None, reason) from exc
        finally:
            with self._free:
                self._starting = max(0, self._starting - 1)
                if started is not None:
                    self._all[started] = place
                self._free.notify()
        return started

    def _settings(self, place: int) -> Settings:
        try:
            main: tuple[str, str] | None = main_of_program()
        except Nameless:
            main = None
        try:
            folder = os.getcwd()
        except OSError:
            folder = "/"
        cpus = self._places[place % len(self._places)] if self._places else None
        return Settings(list(sys.path), list(sys.argv), folder, main, cpus, self._min_shared_bytes, self._captures)

    def _let_go(self, worker: Worker) -> None:
        """Know nothing of a worker any more; whoever says so ends it."""
        self._all.pop(worker, None)
        self._past_traffic += worker.wire.sent + worker.wire.received

    def _give_back(self, worker: Worker, is_whole: bool) -> None:
        is_used_up = not is_whole or worker.is_killed or worker.generation != self._generation
        with self._free:
            is_ours = worker in self._all
            if is_ours and not is_used_up:
                self._idle.append(worker)
            elif is_ours:
                self._let_go(worker)
            self._free.notify()
        if is_ours and is_used_up and not worker.has_ended:
            worker.end(kill=True)

    def _load(self, worker: Worker, tool: PlannedTool, number: int, name: ToolName) -> None:
        """Have a worker import the module of a tool; that is no time of the tool's."""
        if number in worker.loaded:
            return
        self._name_of(tool)  # it may have been replaced since it was named
        until_s = time.monotonic() + START_S
        try:
            worker.wire.send(dumped(Load(number, name), ours._left_in), until_s=until_s)
            refused = loaded(worker.wire.receive(until_s)[0], ours._nothing)
        except TimeoutError:
            worker.kill()
            reason = f"importing module '{name.tool.module}' took more than {START_S:.0f} s"
            raise ProcessBorderError(tool.name, "tool", None, reason) from None
        if refused is not None:
            raise ProcessBorderError(tool.name, refused.border, None, refused.reason)
        worker.loaded.add(number)

    def _exchange(self, worker: Worker, job: ProcessJob, number: int, name: ToolName) -> tuple[Any, list[int]]:
        """Send a call and receive what came of it, with the descriptors of the objects that it refers to."""
        until_s = None if job.timeout_s is None else time.monotonic() + job.timeout_s
        cargo = Cargo(self.sharing, MOST_DESCRIPTORS, job.trust, is_private=changes_inputs(job.tool))
        try:
            frame = _frame_of(job, number, name, cargo)
            worker.wire.send(frame, cargo.descriptors, until_s)
            del frame
            answer, descriptors = worker.wire.receive(until_s)
        finally:
            cargo.release()
        if until_s is not None and time.monotonic() > until_s:
            _close_all(descriptors)
            raise TimeoutError
        return loaded(answer, ours._nothing), descriptors

    def _unwrapped(self, job: ProcessJob, reply: Any, descriptors: list[int]) -> Any:
        """The value of a reply, or what it says was raised."""
        tool = job.tool
        if isinstance(reply, Returned):
            take = partial(self.sharing.take, trust=job.trust)
            try:
                value = loaded(reply.body, unload(take, reply.rows, descriptors).__getitem__)
            except Exception as exc:
                raise ProcessBorderError(tool.name, "output", None, str(exc)) from exc
            value = model_of(tool.output_model, value) if reply.is_model else value
            return value if reply.printed is None else Printed(*reply.printed, value)
        if isinstance(reply, Refused):
            error: BaseException = ProcessBorderError(tool.name, reply.border, reply.field, reply.reason)
        else:
            error = self._error_of(tool, reply)
        if reply.printed is not None:
            with contextlib.suppress(AttributeError):  # one without room for it
                error.printed_by_tool = Printed(*reply.printed)  # type: ignore[attr-defined]
        raise error

    def _error_of(self, tool: PlannedTool, reply: Raised) -> BaseException:
        """The exception of a tool, with the traceback that it had there as its cause."""
        try:
            assert reply.error is not None, "no form to be read"
            error: BaseException = loaded(reply.error, ours._nothing)
        except Exception:
            error = ProcessBorderError(tool.name, "exception", None, reply.text)
        error.__cause__ = RemoteTrace(reply.trace)
        return error


def _frame_of(job: ProcessJob, number: int, name: ToolName, cargo: Cargo) -> bytes:
    """A call as it is sent.

    Raises:
        ProcessBorderError: One of its inputs has no form in which it could be sent.
    """
    state = state_of(job.args[0])
    context = job.args[1] if len(job.args) > 1 else None
    try:
        body = dumped((lifted(state, cargo), context), cargo.reduced)
    except Exception as exc:
        field, reason = culprit(state, exc)
        raise ProcessBorderError(job.tool.name, "input", field, reason) from exc
    call = Call(number, body, cargo.rows, variables_of(name), changes_inputs(job.tool))
    return dumped(call, ours._left_in)


def changes_inputs(tool: PlannedTool) -> bool:
    """Whether a tool declares to change what it is given."""
    return bool(tool.origin.mutates)


def cores() -> int:
    """How many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _signal_of(exit_code: int | None) -> str | None:
    """The name of the signal that an exit code tells of."""
    if exit_code is None or exit_code >= 0:
        return None
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return str(-exit_code)


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _end_all(starter: Forkserver | Spawner, workers: dict[Worker, int], sharing: Sharing) -> None:
    """End processes: idle ones by hanging up, busy ones by force."""
    for worker in list(workers):
        worker.kill()
    starter.close()
    for worker in list(workers):
        worker.wire.close()
    sharing.close()
