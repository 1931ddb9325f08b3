"""The commands around a step cache: who looks up, who leads, and what becomes of a lead."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from chainweaver._execution import Lead, Lookup, RunCancelled, Settle, TimedOut
from chainweaver.exceptions import SchemaValidationError
from chainweaver.flow import RetryPolicy
from tests.execution.kit import Crowd, Walk, a_plan, a_run, a_step, a_tool, error_of, one_step

SQUARE = a_tool("square", ["n"], ["m"])


class Small(BaseModel):
    m: int

    def model_post_init(self, context: Any) -> None:
        if self.m > 10:
            raise ValueError("too large")


def cached(tool: Any = SQUARE, *others: Any, initial: Any = None, run: Any = None, **step: Any) -> Walk:
    return Walk(a_run(one_step(tool, *others, **step), initial or {"n": 3}, caching=True, **(run or {})))


def digest(walk: Walk) -> str:
    assert isinstance(walk.command, Lookup)
    return walk.command.digest


def test_a_hit_takes_the_place_of_the_call():
    """R29: the stored fields count, and the record says that they were stored."""
    walk = cached()

    assert walk.asks == ("look up", "square", None)
    assert walk.ok({"m": 9}) is None
    assert walk.run.final_output == {"n": 3, "m": 9}
    assert walk.run.details[0].cached


def test_a_hit_is_renamed_like_any_output():
    """R11: the cache holds a tool's own names."""
    walk = cached(output_mapping={"squared": "m"})
    walk.ok({"m": 9})

    assert walk.run.final_output == {"n": 3, "squared": 9}
    assert walk.run.shown_outputs(0) == {"m": 9}


def test_equal_inputs_have_equal_digests_and_others_do_not():
    """R29: the key is taken of the validated inputs."""
    assert digest(cached(initial={"n": 3})) == digest(cached(initial={"n": "3"}))
    assert digest(cached(initial={"n": 3})) != digest(cached(initial={"n": 4}))


def test_inputs_are_validated_before_the_cache_is_asked():
    """R29: what does not fit the schema never becomes a key."""
    assert cached(initial={"n": "many"}).asks is None


@pytest.mark.parametrize("rename", [None, {"squared": "m"}], ids=["short path", "life"])
def test_an_error_on_the_way_to_a_fingerprint_fails_the_step(rename: Any, monkeypatch: pytest.MonkeyPatch):
    """R16: recorded on both paths; nothing leaves the run."""

    def broken(model: Any) -> Any:
        raise RuntimeError("no fingerprint today")

    monkeypatch.setattr("chainweaver.compiler.gates.bind_fingerprint", broken)
    walk = cached(output_mapping=rename)

    assert walk.asks is None
    assert walk.run.status == "failed"
    assert isinstance(error_of(walk.run).__cause__, RuntimeError)


def test_a_leader_computes_and_settles_with_the_validated_fields():
    """R30: the leader stores for everybody who waits."""
    walk = cached()
    lead = Lead("flight")

    assert walk.ok(lead) == ("call", "square", {"n": 3})
    assert walk.ok({"m": "9"}) == ("settle", {"m": 9})
    assert isinstance(walk.command, Settle)
    assert walk.command.lead is lead
    assert walk.ok(None) is None
    assert walk.run.details == {}
    assert walk.run.final_output == {"n": 3, "m": 9}


@pytest.mark.parametrize(("note", "settled", "kept"), [("a", None, "a"), (None, "b", "b"), ("a", "b", "b")])
def test_why_the_cache_could_not_serve_is_kept(note, settled, kept):
    """R29: a miss with a reason; the latest one counts."""
    walk = cached()
    walk.ok(Lead("flight", note))
    walk.ok({"m": 9})
    walk.ok(settled)

    assert walk.run.details[0].cache_note == kept


@pytest.mark.parametrize("reply", [OSError("down"), {"m": "many"}, {}])
def test_a_leader_that_fails_hands_over(reply):
    """R30: waiters are told that there is nothing to share, and one of them leads."""
    walk = cached()
    walk.ok(Lead("flight"))
    asks = walk.err(reply) if isinstance(reply, Exception) else walk.ok(reply)

    assert asks == ("settle", None)
    assert walk.ok() is None
    assert walk.run.status == "failed"


def test_a_leader_hands_over_only_after_its_last_attempt():
    """R20, R30: retries keep the lead."""
    walk = cached(retry=RetryPolicy(max_retries=1, backoff_seconds=1.0))
    walk.ok(Lead("flight"))

    assert walk.err(OSError("busy"))[0] == "sleep"
    assert walk.ok()[0] == "call"
    assert walk.err(OSError("busy")) == ("settle", None)


def test_a_leader_hands_over_before_its_fallback_is_called():
    """R21, R30: what a fallback gives is not what the primary tool would have given, so it is not stored."""
    walk = cached(SQUARE, a_tool("other", ["n"], ["m"]), on_error="fallback:other")
    walk.ok(Lead("flight"))

    assert walk.err(OSError("down")) == ("settle", None)
    assert walk.ok() == ("call", "other", {"n": 3})
    assert walk.ok({"m": 9}) is None
    assert walk.run.final_output == {"n": 3, "m": 9}


def test_a_leader_that_is_cancelled_hands_over():
    """R23, R30: resources are released on the way out."""
    walk = cached()
    walk.ok(Lead("flight"))

    assert walk.err(RunCancelled("token")) == ("settle", None)
    assert walk.ok() is None
    assert walk.run.status == "cancelled"


def test_a_leader_whose_deadline_has_passed_hands_over():
    """R22, R30: also when its tool did finish, but late."""
    walk = cached(run={"deadline_s": 1.0})
    walk.ok(Lead("flight"))

    assert walk.ok({"m": 9}, after_s=2.0) == ("settle", None)
    assert walk.ok() is None
    assert walk.run.cancelled.reason == "deadline"


def test_waiting_for_another_leader_ends_at_the_deadline():
    """R22: the look-up carries the time that is left, and its end is the end of the run."""
    walk = cached(run={"deadline_s": 1.5})

    assert walk.asks == ("look up", "square", 1.5)
    assert walk.err(TimedOut(), after_s=1.499) is None
    assert walk.run.cancelled.reason == "deadline"


def test_a_hit_that_comes_too_late_is_no_success():
    """R22: a stored value counts no more than a computed one."""
    walk = cached(run={"deadline_s": 1.0})
    walk.ok({"m": 9}, after_s=1.0)

    assert walk.run.status == "cancelled"
    assert walk.run.slots[1] is None


def test_a_hit_has_to_keep_the_contract_of_its_step():
    """Contracts hold for outputs wherever they come from."""
    walk = cached(output_contract=f"{__name__}:Small")
    walk.ok({"m": 90})
    error = error_of(walk.run)

    assert isinstance(error, SchemaValidationError)
    assert error.context == "output contract"
    fits = cached(output_contract=f"{__name__}:Small")
    fits.ok({"m": 9})
    assert fits.run.status == "ok"


def test_what_cannot_be_fingerprinted_is_called_and_says_why():
    """R29: a miss with a reason, never a constant, never an exception."""
    walk = cached(a_tool("any", {"n": Any}, ["m"]), initial={"n": lambda: 0})

    assert walk.asks[0] == "call"
    walk.ok({"m": 1})
    assert walk.run.status == "ok"
    assert walk.run.details[0].cache_note


def test_tools_that_must_not_be_cached_are_called():
    """R30: `cacheable=False` keeps a tool away from the cache."""
    assert cached(a_tool("write", ["n"], ["m"], cacheable=False)).asks == ("call", "write", {"n": 3})


def test_a_look_up_holds_no_slot_but_the_call_of_the_leader_does():
    """R4, R30: waiters hold no slot."""
    tools = [a_tool(name, ["n"], [f"{name}_out"]) for name in "ab"]
    run = Crowd(a_run(a_plan([a_step("a"), a_step("b")], tools), {"n": 1}, caching=True), limit=1)

    assert run.began == ["a", "b"]
    assert run.ok("a", Lead("a")) == ["a"]
    assert run.ok("b", Lead("b")) == []
    assert run.ok("a", {"a_out": 1}) == ["a", "b"], "a settles, b has the slot"
    assert run.asks("a") == ("settle", {"a_out": 1})
    assert run.asks("b") == ("call", "b", {"n": 1})
