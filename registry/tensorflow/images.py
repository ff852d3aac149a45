"""Decoding images sample by sample, and naming one that cannot be decoded.

1. Each chunk of samples becomes a dataset of pairs of batches: the positions that are expected,
   and the next samples that were decoded, with their positions. `ignore_errors` drops samples that
   cannot be decoded, and batches of images that differ in size.
2. The positions of a pair are compared.
3. If they differ, or a chunk runs out of pairs, something was dropped. Then Python reads the
   samples at the expected positions from the database, decodes them one by one, and raises an error
   that names the first that fails, or the first two in a batch that differ in size.

Why: TensorFlow's operations fail the whole step and do not report which sample it was. No operation
catches that but `ignore_errors`. No Python runs in this module while all images can be decoded.

The rows of a chunk are cut apart by `from_tensor_slices` within the graph: its slices share the
memory of the chunk's strings, which `unbatch` would copy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from registry.errors import ImageError, TrainingError
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
from registry.training.log_positions import log_and_position

DECODERS = 2 * (os.cpu_count() or 1)
"""Images decoded in parallel. With one per core, cores wait for their next image."""
_DECORATION = re.compile(r"\{\{[^{}]*\}\} ?| \[Op:[^\]]*\].*", re.DOTALL)
"""What TensorFlow adds to the message of a decoder: the names of nodes and operations."""


def batches(
    chunks: tf.data.Dataset,
    elements: Elements,
    logs: Sequence[Log],
    batch_size: int,
    *,
    drop_remainder: bool,
) -> tf.data.Dataset:
    """Return batches of the samples in chunks, with images decoded.

    A chunk is a pair: the positions of some samples, int64 ``(count,)``, as in `log_positions`, and
    their columns, as `row_arrays` makes them. For a batch with a sample that cannot be decoded,
    iterators raise TensorFlow's error with the text of an `ImageError`.
    """
    ragged = any(isinstance(elements.features[name], Ragged) for name in elements.wanted)
    select = dict if ragged else elements.select
    parts = InterleaveDataset(chunks, _Decoder(elements, logs, batch_size, select).decode_chunk)
    rebatched = RebatchDataset(parts, batch_size, drop_remainder=drop_remainder)
    if not ragged:
        return rebatched
    return map_plainly(
        rebatched, lambda batch: elements.select(ragged_from_bytes(elements.features, batch))
    )


@dataclass(frozen=True)
class _Decoder:
    """Decodes the images of chunks, and checks that no sample was dropped."""

    elements: Elements
    logs: Sequence[Log]
    batch_size: int
    select: Callable[[dict[str, Any]], Any]
    """Makes an element of the columns of a batch."""

    def decode_chunk(self, chunk: Any) -> tf.data.Dataset:
        """Return batches of the samples in a chunk."""
        positions, _ = chunk
        samples = tf.data.Dataset.from_tensor_slices(chunk)
        decoded = MapDataset(samples, self._decode, DECODERS).ignore_errors()
        # Ends before the chunk does if any were dropped. `failure` then takes the next place.
        batches = decoded.batch(self.batch_size).ignore_errors()
        # From the positions alone: `samples` would be sliced twice.
        expected = tf.data.Dataset.from_tensor_slices(positions).batch(self.batch_size)
        pairs = tf.data.Dataset.zip(expected, batches)

        def fail(all_positions: Any) -> Any:
            number = tf.numpy_function(self._raise_error, [all_positions], tf.int64)
            # Never returned, since the error is raised, but `concatenate` wants elements of one
            # kind.
            with tf.control_dependencies([number]):
                return tf.nest.map_structure(_blank, pairs.element_spec)

        failure = MapDataset(tf.data.Dataset.from_tensors(positions), fail, 1)
        # Without the `take`, `fail` would run after every intact chunk.
        count = -(-tf.size(positions, tf.int64) // self.batch_size)
        complete = pairs.concatenate(failure).take(count)
        # One call: batches need no more work, and parallel ones would hold more images in memory.
        return MapDataset(complete, self._check, 1)

    def _check(self, pair: Any) -> Any:
        """Return the columns of a batch if it has the expected positions; else raise an error."""
        expected, (decoded, columns) = pair
        # The last batch of a chunk is shorter than that which takes its place, or longer.
        count = tf.minimum(tf.size(expected), tf.size(decoded))
        same = tf.equal(tf.size(expected), tf.size(decoded))
        same &= tf.reduce_all(tf.equal(expected[:count], decoded[:count]))
        checked = tf.cond(
            same,
            lambda: tf.constant(0, tf.int64),
            lambda: tf.numpy_function(self._raise_error, [expected], tf.int64),
        )
        # Operations outside of this block would not wait for the check.
        with tf.control_dependencies([checked]):
            return self.select(tf.nest.map_structure(tf.identity, columns))

    def _decode(self, sample: Any) -> Any:
        position, columns = sample
        return position, self.elements.decode_images(columns)

    def _raise_error(self, positions: Positions) -> np.int64:
        for after in range(0, len(positions), self.batch_size):
            _refuse_broken(self.logs, self.elements, positions[after : after + self.batch_size])
        raise TrainingError(
            "a batch of images could not be made, but then it could: the memory may have run out"
        )


def _blank(spec: tf.TensorSpec) -> Any:
    return tf.zeros([side or 0 for side in spec.shape], spec.dtype)


def _refuse_broken(logs: Sequence[Log], elements: Elements, positions: Positions) -> None:
    """Raise an error if a sample cannot be decoded, or if the images differ in size.

    Reads the database, in one of TensorFlow's threads.
    """
    firsts: dict[str, tuple[tuple[int, ...], str]] = {}
    for log, position in (log_and_position(logs, each) for each in positions.tolist()):
        dataset, key, record = read(log.engine, sample_at, log.dataset_id, position)
        if not record:  # erased meanwhile
            continue
        log.schemas.at(position)  # reads newer schemas, if the row is of one
        newest = log.schemas.newest
        (brought,) = log.schemas.brought([position], [record], newest)
        values = newest.codec.decode_one(brought)
        for name in elements.images:
            try:
                image = elements.decode_images({name: values[name]})[name]
            except tf.errors.OpError as error:
                reason = _DECORATION.sub("", error.message)
                raise ImageError(
                    reason, dataset, position=position, key=key, feature=name
                ) from None
            shape = tuple(image.shape)
            first, first_key = firsts.setdefault(name, (shape, key))
            if shape != first:
                raise TrainingError(
                    f"dataset {dataset!r}, feature {name!r}: the images of a batch have different "
                    f"shapes, {first} of key {first_key!r} and {shape} of key {key!r}; pass "
                    "image_size=(height, width), and channels=3"
                )
