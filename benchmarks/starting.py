"""Subjects: the time to the first batch, at any position of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from benchmarks.cache import cache
from benchmarks.data import loaded, numbers
from benchmarks.measure import Bench, Result, Timing, Work, compare, interleave
from benchmarks.pipelines import BATCH
from registry import Dataset
from registry.tensorflow import EpochDataset, StreamDataset

RUN = "starting"


def resume(bench: Bench) -> list[Result]:
    """Resume a run at its first sample, and after nine tenths of an epoch."""
    with (
        cache(),
        bench.server.database() as database,
        loaded(database, {"samples": numbers(bench.rows)}) as reg,
    ):
        dataset = reg.open("samples")
        size = dataset.run(RUN).epoch(0).size
        starts = {"begin": 0, "resume": size * 9 // 10}
        timings = interleave(
            {name: partial(_resume, dataset, start) for name, start in starts.items()},
            3 * bench.rounds,
        )
    what = "first batch at 90 % of an epoch, next to its beginning"
    return [compare(what, timings["resume"], timings["begin"], unit="ms", at_most=2)]


def first_batches(dataset: Dataset, rounds: int) -> dict[str, Timing]:
    """Time the first batch that TensorFlow gets; the mirror exists and the epoch is pinned."""
    dataset.run(RUN).epoch(0)
    return interleave(
        {
            "StreamDataset": lambda: _first_batch(dataset, streaming=True),
            "EpochDataset": lambda: _first_batch(dataset, streaming=False),
        },
        rounds,
    )


@contextmanager
def _resume(dataset: Dataset, start: int) -> Iterator[Work]:
    run = dataset.run(RUN)
    batches = run.stream(BATCH, start=start)
    yield lambda: len(next(batches)["label"])


@contextmanager
def _first_batch(dataset: Dataset, *, streaming: bool) -> Iterator[Work]:
    run = dataset.run(RUN)
    kept: list[Any] = []  # ending an iterator, which reads ahead, is not part of the work

    def work() -> int:
        pinned = run.epoch(0)
        batches = (
            StreamDataset(run, batch_size=BATCH, x="x", y="label")
            if streaming
            else EpochDataset(pinned, batch_size=BATCH, x="x", y="label")
        )
        kept.append(iter(batches))
        return len(next(kept[-1])[1])

    yield work
