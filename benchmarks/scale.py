"""Subject: figures at up to 10⁸ rows, next to 10⁶: what a row takes, epochs of a split.

One row in a hundred is relabeled.

``python -m benchmarks --only scale --rows 100000000`` takes 50 GB of disk in the folder for
temporary files, and removes them at its end. It takes half an hour, most of it to insert the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice, pairwise, repeat
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import tensorflow as tf

import registry
from benchmarks import first_batch, starting
from benchmarks.cache import cache
from benchmarks.data import NUMBERS, PIECE, grow, numbers
from benchmarks.measure import (
    Bench,
    Contender,
    Result,
    Timing,
    Work,
    compare,
    duration,
    interleave,
    rate,
)
from benchmarks.mirroring import PICKED_UP
from benchmarks.numpy_batches import drained
from benchmarks.pipelines import BATCH, contender
from benchmarks.server import Database
from benchmarks.sizes import allocated, stored
from registry import Dataset
from registry.tensorflow import EpochDataset, StreamDataset
from registry.training.run import Run

SMALL = 10**6
BETWEEN = 10**7
SAMPLES = 20_000_000
"""Samples that are taken in a round, at every size."""
SPLIT = "train"
SPLITS = {SPLIT: 0.9, "test": 0.1}
RELABELED = 100
"""One row in so many is relabeled."""
LEAST = {"EpochDataset": 0.6, "StreamDataset": 0.7, "Epoch.batches": 0.7}
"""The least ratio of the rate on the most rows to the rate on the fewest."""
LIMIT_MS = 300
"""Milliseconds until the first batch of a pinned epoch, and until a new epoch has begun."""
_RUN = "scale"


def scale(bench: Bench) -> list[Result]:
    """Take samples from datasets of several sizes, and begin epochs."""
    sizes = sizes_up_to(bench.rows)
    with (
        cache() as folder,
        bench.server.database() as database,
        registry.connect(database.url) as reg,
    ):
        datasets = {size: reg.create(f"n{size}", NUMBERS, splits=SPLITS) for size in sizes}
        slopes: list[Result] = []
        for size, dataset in datasets.items():
            slopes += _slopes(dataset, size, database, folder)
            for name in (starting.RUN, first_batch.RUN):
                dataset.run(name, split=SPLIT).epoch(0)
            _check(dataset.run(_RUN))
        database.settle()
        read_all(folder)
        largest = datasets[sizes[-1]]
        return [
            *slopes,
            *_rates(datasets, bench.rounds),
            *_first_batches(largest, bench.rounds),
            *first_batch.measured(database, largest.name, "EpochDataset", bench.rounds, None),
            *_begins(datasets, bench.rounds),
        ]


def sizes_up_to(rows: int) -> list[int]:
    """Return the numbers of rows to compare, in ascending order."""
    small = min(SMALL, rows // 10)
    return sorted({small, rows, *(size for size in (BETWEEN,) if small < size < rows)})


def read_all(folder: Path) -> None:
    """Read the files below a folder, so that they are in the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(1 << 20):
                    pass


def _slopes(dataset: Dataset, rows: int, database: Database, folder: Path) -> Iterator[Result]:
    """Fill a dataset and its mirror; yield what a row takes of the disk, and the rates."""
    in_tables, in_files = stored(database), allocated(folder)
    times = [perf_counter()]
    _fill(dataset, rows)
    times.append(perf_counter())
    dataset.run(_RUN, split=SPLIT).epoch(0)
    times.append(perf_counter())
    count = dataset.head.position
    filled, mirrored = (Timing(count, (end - begin,)) for begin, end in pairwise(times))
    yield rate(f"rows inserted: {rows:,} rows", filled)
    yield rate(f"rows mirrored: {rows:,} rows", mirrored)
    for what, size in (
        ("PostgreSQL", stored(database) - in_tables),
        ("the mirror, and an epoch", allocated(folder) - in_files),
    ):
        yield Result(f"a row in {what}: {rows:,} rows", "bytes", size / count)


def _fill(dataset: Dataset, rows: int) -> None:
    """Insert rows, and relabel some that are spread over all of them."""
    grow(dataset, rows)
    relabeled = range(0, rows, RELABELED)
    for after in range(0, len(relabeled), PIECE):
        part = relabeled[after : after + PIECE]
        new = numbers(len(part), dataset.head.position)
        dataset.insert(new.columns, keys=[f"sample-{row:09}" for row in part])


def _rates(datasets: dict[int, Dataset], rounds: int) -> Iterator[Result]:
    runs = {size: dataset.run(_RUN) for size, dataset in datasets.items()}
    smallest, largest = min(runs), max(runs)
    count = min(SAMPLES, 20 * smallest) // BATCH
    ways: dict[str, Callable[[Run], Contender]] = {
        "EpochDataset": lambda run: contender(lambda: _epochs(run).take(count)),
        "StreamDataset": lambda run: contender(lambda: _stream(run).take(count)),
        "Epoch.batches": lambda run: drained(lambda: islice(_arrays(run), count)),
    }
    for way, taken in ways.items():
        timings = interleave({str(size): taken(run) for size, run in runs.items()}, rounds)
        for size in runs:
            yield rate(f"{way}: {size:,} rows", timings[str(size)])
        yield compare(
            f"{way}: {largest:,} rows next to {smallest:,}",
            timings[str(largest)],
            timings[str(smallest)],
            at_least=LEAST[way],
        )


def _epochs(run: Run) -> tf.data.Dataset:
    epoch = EpochDataset(run.epoch(0), batch_size=BATCH, x="x", y="label", drop_remainder=True)
    return epoch.repeat()


def _stream(run: Run) -> tf.data.Dataset:
    return StreamDataset(run, batch_size=BATCH, x="x", y="label", start=0)


def _arrays(run: Run) -> Iterator[dict[str, Any]]:
    epochs = (epoch.batches(BATCH, drop_remainder=True) for epoch in repeat(run.epoch(0)))
    return chain.from_iterable(epochs)


def _check(run: Run) -> None:
    """Check that the three ways yield the same samples, which are live ones of the split."""
    count = min(1000, run.epoch(0).size // BATCH)
    arrays = [(batch["x"], batch["label"]) for batch in islice(_arrays(run), count)]
    for dataset in (_epochs(run), _stream(run)):
        batches = dataset.take(count).as_numpy_iterator()
        for ours, theirs in zip(arrays, batches, strict=True):
            if not all(map(np.array_equal, ours, theirs)):
                raise AssertionError("two ways to read an epoch yield other samples")


def _first_batches(dataset: Dataset, rounds: int) -> Iterator[Result]:
    for name, timing in starting.first_batches(dataset, rounds).items():
        what = f"{name}: first batch of a pinned epoch, {len(dataset):,} rows"
        yield duration(what, timing, at_most=LIMIT_MS)


def _begins(datasets: dict[int, Dataset], rounds: int) -> Iterator[Result]:
    timings = interleave(
        {str(size): partial(_begun, dataset) for size, dataset in datasets.items()}, rounds
    )
    for size in datasets:
        what = f"an epoch begins with {PICKED_UP:,} new rows, {size:,} rows"
        yield duration(what, timings[str(size)], at_most=LIMIT_MS)


@contextmanager
def _begun(dataset: Dataset) -> Iterator[Work]:
    run = dataset.run(_RUN)
    assert run.last is not None
    number = run.last.number + 1
    grow(dataset, PICKED_UP)

    def work() -> int:
        return int(bool(run.epoch(number).size))

    yield work
