"""Listeners: who is called, in which order, and what happens when a hook raises.

No flow runs here; the hooks are called by hand.
"""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from typing import Any

import pytest

from chainweaver.observe import BaseMiddleware, FlowExecutorMiddleware, FlowStartContext, Listeners, StepStartContext

NOON = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)
START = FlowStartContext("0" * 32, "invoice", "1.0.0", {"rows": 3}, NOON, 2)


class Note(BaseMiddleware):
    """Writes down which flow started."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name = name
        self.notes = notes

    def on_flow_start(self, context: FlowStartContext) -> None:
        self.notes.append(f"{self.name}:{context.flow_name}")


class Broken(BaseMiddleware):
    def on_flow_start(self, context: FlowStartContext) -> None:
        raise RuntimeError("no disk")


def test_hooks_are_called_in_registration_order() -> None:
    """R38: middleware observes; every hook is called in the order of registration."""
    notes: list[str] = []
    Listeners((Note("a", notes), Note("b", notes))).flow_start(START)
    assert notes == ["a:invoice", "b:invoice"]


@pytest.mark.parametrize("middleware", [(), (BaseMiddleware(),), (object(),)], ids=["none", "no-ops", "no hooks"])
def test_nobody_listens_without_a_real_hook(middleware: tuple[object, ...]) -> None:
    """R38: no listener, no cost. The no-ops of the base class do not count as listening."""
    assert not Listeners(middleware)


def test_the_bodies_of_the_protocol_do_not_count_as_listening() -> None:
    """R38: a class that inherits from the protocol itself listens only where it overrides."""

    class Explicit(FlowExecutorMiddleware):
        def on_flow_end(self, context: Any) -> None:
            pass

    listeners = Listeners((Explicit(),))  # type: ignore[abstract]  # it runs, and that is the case under test
    assert not listeners.on_flow_start
    assert listeners.on_flow_end


def test_an_object_with_one_hook_is_a_listener() -> None:
    """R38: partial implementers are welcome, and only the hook they have is bound."""
    seen: list[object] = []

    class OnlySteps:
        def on_step_start(self, context: object) -> None:
            seen.append(context)

    listeners = Listeners((OnlySteps(),))
    step = StepStartContext("0" * 32, "invoice", 0, "fetch", {}, NOON)
    listeners.flow_start(START)
    listeners.step_start(step)
    assert seen == [step]
    assert [bool(getattr(listeners, hook)) for hook in ("on_flow_start", "on_step_start")] == [False, True]


def test_a_hook_set_on_the_instance_is_called() -> None:
    """R38: what counts is the attribute that a caller would get."""
    seen: list[object] = []
    one = BaseMiddleware()
    vars(one)["on_flow_start"] = seen.append
    Listeners((one,)).flow_start(START)
    assert seen == [START]


def test_a_hook_that_raises_is_logged_and_the_next_one_is_called(caplog: pytest.LogCaptureFixture) -> None:
    """R38: an exception in a hook is logged and never fails a run."""
    notes: list[str] = []
    with caplog.at_level(logging.WARNING, logger="chainweaver.middleware"):
        Listeners((BaseMiddleware(), Broken(), Note("after", notes))).flow_start(START)
    assert notes == ["after:invoice"]
    [record] = caplog.records
    assert record.name == "chainweaver.middleware"
    assert record.getMessage() == "Middleware 1 (Broken) raised in on_flow_start: no disk"


def test_an_interrupt_in_a_hook_is_not_swallowed() -> None:
    """R38: only Exception is caught; the user's Ctrl-C passes."""

    class Interrupted(BaseMiddleware):
        def on_flow_start(self, context: FlowStartContext) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Listeners((Interrupted(),)).flow_start(START)


def test_a_coroutine_hook_is_refused_when_it_is_registered() -> None:
    """R38: a hook that nobody would await is refused at once, with its name and the way out."""

    class Awaiting(BaseMiddleware):
        async def on_step_end(self, context: Any) -> None:  # type: ignore[override]  # the mistake under test
            pass

    with pytest.raises(TypeError, match=r"Hook 'on_step_end' of middleware 0 \(Awaiting\) is a coroutine function\."):
        Listeners((Awaiting(),))


def test_the_base_class_satisfies_the_protocol() -> None:
    """R38: BaseMiddleware implements every hook of the protocol."""
    assert isinstance(BaseMiddleware(), FlowExecutorMiddleware)
