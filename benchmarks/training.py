"""Subject: batches for training, next to other pipelines over the same samples."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import registry
from benchmarks.cache import cache
from benchmarks.data import Samples, loaded, numbers
from benchmarks.measure import Bench, Contender, Result, Timing, compare, interleave, rate
from benchmarks.pipelines import (
    Make,
    check,
    consumer,
    epoch,
    generated,
    hugging_face,
    in_memory,
    streamed,
)

STREAM = "StreamDataset"
EPOCH = "EpochDataset"
MEMORY = "from_tensor_slices().shuffle()"
HUGGING_FACE = "Hugging Face to_tf_dataset()"
MIX = "StreamDataset of a mix of two runs"
GENERATOR = "a Python generator of rows"
SLICE = 50_000
"""Rows for the pipelines that take one row at a time in Python."""


def train(bench: Bench) -> list[Result]:
    """Take batches of 256 records in the graph; the mirror exists and the epoch is pinned."""
    samples = numbers(bench.rows)
    few = _first(samples, SLICE)
    with (
        cache(),
        bench.server.database() as database,
        loaded(database, {"samples": samples}) as reg,
    ):
        digits = reg.open("samples")
        run = digits.run("train", seed=1)
        mix = registry.mix({digits.run("more"): 0.7, digits.run("less", seed=1): 0.3})
        ways: dict[str, tuple[Make, Samples]] = {
            STREAM: (partial(streamed, run, bench.rows), samples),
            EPOCH: (partial(epoch, run), samples),
            MEMORY: (partial(in_memory, samples), samples),
            HUGGING_FACE: (partial(hugging_face, few), few),
            GENERATOR: (partial(generated, few), few),
        }
        for name, (make, expected) in ways.items():
            check(name, make(), expected)
        makers = {name: make for name, (make, _) in ways.items()}
        makers[MIX] = partial(streamed, mix, bench.rows)
        timings = interleave(
            {name: _contender(make) for name, make in makers.items()}, bench.rounds
        )
    return [*(rate(name, timing) for name, timing in timings.items()), *_compared(timings)]


def _compared(timings: dict[str, Timing]) -> list[Result]:
    stream, epoch = timings[STREAM], timings[EPOCH]
    memory, generator = timings[MEMORY], timings[GENERATOR]
    return [
        compare("StreamDataset, next to in-memory shuffle", stream, memory, at_least=8),
        compare(
            "StreamDataset, next to a row at a time",
            stream,
            generator,
            at_least=150,
            slow_baseline=True,
        ),
        compare("a mix of two runs, next to one", timings[MIX], stream, at_least=0.7),
        compare("EpochDataset, next to in-memory shuffle", epoch, memory, at_least=12),
    ]


def _contender(make: Make) -> Contender:
    return lambda: nullcontext(consumer(make()))


def _first(samples: Samples, rows: int) -> Samples:
    columns = {name: column[:rows] for name, column in samples.columns.items()}
    return replace(samples, columns=columns, keys=samples.keys[:rows])
