"""Decoding images sample by sample, and naming one that cannot be decoded.

1. Each chunk of samples becomes a dataset of pairs: the position that is expected next, and the
   next sample that was decoded, with its position. `ignore_errors` drops samples that fail.
2. The pairs are cut into batches, and the two positions of each pair are compared.
3. If they differ, or a chunk runs out of pairs, a sample was dropped. Then Python reads the samples
   at the expected positions from the database, decodes them one by one, and raises `ImageError`
   for the first that fails.

Why: TensorFlow's decoders fail the whole step and do not report which sample it was. No operation
catches that but `ignore_errors`. No Python runs in this module while all images can be decoded.

The rows of a chunk are cut apart by `from_tensor_slices` within the graph: its slices share the
memory of the chunk's strings, which `unbatch` would copy.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from registry.errors import ImageError
from registry.samples.arrays import Positions
from registry.samples.features import Ragged
from registry.storage.database.transactions import read
from registry.storage.log.reader import Log
from registry.storage.log.records import sample_at
from registry.tensorflow.elements import Elements, ragged_from_bytes
from registry.tensorflow.raw_datasets import (
    InterleaveDataset,
    MapDataset,
    RebatchDataset,
    map_plainly,
)

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
    decoder = _Decoder(elements, log, batch_size)

    def check(batch: Any) -> Any:
        columns = decoder.check(batch)
        return columns if ragged else elements.select(columns)

    parts = InterleaveDataset(chunks, decoder.decode_chunk)
    rebatched = RebatchDataset(parts, batch_size, drop_remainder=drop_remainder)
    # One call: batches need no more work, and parallel ones would hold more images in memory.
    intact = MapDataset(rebatched, check, 1)
    if not ragged:
        return intact
    return map_plainly(
        intact, lambda batch: elements.select(ragged_from_bytes(elements.features, batch))
    )


@dataclass(frozen=True)
class _Decoder:
    """Decodes the images of chunks, and checks that no sample was dropped."""

    elements: Elements
    log: Log
    batch_size: int

    def decode_chunk(self, chunk: Any) -> tf.data.Dataset:
        """Return batches of pairs: the expected position, and the next sample that was decoded."""
        positions, _ = chunk
        samples = tf.data.Dataset.from_tensor_slices(chunk)
        expected = tf.data.Dataset.from_tensor_slices(positions)
        # Ends before the chunk does if samples were dropped. `failure` then takes the next place.
        decoded = MapDataset(samples, self._decode, DECODERS).ignore_errors()
        pairs = tf.data.Dataset.zip(expected, decoded)

        def fail(all_positions: Any) -> Any:
            number = tf.numpy_function(self._raise_error, [all_positions], tf.int64)
            # Never returned, since the error is raised, but `concatenate` wants elements of one
            # kind.
            with tf.control_dependencies([number]):
                return tf.nest.map_structure(_blank, pairs.element_spec)

        failure = MapDataset(tf.data.Dataset.from_tensors(positions), fail, 1)
        # Without the `take`, `fail` would run after every intact chunk.
        complete = pairs.concatenate(failure).take(tf.size(positions, tf.int64))
        # Batched here already: passing samples on one by one takes as long as decoding small ones.
        return complete.batch(self.batch_size)

    def check(self, batch: Any) -> Any:
        """Return the columns of a batch of pairs whose positions are equal; else raise an error."""
        expected, (decoded, columns) = batch
        skipped = expected[tf.not_equal(expected, decoded)]
        checked = tf.cond(
            tf.equal(tf.size(skipped), 0),
            lambda: tf.constant(0, tf.int64),
            lambda: tf.numpy_function(self._raise_error, [skipped[:1]], tf.int64),
        )
        # Operations outside of this block would not wait for the check.
        with tf.control_dependencies([checked]):
            return tf.nest.map_structure(tf.identity, columns)

    def _decode(self, sample: Any) -> Any:
        position, columns = sample
        return position, self.elements.decode_images(columns)

    def _raise_error(self, positions: Positions) -> np.int64:
        raise _image_error(self.log, self.elements, positions)


def _blank(spec: tf.TensorSpec) -> Any:
    return tf.zeros([side or 0 for side in spec.shape], spec.dtype)


def _image_error(log: Log, elements: Elements, positions: Positions) -> ImageError:
    """Return the error of the first of these samples that cannot be decoded.

    Reads the database, in one of TensorFlow's threads.
    """
    for position in positions.tolist():
        dataset, key, record = read(log.engine, sample_at, log.dataset_id, position)
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
