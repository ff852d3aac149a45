"""Subject: how long a large dataset takes to count, and to be opened when it is counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter

import registry
from benchmarks.cache import cache
from benchmarks.data import NUMBERS, grow
from benchmarks.large import SMALL
from benchmarks.measure import Bench, Result, Timing, Work, compare, duration, interleave, rate
from benchmarks.mirroring import PICKED_UP
from benchmarks.sizes import allocated
from registry import Dataset, Registry
from registry.catalog.browse import find_samples
from registry.catalog.statistics.count import statistics_of

OPEN_MS = 300
WHERE = {"label": [3, 7]}


def counting(bench: Bench) -> list[Result]:
    """Count ten times the rows of other subjects once, then open them, and count new ones."""
    rows = min(10**7, 10 * bench.rows)
    with (
        cache() as folder,
        bench.server.database() as database,
        registry.connect(database.url) as reg,
    ):
        small, large = (reg.create(name, NUMBERS) for name in ("small", "large"))
        for dataset, size in ((small, min(SMALL, bench.rows)), (large, rows)):
            grow(dataset, size)
        database.settle()
        statistics_of(small, most=None)
        began = perf_counter()
        statistics_of(large, most=None)
        first = Timing(rows, (perf_counter() - began,))
        kept = allocated(folder) / (rows + len(small))
        opened = interleave(
            {
                "statistics": partial(_opened, reg),
                "samples": partial(_browsed, reg),
            },
            bench.rounds,
        )
        new = interleave(
            {"small": partial(_grown, small), "large": partial(_grown, large)}, 3 * bench.rounds
        )
    return [
        rate("rows counted for the first time", first),
        Result("the counts of a row with a class label", "bytes", kept),
        duration(f"{rows:,} counted rows opened with statistics", opened["statistics"], OPEN_MS),
        duration(f"{rows:,} counted rows: a page by class", opened["samples"], OPEN_MS),
        compare(
            f"{PICKED_UP:,} new rows counted: of {rows:,} next to {min(SMALL, bench.rows):,}",
            new["large"],
            new["small"],
            unit="ms",
            at_most=2,
        ),
    ]


@contextmanager
def _opened(reg: Registry) -> Iterator[Work]:
    yield lambda: statistics_of(reg.open("large")).live


@contextmanager
def _browsed(reg: Registry) -> Iterator[Work]:
    yield lambda: len(find_samples(reg.open("large"), where=WHERE).samples)


@contextmanager
def _grown(dataset: Dataset) -> Iterator[Work]:
    grow(dataset, PICKED_UP)

    def work() -> int:
        statistics_of(dataset)
        return PICKED_UP

    yield work
