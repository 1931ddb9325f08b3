"""The bench itself: shapes have right answers, the loops by hand agree on them, and the table says what it should.

No time is asserted here; bounds are for `python -m benchmarks.table`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks import limits, peers, shapes, table
from benchmarks.baseline import InterpretiveEngine
from benchmarks.measure import Effort, interleaved, median_of, sync_contender
from benchmarks.workloads import FIGURES, Bench, Figure

SHORT = Effort(budget_s=0.0, slice_s=0.0, min_rounds=3)
LOOPS = (limits.by_hand, limits.by_hand_plainly, limits.cached_by_hand, limits.checkpointed_by_hand)
NUMBERS = (shapes.chain(5, extra_keys=3), shapes.diamond(4), shapes.layered(3, 7))
LISTS = (shapes.row_chain(3, 2), shapes.row_chain(3, 2, typed=False))
PAIRS = [
    *((shape, make) for shape in NUMBERS for make in LOOPS),
    *((shape, limits.by_hand) for shape in LISTS),
]


@pytest.mark.parametrize(
    ("shape", "make"), PAIRS, ids=[f"{shape.name}-{make.__name__}{place}" for place, (shape, make) in enumerate(PAIRS)]
)
def test_every_loop_by_hand_gives_the_right_answer(
    shape: shapes.Shape, make: Callable[[shapes.Shape], limits.Run]
) -> None:
    """Bench: limits do the whole work, also when they run twice."""
    run = make(shape)
    shape.check(run())
    shape.check(run())


def test_the_concurrent_loops_by_hand_give_the_right_answer() -> None:
    """Bench: gather and pool run the same diamond."""
    waiting, blocking = shapes.diamond(2, leaf="await"), shapes.diamond(2, leaf="block")
    waiting.check(asyncio.run(_awaited(waiting)))
    with ThreadPoolExecutor(2) as pool:
        blocking.check(limits.pooled_by_hand(blocking, pool)())


async def _awaited(shape: shapes.Shape) -> limits.Context:
    return await limits.gathered_by_hand(shape)()


def test_the_baseline_gives_the_right_answer() -> None:
    """Bench: the interpretive engine is slow and correct."""
    shape = shapes.chain(5)
    shape.check(InterpretiveEngine(shape).run())


def test_the_answers_are_those_of_plain_arithmetic() -> None:
    """Bench: written down, not computed by the shapes: 1 + 3, * 3, + 3, * 3."""
    assert [shapes.chain(length).expected for length in (1, 2, 4)] == [{"v1": 4}, {"v2": 12}, {"v4": 45}]
    assert shapes.diamond(3).expected == {"total": 12 + 13 + 14}
    assert shapes.layered(1, 2).expected == {"n0_0": 2 * 1 + 3 + 0, "n0_1": 2 * 1 + 3 + 1}


def test_a_wrong_answer_stops_the_measurement() -> None:
    """Bench: a contender that is fast and wrong has no figure."""
    shape = shapes.chain(1)
    with pytest.raises(AssertionError, match=r"chain of 1: expected {'v1': 4}, got {'v1': 5}"):
        interleaved([sync_contender("wrong", lambda: {"v1": 5}, shape.check)], SHORT)


def test_contenders_take_turns_and_the_order_rotates() -> None:
    """Bench: whoever went first goes last in the next round."""
    calls: list[str] = []

    def contender(name: str) -> Callable[[], None]:
        return lambda: calls.append(name)

    contenders = [sync_contender(name, contender(name), lambda _: None) for name in ("a", "b")]
    rounds = interleaved(contenders, SHORT)
    assert len(rounds) == 3
    assert calls[-6:] == ["a", "b", "b", "a", "a", "b"]


def test_the_median_is_taken_over_numbers_of_single_rounds() -> None:
    """Bench: a slow round slows both and leaves the ratio as it is."""
    assert median_of([[2.0, 1.0], [20.0, 10.0], [3.0, 1.0]], lambda row: row[0] / row[1]) == 2.0


def line(number: float, bound: float | None = 1.25, stored: float | None = None) -> table.Line:
    return table.Line("chain100", "chain of 100", 2000.0, 1750.0, number, bound, stored)


@pytest.mark.parametrize(
    ("measured", "complaints"),
    [
        (line(1.25, stored=1.0), []),
        (line(1.26), ["chain100: 1.26 is over its bound 1.25."]),
        (line(9.0, bound=None), []),
        (line(1.2, stored=0.9), ["chain100: 1.20 was 0.90, worse by a quarter."]),
    ],
    ids=["just kept", "over", "only shown", "worse"],
)
def test_complaints_name_the_figure_and_both_numbers(measured: table.Line, complaints: list[str]) -> None:
    """Bench: over a bound and worse than stored are told apart."""
    assert table.complaints_about([measured]) == complaints


def a_figure(bound: float) -> Figure:
    shape = shapes.chain(1)
    return Figure("toy", "toy", bound, 1, lambda bench: [bench.hand(shape), bench.hand(shape)], lambda row: 2.0)


@pytest.mark.parametrize(
    ("bound", "check", "code", "warned"),
    [(3.0, "fail", 0, False), (1.0, "warn", 0, True), (1.0, "fail", 1, True)],
    ids=["kept", "warn", "fail"],
)
def test_only_fail_turns_an_exceeded_bound_into_an_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    bound: float,
    check: str,
    code: int,
    warned: bool,
) -> None:
    """Bench: `--check warn` warns, `--check fail` fails, `--json` writes what was printed."""
    monkeypatch.setattr(table, "FIGURES", (a_figure(bound),))
    monkeypatch.setattr(table, "QUICK", SHORT)
    monkeypatch.setattr(table, "STORED", tmp_path / "stored.json")
    assert table.main(["--quick", "--check", check, "--json", str(tmp_path / "out.json")]) == code
    assert ("warning: toy: 2.00 is over its bound 1.00." in capsys.readouterr().out) == warned
    [row] = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert (row["name"], row["number"], row["bound"]) == ("toy", 2.0, bound)


def test_stored_ratios_are_kept_for_figures_that_were_not_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Bench: `--only` with `--store` renews one number and drops those of figures that are gone."""
    path = tmp_path / "stored.json"
    path.write_text(json.dumps({"ratios": {"chain5": 1.5, "gone": 7.0}}), encoding="utf-8")
    monkeypatch.setattr(table, "STORED", path)
    table.store([line(1.1239)])
    assert table.stored_ratios() == {"chain100": 1.124, "chain5": 1.5}


def test_an_unknown_figure_is_answered_with_the_known_ones() -> None:
    """Bench: a slip in `--only` says what there is."""
    with pytest.raises(SystemExit, match=r"No figure is named chain99. Known: chain100, chain5,"):
        table.chosen(["chain99"])


@pytest.mark.parametrize("figure", [f for f in FIGURES if f.steps <= 20], ids=lambda figure: figure.name)
def test_the_contenders_of_a_figure_agree(figure: Figure) -> None:
    """Bench: every contender of the short figures gives the right answer."""
    with Bench() as bench:
        for contender in figure.setup(bench):
            contender.check(contender.repeat(2))


def test_a_step_for_libraries_that_wire_by_name_shows_what_it_reads() -> None:
    """Bench: neighbours get the very models and functions of the limit, under the names of the context."""
    second = peers._on_names(shapes.chain(2).steps[1])
    assert str(inspect.signature(second)) == "(v1: int, k: int) -> int"
    assert (second.__name__, second(v1=4, k=3)) == ("v2", 12)


def test_a_missing_neighbour_is_named_and_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bench: no neighbour is a dependency."""
    monkeypatch.setattr(peers, "PEERS", {"no-such-distribution": peers.dask})
    assert peers.installed() == {}
    assert capsys.readouterr().out == "no-such-distribution is not installed and left out.\n"
