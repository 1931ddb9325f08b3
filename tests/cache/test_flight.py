"""Single flight: one leads, the others get copies or take over."""

import threading

import pytest

from chainweaver.cache import SingleFlight


@pytest.fixture
def table():
    return SingleFlight()


def test_the_first_leads_and_the_others_wait(table):
    """R30: concurrent misses of one key run the tool once."""
    assert [table.join("k").is_leader for _ in range(3)] == [True, False, False]
    assert table.join("other").is_leader
    assert len(table) == 2


def test_waiters_are_told_in_order_and_once(table):
    """R30: on the thread of the leader."""
    told = []
    leader, one, two = (table.join("k") for _ in range(3))
    one.add_waiter(lambda output: told.append(("one", output)))
    two.add_waiter(lambda output: told.append(("two", output)))
    assert told == []

    leader.settle({"n": 1})

    assert told == [("one", {"n": 1}), ("two", {"n": 1})]
    assert one.is_settled
    assert len(table) == 0


def test_who_comes_after_the_end_is_told_at_once(table):
    """R30: no wake-up is lost between joining and waiting."""
    leader, late = table.join("k"), table.join("k")
    leader.settle({"n": 1})
    told = []
    late.add_waiter(told.append)
    assert told == [{"n": 1}]
    assert late.wait() == {"n": 1}


def test_a_failed_leader_hands_over(table):
    """R30: whoever waited asks again, and one of them leads."""
    leader, one, two = (table.join("k") for _ in range(3))
    told = []
    one.add_waiter(told.append)
    two.add_waiter(told.append)

    leader.settle(None)

    assert told == [None, None]
    assert [table.join("k").is_leader for _ in range(2)] == [True, False]


def test_nobody_shares_an_output(table):
    """R30: a copy for each, and the leader goes on with its own."""
    leader, one, two = (table.join("k") for _ in range(3))
    output = {"rows": [1]}
    leader.settle(output)
    output["rows"].append("leader")
    first, second = one.wait(), two.wait()
    first["rows"].append("one")
    assert second == {"rows": [1]}
    assert two.wait() == {"rows": [1]}


def test_outputs_that_cannot_be_copied_make_waiters_compute_for_themselves(table):
    """R30: never shared instead."""
    leader, one = table.join("k"), table.join("k")
    leader.settle({"lock": threading.Lock()})
    assert one.wait() is None
    assert one.is_settled


def test_a_waiter_can_leave(table):
    """R23: a cancelled run is not called back."""
    told = []
    leader, one = table.join("k"), table.join("k")
    one.add_waiter(told.append)
    assert one.remove_waiter(told.append) is True
    leader.settle({"n": 1})
    assert told == []
    assert one.remove_waiter(told.append) is False


def test_a_wait_ends_when_its_time_is_over(table):
    """R22: deadlines bind while waiting."""
    leader, one = table.join("k"), table.join("k")
    assert one.wait(timeout_s=0) is None
    assert not one.is_settled
    leader.settle({"n": 1})


def test_a_waiter_that_raises_hurts_nobody_else(table, caplog):
    """R30: one run's fault is not another's."""
    told = []
    leader, one, two = (table.join("k") for _ in range(3))

    def bad(output):
        raise ZeroDivisionError("mine")

    one.add_waiter(bad)
    two.add_waiter(told.append)
    leader.settle({"n": 1})
    assert told == [{"n": 1}]
    assert "ZeroDivisionError: mine" in caplog.text


def test_a_waiter_may_join_again_while_it_is_told(table):
    """R30: no lock is held while calling back."""
    again = []
    leader, one = table.join("k"), table.join("k")
    one.add_waiter(lambda output: again.append(table.join("k").is_leader))
    leader.settle(None)
    assert again == [True]


def test_settling_twice_or_without_leading_is_a_bug_that_is_told(table):
    """R30: exactly once."""
    leader, one = table.join("k"), table.join("k")
    with pytest.raises(RuntimeError, match="leads"):
        one.settle({"n": 1})
    leader.settle({"n": 1})
    with pytest.raises(RuntimeError, match="already"):
        leader.settle({"n": 1})
    assert table.join("k").is_leader
    with pytest.raises(RuntimeError, match="already"):
        leader.settle({"n": 1})


def test_many_threads_compute_once_and_survive_failing_leaders(table):
    """R30: a failed leader hands over until one succeeds."""
    computed, results = [], []
    together = threading.Barrier(8)

    def run():
        together.wait()
        while True:
            flight = table.join("k")
            if flight.is_leader:
                computed.append(None)
                output = {"rows": [len(computed)]} if len(computed) >= 3 else None
                if output is not None:
                    results.append(output)
                flight.settle(output)
                if output is not None:
                    return
            else:
                output = flight.wait(timeout_s=30)
                if output is not None:
                    results.append(output)
                    return

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 8
    assert len({id(result["rows"]) for result in results}) == 8
    assert len(table) == 0
