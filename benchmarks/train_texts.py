"""Subject: batches of texts for training, next to pipelines over the same texts in memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import tensorflow as tf

from benchmarks.cache import cache
from benchmarks.data import LONG, SHORT, Samples, loaded, texts
from benchmarks.measure import Bench, Result, Timing, compare, interleave, rate
from benchmarks.permuted_gather import permutation
from benchmarks.pipelines import (
    BATCH,
    Make,
    check_texts,
    contender,
    epoch,
    in_memory,
    streamed,
)
from registry.training.run import Run

X = "text"
EPOCH, STREAM, MEMORY, GATHER = (
    "EpochDataset",
    "StreamDataset",
    "in-memory shuffle",
    "in-memory permuted gather",
)
LEAST: dict[str, dict[str, float | None]] = {
    "long": {EPOCH: 1.0, STREAM: 1.0},
    "short": {EPOCH: 3.0, STREAM: None},
}
"""The least ratio to the shuffle in memory."""


def train_texts(bench: Bench) -> list[Result]:
    """Take batches of 256 texts with labels: short ones, and a tenth as many long ones."""
    samples = {
        "long": texts(max(BATCH, bench.rows // 10), LONG),
        "short": texts(bench.rows, SHORT),
    }
    with cache(), bench.server.database() as database, loaded(database, samples) as reg:
        return [
            result
            for name, one in samples.items()
            for result in _results(name, _timed(reg.open(name).run("train"), one, bench.rounds))
        ]


def _timed(run: Run, samples: Samples, rounds: int) -> dict[str, Timing]:
    ways: dict[str, Make] = {
        EPOCH: partial(epoch, run, X),
        STREAM: partial(streamed, run, len(samples), X),
        MEMORY: partial(in_memory, samples, X),
        GATHER: partial(_gathered, samples),
    }
    for name, make in ways.items():
        check_texts(name, make(), samples)
    return interleave({name: contender(make) for name, make in ways.items()}, rounds)


def _results(name: str, timings: dict[str, Timing]) -> list[Result]:
    lengths = LONG if name == "long" else SHORT
    what = f"texts of {lengths[0]} to {lengths[1]} bytes"
    memory, gather = timings[MEMORY], timings[GATHER]
    return [
        *(rate(f"{what}: {way}", timing) for way, timing in timings.items()),
        *(
            compare(f"{what}: {way}, next to {MEMORY}", timings[way], memory, at_least=least)
            for way, least in LEAST[name].items()
        ),
        compare(f"{what}: {EPOCH}, next to {GATHER}", timings[EPOCH], gather),
    ]


def _gathered(samples: Samples) -> tf.data.Dataset:
    """Gather each batch by a permutation, as `permuted_gather` does with numbers."""
    text, label = tf.constant(samples.columns[X]), tf.constant(samples.columns["label"])
    order = permutation(len(samples))

    def gather(number: Any) -> tuple[Any, Any]:
        rows = order[number * BATCH : (number + 1) * BATCH]
        return tf.gather(text, rows), tf.gather(label, rows)

    batches = tf.data.Dataset.range(len(samples) // BATCH)
    return batches.map(gather, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
