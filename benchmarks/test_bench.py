"""The figures under pytest-benchmark: `pytest benchmarks`.

Every contender is a case of its own, grouped by figure, for those who want histograms and saved runs. The bounds are
checked by table.py, which measures the contenders interleaved.
"""

from __future__ import annotations

import pytest

from benchmarks.workloads import FIGURES, Bench

CASES = [(figure, place) for figure in FIGURES for place in (0, figure.limit)]


@pytest.mark.parametrize(("figure", "place"), CASES, ids=lambda case: getattr(case, "name", f"contender{case}"))
def test_contender(figure, place, benchmark):
    """A whole run gives the right answer in the time that pytest-benchmark prints."""
    with Bench() as bench:
        contender = figure.setup(bench)[place]
        benchmark.group = figure.name
        benchmark.name = f"{figure.name}: {contender.name}"
        contender.check(benchmark(contender.repeat, 1))
