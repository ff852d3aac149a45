"""Subject: the time in which filtered epochs begin and pick up new rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import registry
from benchmarks.cache import cache
from benchmarks.data import NUMBERS, grow, numbers
from benchmarks.large import SMALL
from benchmarks.measure import Bench, Result, Work, compare, interleave
from benchmarks.mirroring import PICKED_UP
from registry import Dataset

SOURCES = ("team-a", "team-b")
CONDITIONS: dict[str, dict[str, Any]] = {
    "all samples": {},
    "by a class": {"label": [3, 5]},
    "by sources": {"source": [None, "team-a"]},
    "by both": {"label": [3, 5], "source": [None, "team-a"]},
}
_serials = count()


def filter_(bench: Bench) -> list[Result]:
    """Begin epochs with conditions and without, and pick up new rows from small and large logs."""
    with (
        cache() as folder,
        bench.server.database() as database,
        registry.connect(database.url) as reg,
    ):
        small, large = (reg.create(name, NUMBERS) for name in ("small", "large"))
        for dataset, rows in ((small, min(SMALL, bench.rows)), (large, bench.rows)):
            grow(dataset, rows - PICKED_UP)
            _insert(dataset, SOURCES[1])
        database.settle()
        return [*_begin(large, folder, bench.rounds), *_pick_up(small, large, bench.rounds)]


def _begin(dataset: Dataset, folder: Path, rounds: int) -> list[Result]:
    """Pin epochs; the first one of a condition fills the columns that it needs."""
    dataset.run("mirror").epoch(0)
    contenders = {what: partial(_begun, dataset, where) for what, where in CONDITIONS.items()}
    contenders["by a class, the first one,"] = partial(
        _begun, dataset, CONDITIONS["by a class"], emptied=folder
    )
    timings = interleave(contenders, rounds)
    everything = timings.pop("all samples")
    return [
        compare(
            f"an epoch {what} begins, next to one of all samples",
            timing,
            everything,
            unit="ms",
            at_most=2,
        )
        for what, timing in timings.items()
    ]


@contextmanager
def _begun(dataset: Dataset, where: dict[str, Any], emptied: Path | None = None) -> Iterator[Work]:
    # A new run each time: an epoch is pinned once.
    run = dataset.run(f"begin {next(_serials)}", where=where)
    # The column of sources stays: it is read from the database, which takes longer.
    for column in emptied.glob("*/*/columns/*") if emptied else ():
        if not column.name.startswith("source"):
            column.unlink()

    def work() -> int:
        run.epoch(0)
        return len(dataset)

    yield work


def _pick_up(small: Dataset, large: Dataset, rounds: int) -> list[Result]:
    results = []
    for what, where in CONDITIONS.items():
        runs = {}
        for size, dataset in (("small", small), ("large", large)):
            runs[size] = dataset, f"new {what}"
            dataset.run(f"new {what}", policy="new", where=where).epoch(0)
        timings = interleave(
            {size: partial(_picked_up, *run) for size, run in runs.items()}, 3 * rounds
        )
        results.append(
            compare(
                f"{PICKED_UP:,} new rows picked up, {what}: {len(large):,} next to {len(small):,}",
                timings["large"],
                timings["small"],
                unit="ms",
                at_most=1.5,
            )
        )
    return results


@contextmanager
def _picked_up(dataset: Dataset, name: str) -> Iterator[Work]:
    run = dataset.run(name)
    assert run.last is not None
    number = run.last.number + 1
    _insert(dataset, SOURCES[0])

    def work() -> int:
        run.epoch(number)
        return PICKED_UP

    yield work


def _insert(dataset: Dataset, source: str) -> None:
    new = numbers(PICKED_UP, dataset.head.position)
    dataset.insert(new.columns, keys=new.keys, source=source)
