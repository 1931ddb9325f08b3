"""The contract of lanes: pools keep it, and each clause catches a lane that breaks it."""

from __future__ import annotations

import multiprocessing
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from chainweaver.testing import LaneConformance
from chainweaver.testing.conformance import contract, lanes


class TestThreadPool(LaneConformance):
    def make_lane(self):
        return ThreadPoolExecutor(2)


class TestPoolOfOne(LaneConformance):
    workers = 1

    def make_lane(self):
        return ThreadPoolExecutor(1)


class TestProcessPool(LaneConformance):
    @classmethod
    def setup_class(cls):
        cls.pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))

    @classmethod
    def teardown_class(cls):
        cls.pool.shutdown()

    def make_lane(self):
        return self.pool

    def close_lane(self, lane):
        pass


class ThreadPerCall:
    """A lane of ten lines that keeps the contract: a thread per call, in this process."""

    in_process = True

    def submit(self, fn: Any, *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        threading.Thread(target=self._call, args=(future, fn, args), daemon=True).start()
        return future

    def _call(self, future: Future[Any], fn: Any, args: tuple[Any, ...]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(fn(*args))
        except BaseException as exc:
            future.set_exception(exc)


class TestThreadPerCall(LaneConformance):
    def make_lane(self):
        return ThreadPerCall()


# ---- lanes that break a clause


class Forgetful(ThreadPoolExecutor):
    """Runs calls that were cancelled."""

    def __init__(self):
        super().__init__(2)

    def submit(self, fn, *args):
        future = super().submit(fn, *args)
        cancel = future.cancel

        def cancel_in_vain():
            was_cancelled = cancel()
            if was_cancelled:
                fn(*args)
            return was_cancelled

        future.cancel = cancel_in_vain
        return future


class Copying(ThreadPerCall):
    def submit(self, fn, *args):
        import copy

        return super().submit(fn, *copy.deepcopy(args))


class NoArguments(ThreadPerCall):
    def submit(self, fn, *args):
        return super().submit(fn, args) if len(args) > 1 else super().submit(fn, *args)


class Bare(ThreadPerCall):
    """Gives something that can be waited for, and no more."""

    def submit(self, fn, *args):
        future = super().submit(fn, *args)

        class Handle:
            result, exception = future.result, future.exception

        return Handle()


class Generic(ThreadPerCall):
    """Loses the type of what is raised."""

    def _call(self, future, fn, args):
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args))
        except BaseException as exc:
            future.set_exception(RuntimeError(str(exc)))


class Polite:
    """One worker that dies of what it does not know."""

    in_process = True

    def __init__(self) -> None:
        self.dead = False

    def submit(self, fn, *args):
        future: Future[Any] = Future()
        if self.dead:
            future.set_exception(RuntimeError("the worker is gone"))
            return future
        try:
            future.set_result(fn(*args))
        except Exception as exc:
            future.set_exception(exc)
        except BaseException as exc:
            self.dead = True
            future.set_exception(exc)
        return future


class Swapping(ThreadPerCall):
    """Gives outcomes in the order in which calls end."""

    def __init__(self) -> None:
        self.open: list[Future[Any]] = []
        self.lock = threading.Lock()

    def submit(self, fn, *args):
        future: Future[Any] = Future()
        with self.lock:
            self.open.append(future)
        threading.Thread(target=self._end, args=(fn, args), daemon=True).start()
        return future

    def _end(self, fn, args):
        try:
            value, error = fn(*args), None
        except BaseException as exc:
            value, error = None, exc
        with self.lock:
            future = self.open.pop(0)
        future.set_exception(error) if error is not None else future.set_result(value)


class Sharing(ThreadPerCall):
    """Keeps what is to be called in one place for all who submit."""

    def submit(self, fn, *args):
        self.work = (fn, args)
        time.sleep(0.001)
        return super().submit(*self.work[:1], *self.work[1])


class OneByOne(ThreadPoolExecutor):
    def __init__(self):
        super().__init__(1)


class Elsewhere(ThreadPerCall):
    """Says that calls stay in this process, and loses their context on the way."""

    def submit(self, fn, *args):
        if getattr(fn, "__name__", "") == "run" and callable(args[0]):
            fn, args = args[0], args[1:]
        return super().submit(fn, *args)


class Serial:
    """Runs each call at once, so that whoever submits it waits."""

    in_process = True
    submit = Polite.submit
    dead = False


class Optimistic(ThreadPerCall):
    """Turns failures of flows into None."""

    def _call(self, future, fn, args):
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args))
        except BaseException:
            future.set_result(None)


BROKEN = [
    (NoArguments, "test_a_value_comes_back"),
    (Copying, "test_a_value_comes_back"),
    (Bare, "test_what_submit_gives_is_a_future"),
    (Generic, "test_an_exception_keeps_its_type"),
    (Polite, "test_an_exception_of_any_kind_ends_its_call_and_no_other"),
    (Swapping, "test_every_call_has_its_own_outcome"),
    (Sharing, "test_many_threads_may_submit"),
    (OneByOne, "test_calls_overlap"),
    (Serial, "test_calls_overlap"),
    (Forgetful, "test_a_call_that_was_cancelled_never_begins"),
    (Optimistic, "test_a_flow_runs_on_it_as_in_the_calling_thread"),
    (Elsewhere, "test_context_variables_go_along"),
    (Serial, "test_a_call_that_is_late_fails_its_step_and_holds_up_nobody"),
]


@pytest.mark.parametrize(("make", "clause"), BROKEN, ids=lambda one: getattr(one, "__name__", one))
def test_a_lane_that_breaks_a_clause_is_caught_by_it(make: Any, clause: str, monkeypatch: pytest.MonkeyPatch):
    """Conformance: a clause that a broken lane keeps would prove nothing."""
    for module in (lanes, contract):
        monkeypatch.setattr(module, "LIMIT_S", 0.5)

    class Mine(LaneConformance):
        def make_lane(self):
            return make()

    with pytest.raises(AssertionError):
        getattr(Mine(), clause)()


def test_every_clause_is_shown_to_catch_something():
    """Conformance: the table above leaves no clause out."""
    assert {name for name in dir(LaneConformance) if name.startswith("test_")} == {clause for _, clause in BROKEN}


def test_a_contract_without_a_lane_says_what_to_override():
    """Conformance: three lines, and the missing one is named."""
    with pytest.raises(NotImplementedError, match=r"LaneConformance has to say how a lane is made"):
        LaneConformance().test_a_value_comes_back()
