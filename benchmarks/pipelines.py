"""Pipelines that make batches for training of the same samples.

All but the generator shuffle globally; all prefetch, and drop a last batch that is not full.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from benchmarks.data import Samples
from benchmarks.measure import Contender, Work
from registry.tensorflow import EpochDataset, StreamDataset
from registry.training.mix import Mix
from registry.training.run import Run

os.environ["HF_HUB_OFFLINE"] = "1"
import datasets

BATCH = 256
Make: TypeAlias = Callable[[], tf.data.Dataset]
"""Creates a dataset of ``(x, label)`` batches."""


def streamed(run: Run | Mix, rows: int, x: str = "x") -> tf.data.Dataset:
    """Return the first batches of the endless stream, as many as ``rows`` fill."""
    return StreamDataset(run, batch_size=BATCH, x=x, y="label").take(rows // BATCH)


def epoch(run: Run, x: str = "x") -> tf.data.Dataset:
    return EpochDataset(run.epoch(0), batch_size=BATCH, x=x, y="label", drop_remainder=True)


def in_memory(samples: Samples, x: str = "x") -> tf.data.Dataset:
    """Return the pipeline of TensorFlow's guides for arrays."""
    rows = tf.data.Dataset.from_tensor_slices((samples.columns[x], samples.columns["label"]))
    return _batched(rows.shuffle(len(samples)))


def generated(samples: Samples) -> tf.data.Dataset:
    """Return the pipeline of TensorFlow's guides for other data: a row at a time, from Python."""
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


def contender(make: Make) -> Contender:
    """Return the contender that takes all batches of a dataset; it is made beforehand."""
    return lambda: nullcontext(consumer(make()))


def consumer(dataset: tf.data.Dataset) -> Work:
    """Return the work of taking all batches in the graph, as Keras's train function does.

    A loop in Python would add about 130 µs to each batch. The graph is traced beforehand.
    """
    count = tf.function(lambda: dataset.reduce(np.int64(0), lambda batches, *_: batches + 1))
    count.get_concrete_function()
    return lambda: BATCH * int(count())


def check(name: str, dataset: tf.data.Dataset, samples: Samples, size: int | None = None) -> None:
    """Check that a dataset yields each sample at most once, and drops less than a batch.

    ``size`` is the number of samples that it has, if these are not all.
    """
    batches: list[tuple[Any, Any]] = list(dataset.as_numpy_iterator())
    x, label = (np.concatenate(column) for column in zip(*batches, strict=True))
    # The bytes of the first two numbers, read as one integer, identify a row.
    known = samples.columns["x"][:, :2].copy().view(np.uint64)[:, 0]
    order = np.argsort(known)
    rows = order[np.searchsorted(known, x[:, :2].copy().view(np.uint64)[:, 0], sorter=order)]
    if not (
        np.array_equal(x, samples.columns["x"][rows])
        and np.array_equal(label, samples.columns["label"][rows])
        and len(np.unique(rows)) == len(rows) == _whole(samples, size)
    ):
        raise AssertionError(f"the samples of {name} differ from the inserted ones")


def check_texts(name: str, dataset: tf.data.Dataset, samples: Samples) -> None:
    """Check the same of a dataset of texts, which begin with the number of their row."""
    text, label = samples.columns["text"], samples.columns["label"]
    rows: list[int] = []
    for batch, labels in dataset.as_numpy_iterator():
        numbers = [int(value[:9]) for value in batch]
        rows += numbers
        if [text[row].encode() for row in numbers] != list(batch) or any(label[numbers] != labels):
            raise AssertionError(f"the texts of {name} differ from the inserted ones")
    if not len(set(rows)) == len(rows) == _whole(samples):
        raise AssertionError(f"{name} yields a text twice, or not all")


def _whole(samples: Samples, size: int | None = None) -> int:
    """Return how many samples are in whole batches."""
    return (len(samples) if size is None else size) // BATCH * BATCH


def _batched(rows: tf.data.Dataset) -> tf.data.Dataset:
    return rows.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
