"""The same samples as batches for training, by every way there is to them.

All shuffle globally, but for the generator, which cannot; all prefetch as they like, and leave out
a last batch that is not full.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from benchmarks.data import Samples
from benchmarks.measure import Work
from registry.tensorflow import EpochDataset, StreamDataset
from registry.training.run import Run

os.environ["HF_HUB_OFFLINE"] = "1"
import datasets

BATCH = 256
Make: TypeAlias = Callable[[], tf.data.Dataset]
"""Makes a dataset of ``(x, label)`` batches."""


def streamed(run: Run, rows: int) -> tf.data.Dataset:
    """Return as many batches of the endless stream as ``rows`` fill."""
    return StreamDataset(run, batch_size=BATCH, x="x", y="label").take(rows // BATCH)


def epoch(run: Run) -> tf.data.Dataset:
    return EpochDataset(run.epoch(0), batch_size=BATCH, x="x", y="label", drop_remainder=True)


def in_memory(samples: Samples) -> tf.data.Dataset:
    """Return what TensorFlow's guides do with arrays."""
    rows = tf.data.Dataset.from_tensor_slices((samples.columns["x"], samples.columns["label"]))
    return _batched(rows.shuffle(len(samples)))


def generated(samples: Samples) -> tf.data.Dataset:
    """Return what TensorFlow's guides do with anything else: a row at a time, from Python."""
    rows = tf.data.Dataset.from_generator(
        lambda: zip(samples.columns["x"], samples.columns["label"], strict=True),
        output_signature=(tf.TensorSpec((10,), tf.float32), tf.TensorSpec((), tf.int32)),
    )
    return _batched(rows)


def hugging_face(samples: Samples) -> tf.data.Dataset:
    arrow = datasets.Dataset.from_dict(samples.columns)
    return arrow.to_tf_dataset(
        BATCH, columns="x", label_cols="label", shuffle=True, drop_remainder=True
    )


def consumer(dataset: tf.data.Dataset) -> Work:
    """Return the work of taking all batches in the graph, as Keras's train function does.

    A loop in Python would take some 130 µs a batch, whatever the dataset. The graph is made here.
    """
    count = tf.function(lambda: dataset.reduce(np.int64(0), lambda batches, *_: batches + 1))
    count.get_concrete_function()
    return lambda: BATCH * int(count())


def check(name: str, dataset: tf.data.Dataset, samples: Samples) -> None:
    """See that a dataset yields samples, each at most once, and only too few for a batch not."""
    batches: list[tuple[Any, Any]] = list(dataset.as_numpy_iterator())
    x, label = (np.concatenate(column) for column in zip(*batches, strict=True))
    # The first two numbers of a row, seen as one, tell it from all others.
    known = samples.columns["x"][:, :2].copy().view(np.uint64)[:, 0]
    order = np.argsort(known)
    found = order[np.searchsorted(known, x[:, :2].copy().view(np.uint64)[:, 0], sorter=order)]
    if not (
        np.array_equal(x, samples.columns["x"][found])
        and np.array_equal(label, samples.columns["label"][found])
        and len(np.unique(found)) == len(found) == len(samples) // BATCH * BATCH
    ):
        raise AssertionError(f"what {name} yields differs from what was inserted")


def _batched(rows: tf.data.Dataset) -> tf.data.Dataset:
    return rows.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
