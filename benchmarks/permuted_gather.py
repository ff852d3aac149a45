"""The anchor of `EpochDataset`: permuted gathers of tensors that are in memory.

It is what a TensorFlow engineer writes for arrays that fit into memory: a range of batches, each of
which gathers its rows by a permutation. It stores nothing, cannot grow, and replays no epoch.

It has several forms, which differ in the options of tf.data. Which is fastest depends on the
machine, so all are timed, and the fastest is the anchor. The permutation is made beforehand, to the
anchor's favor: making one takes about a twentieth of an epoch's time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.data import SEED, Samples
from benchmarks.pipelines import BATCH, Make

CHUNK = 16
"""Batches that `chunked` gathers at a time. The rate is no higher with 64."""


def forms(samples: Samples) -> dict[str, Make]:
    """Return the forms of the anchor by name."""
    count = len(samples) // BATCH
    columns, packed = _columns(samples), _packed(samples)
    return {
        "by AUTOTUNE": partial(_gathered, count, columns),
        "untuned": partial(_gathered, count, columns, autotune=False),
        "unbounded threads": partial(_gathered, count, columns, unbounded=True),
        "unbounded threads, untuned": partial(
            _gathered, count, columns, unbounded=True, autotune=False
        ),
        "unbounded threads, any order": partial(
            _gathered, count, columns, unbounded=True, ordered=False
        ),
        "packed rows, unbounded threads": partial(_gathered, count, packed, unbounded=True),
    }


def chunked(samples: Samples) -> tf.data.Dataset:
    """Gather `CHUNK` batches at a time and cut them apart: less work for tf.data in each batch."""
    gather = _columns(samples)
    end = len(samples) // BATCH
    chunks = tf.data.Dataset.range(-(-end // CHUNK)).map(
        lambda chunk: gather(chunk * CHUNK, tf.minimum((chunk + 1) * CHUNK, end)),
        tf.data.AUTOTUNE,
    )
    return chunks.rebatch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def nothing(samples: Samples) -> tf.data.Dataset:
    """Yield one batch repeatedly: the limit of what an iterator of tf.data can do."""
    batch = samples.columns["x"][:BATCH], samples.columns["label"][:BATCH]
    batches = tf.data.Dataset.from_tensors(batch).repeat(len(samples) // BATCH)
    return _untuned(batches.prefetch(tf.data.AUTOTUNE))


def permutation(rows: int) -> Any:
    """Return an order of the rows as an int64 tensor."""
    return tf.constant(np.random.default_rng(SEED).permutation(rows))


Gather = Callable[[Any, Any], tuple[Any, Any]]
"""From the numbers of the first batch and of the one after the last to x and label."""


def _gathered(
    count: int,
    gather: Gather,
    *,
    autotune: bool = True,
    unbounded: bool = False,
    ordered: bool = True,
) -> tf.data.Dataset:
    batches = tf.data.Dataset.range(count).map(
        lambda number: gather(number, number + 1),
        tf.data.AUTOTUNE,
        deterministic=ordered,
        use_unbounded_threadpool=unbounded,
    )
    batches = batches.prefetch(tf.data.AUTOTUNE)
    return batches if autotune else _untuned(batches)


def _columns(samples: Samples) -> Gather:
    """Return a function that gathers from a tensor for each column."""
    x, label = tf.constant(samples.columns["x"]), tf.constant(samples.columns["label"])
    order = permutation(len(samples))

    def gather(first: Any, end: Any) -> tuple[Any, Any]:
        rows = order[first * BATCH : end * BATCH]
        return tf.gather(x, rows), tf.gather(label, rows)

    return gather


def _packed(samples: Samples) -> Gather:
    """Return a function that gathers all columns from one tensor, and cuts them apart."""
    columns = samples.columns["x"].view(np.int32), samples.columns["label"]
    table = tf.constant(np.column_stack(columns))
    order = permutation(len(samples))

    def gather(first: Any, end: Any) -> tuple[Any, Any]:
        rows = tf.gather(table, order[first * BATCH : end * BATCH])
        return tf.bitcast(rows[:, :-1], tf.float32), rows[:, -1]

    return gather


def _untuned(batches: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.with_options(options)
