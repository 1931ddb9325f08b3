"""The table of figures: `python -m benchmarks.table`.

Measures the figures of workloads.py one after the other in this process, prints them beside their bounds, and compares
the ratios with those of the last landed state in stored.json. Ratios travel between machines, times do not; only ratios
are stored.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measure import Effort, interleaved, median_of
from benchmarks.workloads import FIGURES, Bench, Figure

STORED = Path(__file__).with_name("stored.json")
WORSE = 1.25
"""A ratio is pointed at when it is more than this times the stored one."""
QUICK = Effort(budget_s=0.15, slice_s=0.002)
FULL = Effort(budget_s=2.0, slice_s=0.01)


@dataclass(frozen=True, slots=True)
class Line:
    """A measured figure.

    Attributes:
        ours_ns, limit_ns: Nanoseconds per step of chainweaver and of the limit; per run where a run counts as one step.
        number: What is held against the bound.
        stored: The number of the last landed state; None for a new figure.
    """

    name: str
    title: str
    ours_ns: float
    limit_ns: float
    number: float
    bound: float | None
    stored: float | None

    @property
    def is_over(self) -> bool:
        """Whether the bound is exceeded."""
        return self.bound is not None and self.number > self.bound

    @property
    def is_worse(self) -> bool:
        """Whether the number is worse than the stored one by more than a quarter."""
        return self.stored is not None and self.stored > 0 and self.number > WORSE * self.stored


def measure(figure: Figure, effort: Effort, stored: float | None) -> Line:
    """Measure one figure. One that is over its bound is measured again, and the second number stands."""
    with Bench() as bench:
        contenders = figure.setup(bench)
        rounds = interleaved(contenders, effort)
        if figure.bound is not None and median_of(rounds, figure.number) > figure.bound:
            rounds = interleaved(contenders, effort)
    per_step = 1e9 / figure.steps
    return Line(
        name=figure.name,
        title=figure.title,
        ours_ns=median_of(rounds, lambda row: row[0]) * per_step,
        limit_ns=median_of(rounds, lambda row: row[figure.limit]) * per_step,
        number=median_of(rounds, figure.number),
        bound=figure.bound,
        stored=stored,
    )


def row_of(line: Line) -> str:
    """The line as a row of the printed table."""
    bound = "-" if line.bound is None else f"{line.bound:.2f}"
    verdict = "-" if line.bound is None else "over" if line.is_over else "ok"
    stored = "-" if line.stored is None else f"{line.stored:.2f}"
    note = "  worse" if line.is_worse else ""
    return (
        f"{line.name:<20} {line.title:<52} {line.ours_ns:>11,.0f} {line.limit_ns:>11,.0f} "
        f"{line.number:>7.2f} {bound:>6} {verdict:>5} {stored:>7}{note}"
    )


HEAD = f"{'figure':<20} {'what':<52} {'ns ours':>11} {'ns limit':>11} {'ratio':>7} {'bound':>6} {'':>5} {'stored':>7}"


def complaints_about(lines: Sequence[Line]) -> list[str]:
    """One sentence for each bound exceeded and each figure that got worse."""
    over = [f"{line.name}: {line.number:.2f} is over its bound {line.bound:.2f}." for line in lines if line.is_over]
    worse = [
        f"{line.name}: {line.number:.2f} was {line.stored:.2f}, worse by a quarter." for line in lines if line.is_worse
    ]
    return over + worse


def stored_ratios() -> dict[str, float]:
    """The numbers of the last landed state by figure; empty where nothing was stored."""
    if not STORED.exists():
        return {}
    ratios: dict[str, float] = json.loads(STORED.read_text(encoding="utf-8"))["ratios"]
    return ratios


def store(lines: Sequence[Line]) -> None:
    """Make these numbers the stored ones; figures that were not measured keep theirs."""
    ratios = {**stored_ratios(), **{line.name: round(line.number, 3) for line in lines}}
    known = {figure.name for figure in FIGURES}
    kept = {name: ratio for name, ratio in sorted(ratios.items()) if name in known}
    document = {"python": platform.python_version(), "ratios": kept}
    STORED.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def chosen(names: Sequence[str]) -> list[Figure]:
    """The figures of these names, all of them without names."""
    unknown = sorted(set(names) - {figure.name for figure in FIGURES})
    if unknown:
        known = ", ".join(figure.name for figure in FIGURES)
        raise SystemExit(f"No figure is named {', '.join(unknown)}. Known: {known}.")
    return [figure for figure in FIGURES if not names or figure.name in names]


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description="Measure the overhead figures.")
    parser.add_argument("--check", choices=("warn", "fail"), help="complain about bounds; 'fail' exits 1")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only this figure; repeatable")
    parser.add_argument("--quick", action="store_true", help="short slices: seconds instead of a minute, less exact")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file as well")
    parser.add_argument("--store", action="store_true", help="keep these ratios as the stored ones")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 when `--check fail` is given and a bound is exceeded."""
    given = options(arguments)
    logging.disable(logging.INFO)
    stored = stored_ratios()
    lines: list[Line] = []
    print(HEAD)
    for figure in chosen(given.only):
        lines.append(measure(figure, QUICK if given.quick else FULL, stored.get(figure.name)))
        print(row_of(lines[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps([asdict(line) for line in lines], indent=2) + "\n", encoding="utf-8")
    if given.store:
        store(lines)
    over = sum(line.is_over for line in lines)
    if given.check:
        for complaint in complaints_about(lines):
            print(f"warning: {complaint}")
    print(f"{len(lines)} figures measured on Python {platform.python_version()}, {over} over their bound.")
    return 1 if given.check == "fail" and over else 0


if __name__ == "__main__":
    sys.exit(main())
