"""Images decoded sample by sample, and the name of one that cannot be decoded.

TensorFlow's decoders fail the whole step without a word of which sample it was, and no operation
catches that but `ignore_errors`, which drops the sample. So each chunk of samples becomes a dataset
of pairs: the position that is expected next, and the position that was decoded next. Where they
differ, or pairs run out before the chunk does, a sample was dropped: then Python looks for the
image at fault and raises. As long as all images decode, no Python runs.
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
"""Images in work at a time: with one for each core, cores wait for their next."""
_DECORATION = re.compile(r"\{\{[^{}]*\}\} ?| \[Op:[^\]]*\].*", re.DOTALL)
"""What TensorFlow adds to a decoder's words."""


def batches(
    chunks: tf.data.Dataset,
    elements: Elements,
    log: Log,
    batch_size: int,
    *,
    drop_remainder: bool,
) -> tf.data.Dataset:
    """Return batches of what lies in chunks, with images decoded.

    A chunk is the positions of some samples and their columns, as `row_arrays` makes them. In place
    of a batch with a sample that cannot be decoded, iterators raise what `ImageError` says.
    """
    ragged = any(isinstance(elements.features[name], Ragged) for name in elements.wanted)

    def explain(positions: Positions) -> np.int64:
        raise _error(log, elements, positions)

    def decode(sample: Any) -> Any:
        position, columns = sample
        return position, elements.decode_images(columns)

    def pairs(chunk: Any) -> tf.data.Dataset:
        positions, _ = chunk
        decoded = Mapped(Slices(chunk), decode, DECODERS).ignore_errors()
        placed = tf.data.Dataset.zip(Slices(positions), decoded)

        def fail(all_positions: Any) -> Any:
            number = tf.numpy_function(explain, [all_positions], tf.int64)
            with tf.control_dependencies([number]):
                return tf.nest.map_structure(_blank, placed.element_spec)

        failed = Mapped(Slices(positions[None]), fail, 1)
        whole = placed.concatenate(failed).take(tf.size(positions, tf.int64))
        # Here already, since handing samples on one by one would take as long as small ones do.
        return whole.batch(batch_size)

    def check(batch: Any) -> Any:
        expected, (decoded, columns) = batch
        wrong = expected[tf.not_equal(expected, decoded)]
        sound = tf.cond(
            tf.equal(tf.size(wrong), 0),
            lambda: tf.constant(0, tf.int64),
            lambda: tf.numpy_function(explain, [wrong[:1]], tf.int64),
        )
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
    """Return the error of the first of these samples that cannot be decoded."""
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
