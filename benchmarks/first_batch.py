"""Subject: the time until the first batch of a process.

Run as a module, it is that process: nothing of TensorFlow's was traced, compiled or mapped before.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from statistics import median
from time import perf_counter
from typing import Any

import registry
from benchmarks.cache import cache
from benchmarks.data import loaded, numbers
from benchmarks.measure import Bench, Result
from benchmarks.server import Database

NOTHING = "an iterator that does nothing"
WAYS = {"EpochDataset": 100, "StreamDataset": None, NOTHING: None}
"""The most milliseconds of each until its first batch."""
_BATCH = 256
_LATER = 3000
"""Batches after the first one that are timed. XLA compiles in that time."""
RUN = "first batch"


def first_batch(bench: Bench) -> list[Result]:
    """Make a dataset and take its first batch; the mirror exists and the epoch is pinned."""
    with (
        cache(),
        bench.server.database() as database,
        loaded(database, {"samples": numbers(bench.rows)}) as reg,
    ):
        reg.open("samples").run(RUN).epoch(0)
        return [
            result
            for way, limit in WAYS.items()
            for result in measured(database, "samples", way, bench.rounds, limit)
        ]


def measured(
    database: Database, name: str, way: str, rounds: int, limit: float | None
) -> Iterator[Result]:
    """Yield the times to open the epoch, from there to the first batch, and until a later one.

    In new processes. Of the later batches, it is the longest time until the next one.
    """
    command = [sys.executable, "-m", __name__, database.url, name, way]
    times = [_times(command) for _ in range(1 + rounds)][1:]  # the first one warms up
    opened, ready, later = (tuple(column) for column in zip(*times, strict=True))
    what = f"{way}: first batch of a process"
    if way == "EpochDataset":
        yield Result("opening a pinned epoch in a process", "ms", 1000 * median(opened))
    yield Result(what, "ms", 1000 * median(ready), at_most=limit, seconds=(ready,))
    if way == "EpochDataset":
        what = f"{way}: the longest wait for a later batch"
        yield Result(what, "ms", 1000 * median(later), at_most=200, seconds=(later,))


def _times(command: list[str]) -> list[float]:
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [float(seconds) for seconds in finished.stdout.split()]


def main(url: str, name: str, way: str) -> None:
    """Print the seconds to open the epoch, to make a dataset and take a batch, and for a later one.

    The last is the longest time between two of the next batches.
    """
    from benchmarks.quiet import quiet  # noqa: PLC0415

    with quiet():
        import tensorflow as tf  # noqa: PLC0415

        from benchmarks import permuted_gather  # noqa: PLC0415
        from registry.tensorflow import EpochDataset, StreamDataset  # noqa: PLC0415

        tf.constant(0)  # devices are initialized: a model is there before its first batch
        batch = numbers(_BATCH)
    with registry.connect(url) as reg:
        run = reg.open(name).run(RUN)
        start = perf_counter()
        epoch = run.epoch(0)
        opened = perf_counter()
        ways: dict[str, Callable[[], Any]] = {
            "EpochDataset": lambda: EpochDataset(epoch, batch_size=_BATCH, x="x", y="label"),
            "StreamDataset": lambda: StreamDataset(run, batch_size=_BATCH, x="x", y="label"),
            NOTHING: lambda: permuted_gather.nothing(batch),
        }
        iterator = iter(ways[way]())
        if len(next(iterator)[1]) != _BATCH:
            raise AssertionError("the first batch is not full")
        ready = perf_counter()
        taken = [ready, *(perf_counter() for _ in islice(iterator, _LATER))]
        longest = max((end - begin for begin, end in pairwise(taken)), default=0)
        print(opened - start, ready - opened, longest)


if __name__ == "__main__":
    main(*sys.argv[1:])
