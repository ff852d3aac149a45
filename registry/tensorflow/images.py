"""Decoding images sample by sample, and naming one that cannot be decoded.

1. Each chunk of samples becomes a dataset of pairs of batches: the positions that are expected,
   and the next samples that were decoded, with their positions. `ignore_errors` drops samples that
   cannot be decoded, and batches of images that differ in size.
2. The pairs end before the first whose positions differ: something was dropped. If nothing was,
   they are as many as the chunk has batches.
3. Otherwise the next element is that of a dataset that fails the step. Its error names the sample
   (`image_errors`).

Why: TensorFlow's operations fail the whole step and do not report which sample it was. No operation
catches that but `ignore_errors`. No Python runs in this module while all images can be decoded.

The rows of a chunk are cut apart by `from_tensor_slices` within the graph: its slices share the
memory of the chunk's strings, which `unbatch` would copy.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from registry.samples.features import Ragged
from registry.tensorflow.elements import Elements, ragged_from_bytes
from registry.tensorflow.image_errors import ImageErrors
from registry.tensorflow.raw_datasets import (
    InterleaveDataset,
    MapDataset,
    OwnThreadsDataset,
    TakeWhileDataset,
    map_plainly,
)

DECODERS = 2 * (os.cpu_count() or 1)
"""Images decoded in parallel. With one per core, cores wait for their next image."""


def batches(
    chunks: tf.data.Dataset[Any],
    elements: Elements,
    errors: ImageErrors,
    batch_size: int,
    *,
    drop_remainder: bool,
) -> tf.data.Dataset[Any]:
    """Return the batches of chunks, each of which is whole batches, or one batch that is shorter.

    A chunk is a pair: the positions of some samples, int64 ``(count,)``, as in `log_positions`, and
    their columns, as `row_arrays` makes them. For a batch with a sample that cannot be decoded,
    iterators raise TensorFlow's error with the text of an `ImageError`. No Python runs before that,
    so that other processes can run the dataset, too.
    """
    # Not batches of batches: those would be copied, which takes a tenth of all time.
    decoded = _Decoded(chunks, elements, batch_size, errors, drop_remainder=drop_remainder)
    return _selected(OwnThreadsDataset(decoded), elements)


def _selected(batches: tf.data.Dataset[Any], elements: Elements) -> tf.data.Dataset[Any]:
    """Return the parts that a model takes of batches, if `_Decoded` did not."""
    if not _has_ragged(elements):
        return batches
    return map_plainly(
        batches, lambda batch: elements.select(ragged_from_bytes(elements.features, batch))
    )


def _has_ragged(elements: Elements) -> bool:
    return any(isinstance(elements.features[name], Ragged) for name in elements.wanted)


class _Decoded(InterleaveDataset):
    """The batches of each chunk; with ragged features, dicts of `row_arrays`."""

    def __init__(
        self,
        chunks: tf.data.Dataset[Any],
        elements: Elements,
        batch_size: int,
        errors: ImageErrors,
        *,
        drop_remainder: bool,
    ) -> None:
        # TensorFlow finds the functions that name an image only for as long as this keeps them.
        self._errors = errors
        # RaggedTensors are made at the end, as the raw operations take dense tensors only.
        select = dict if _has_ragged(elements) else elements.select
        decoder = _Decoder(elements, batch_size, select, errors, drop_remainder)
        super().__init__(chunks, decoder.decode_chunk)


@dataclass(frozen=True)
class _Decoder:
    """Decodes the images of chunks, and checks that no sample was dropped."""

    elements: Elements
    batch_size: int
    select: Callable[[dict[str, Any]], Any]
    """Makes an element of the columns of a batch."""
    errors: ImageErrors
    drop_remainder: bool

    def decode_chunk(self, chunk: Any) -> tf.data.Dataset[Any]:
        """Return batches of the samples in a chunk."""
        positions, _ = chunk
        samples = tf.data.Dataset.from_tensor_slices(chunk)
        decoded = MapDataset(samples, self._decode, DECODERS).ignore_errors()
        batches = self._batched(decoded).ignore_errors()
        # From the positions alone: the samples would be sliced twice.
        expected = self._batched(tf.data.Dataset.from_tensor_slices(positions))
        pairs = TakeWhileDataset(tf.data.Dataset.zip(expected, batches), _is_complete)
        # One call: batches need no more work, and parallel ones would hold more images in memory.
        complete = MapDataset(pairs, lambda pair: self.select(pair[1][1]), 1)
        failure = self.errors.failing(positions, decoded, complete.element_spec)
        # Without the `take`, an intact chunk would fail after its last batch.
        count = -(-tf.size(positions, tf.int64) // self.batch_size)
        return complete.concatenate(failure).take(count)

    def _batched(self, samples: tf.data.Dataset[Any]) -> tf.data.Dataset[Any]:
        return samples.batch(self.batch_size, drop_remainder=self.drop_remainder)

    def _decode(self, sample: Any) -> Any:
        position, columns = sample
        return position, self.elements.decode_images(columns)


def _is_complete(pair: Any) -> Any:
    """Return whether a batch has the samples that are expected."""
    expected, (decoded, _) = pair
    # The last batch of a chunk is shorter than that which takes its place, or longer.
    count = tf.minimum(tf.size(expected), tf.size(decoded))
    same = tf.equal(tf.size(expected), tf.size(decoded))
    return same & tf.reduce_all(tf.equal(expected[:count], decoded[:count]))
