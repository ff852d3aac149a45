"""Subject: figures that must not grow with the dataset, on ten times the rows of other subjects.

They share one dataset, since ten million rows take a minute to insert.
"""

from __future__ import annotations

import subprocess
import sys

import registry
from benchmarks import trainer
from benchmarks.cache import cache
from benchmarks.data import NUMBERS, SHORT, TEXTS, grow, texts
from benchmarks.measure import Bench, Result, compare, duration
from benchmarks.mirroring import PICKED_UP, pickups
from benchmarks.server import Database
from benchmarks.starting import first_batches
from registry import Dataset

SMALL = 10**4
FIRST_BATCH_MS = 100


def large(bench: Bench) -> list[Result]:
    """Measure first batches, the memory of a trainer, and the sync of new rows."""
    sizes = [min(SMALL, bench.rows), bench.rows, min(10**7, 10 * bench.rows)]
    with cache(), bench.server.database() as database, registry.connect(database.url) as reg:
        datasets = {size: reg.create(f"n{size}", NUMBERS) for size in sizes}
        for size, dataset in datasets.items():
            grow(dataset, size)
        database.settle()
        return [
            *_first_batches(datasets[sizes[-1]], bench.rounds),
            *private_memory(database, "x", *(datasets[size] for size in sizes[1:])),
            _pickup(datasets[sizes[0]], datasets[sizes[-1]], bench.rounds),
        ]


def _first_batches(dataset: Dataset, rounds: int) -> list[Result]:
    timings = first_batches(dataset, rounds)
    return [
        duration(f"{name}: first batch out of {len(dataset):,}", timing, at_most=FIRST_BATCH_MS)
        for name, timing in timings.items()
    ]


def large_texts(bench: Bench) -> list[Result]:
    """Measure the memory of a trainer on texts."""
    sizes = [bench.rows, min(10**7, 10 * bench.rows)]
    with cache(), bench.server.database() as database, registry.connect(database.url) as reg:
        datasets = [reg.create(f"n{size}", TEXTS) for size in sizes]
        for size, dataset in zip(sizes, datasets, strict=True):
            grow(dataset, size, lambda rows, first: texts(rows, SHORT, first))
        database.settle()
        return private_memory(database, "text", *datasets)


def private_memory(
    database: Database, feature: str, small: Dataset, large: Dataset
) -> list[Result]:
    """The limit is 1.1 times the memory on the smaller dataset, plus 32 MiB."""
    less, more = (_trainer_memory(database, each, feature) / 2**20 for each in (small, large))
    what = "private memory of a trainer on"
    rows = "texts" if feature == "text" else "rows"
    return [
        Result(f"{what} {len(small):,} {rows}", "MiB", less),
        Result(f"{what} {len(large):,} {rows}", "MiB", more),
        Result("the latter, less 1.1 times the former", "MiB", more - 1.1 * less, at_most=32),
    ]


def _trainer_memory(database: Database, dataset: Dataset, feature: str) -> int:
    """Return a trainer's private bytes; the mirror exists already."""
    dataset.run(trainer.RUN).epoch(0)
    finished = subprocess.run(
        [sys.executable, "-m", trainer.__name__, database.url, dataset.name, feature],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return int(finished.stdout)


def _pickup(small: Dataset, large: Dataset, rounds: int) -> Result:
    what = f"pick up {PICKED_UP:,} rows at {len(large):,}, next to {len(small):,}"
    timings = pickups({"small": small, "large": large}, 3 * rounds)
    return compare(what, timings["large"], timings["small"], unit="ms", at_most=1.5)
