"""Decoding images sample by sample, and naming one that cannot be decoded.

1. Each chunk of samples becomes a dataset of pairs: the position that is expected next, and the
   next sample that was decoded, with its position. `ignore_errors` drops samples that fail.
2. The pairs are cut into batches, and the two positions of each pair are compared.
3. If they differ, or a chunk runs out of pairs, a sample was dropped. Then Python reads the samples
   at the expected positions from the database, decodes them one by one, and raises `ImageError`
   for the first that fails.

Why: TensorFlow's decoders fail the whole step and do not report which sample it was. No operation
catches that but `ignore_errors`. No Python runs in this module while all images can be decoded.
"""

from __future__ import annotations

import os
import re
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from registry.errors import ImageError
from registry.samples.arrays import Positions
from registry.samples.features import Ragged
from registry.storage.database.transactions import read
from registry.storage.log.reader import Log
from registry.storage.log.records import sample_at
from registry.tensorflow.elements import Elements, unpacked
from registry.tensorflow.raw_datasets import Interleaved, Mapped, Rebatched, Slices, map_as_is

DECODERS = 2 * (os.cpu_count() or 1)
"""Images decoded in parallel. With one per core, cores wait for their next image."""
_DECORATION = re.compile(r"\{\{[^{}]*\}\} ?| \[Op:[^\]]*\].*", re.DOTALL)
"""What TensorFlow adds to the message of a decoder: the names of nodes and operations."""


def batches(
    chunks: tf.data.Dataset,
    elements: Elements,
    log: Log,
    batch_size: int,
    *,
    drop_remainder: bool,
) -> tf.data.Dataset:
    """Return batches of the samples in chunks, with images decoded.

    A chunk is a pair: the positions of some samples, int64 ``(count,)``, and their columns, as
    `row_arrays` makes them. For a batch with a sample that cannot be decoded, iterators raise
    TensorFlow's error with the text of an `ImageError`.
    """
    ragged = any(isinstance(elements.features[name], Ragged) for name in elements.wanted)

    def explain(positions: Positions) -> np.int64:
        raise _error(log, elements, positions)

    def decode(sample: Any) -> Any:
        position, columns = sample
        return position, elements.decode_images(columns)

    def pairs(chunk: Any) -> tf.data.Dataset:
        positions, _ = chunk
        # Ends before the chunk does if samples were dropped. `failed` then takes the next place.
        decoded = Mapped(Slices(chunk), decode, DECODERS).ignore_errors()
        placed = tf.data.Dataset.zip(Slices(positions), decoded)

        def fail(all_positions: Any) -> Any:
            number = tf.numpy_function(explain, [all_positions], tf.int64)
            # Never returned, since `explain` raises, but `concatenate` wants elements of one kind.
            with tf.control_dependencies([number]):
                return tf.nest.map_structure(_blank, placed.element_spec)

        failed = Mapped(Slices(positions[None]), fail, 1)
        whole = placed.concatenate(failed).take(tf.size(positions, tf.int64))
        # Batched here already: passing samples on one by one takes as long as decoding small ones.
        return whole.batch(batch_size)

    def check(batch: Any) -> Any:
        expected, (decoded, columns) = batch
        wrong = expected[tf.not_equal(expected, decoded)]
        sound = tf.cond(
            tf.equal(tf.size(wrong), 0),
            lambda: tf.constant(0, tf.int64),
            lambda: tf.numpy_function(explain, [wrong[:1]], tf.int64),
        )
        # Operations outside of this block would not wait for the check.
        with tf.control_dependencies([sound]):
            same = tf.nest.map_structure(tf.identity, columns)
        return same if ragged else elements.select(same)

    placed = Interleaved(chunks, pairs)
    found = Mapped(Rebatched(placed, batch_size, drop_remainder=drop_remainder), check, 1)
    if not ragged:
        return found
    return map_as_is(found, lambda batch: elements.select(unpacked(elements.features, batch)))


def _blank(spec: tf.TensorSpec) -> Any:
    return tf.zeros([side or 0 for side in spec.shape], spec.dtype)


def _error(log: Log, elements: Elements, positions: Positions) -> ImageError:
    """Return the error of the first of these samples that cannot be decoded.

    Reads the database, in one of TensorFlow's threads.
    """
    for position in positions.tolist():
        find = partial(sample_at, dataset_id=log.dataset_id, position=position)
        dataset, key, record = read(log.engine, find)
        if not record:  # erased meanwhile
            continue
        values = log.codec.decode_one(record)
        for name in elements.images:
            try:
                elements.decode_images({name: values[name]})
            except tf.errors.OpError as error:
                reason = _DECORATION.sub("", error.message)
                return ImageError(reason, dataset, position=position, key=key, feature=name)
    return ImageError(
        "an image could not be decoded, but then it could: the memory may have run out",
        dataset,
        position=position,
        key=key,
    )
