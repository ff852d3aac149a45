"""Cutting chunks of samples into batches.

A dataset of slices of each chunk, one after another, takes the least time per batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from registry.tensorflow.graph_definition import define, operation
from registry.tensorflow.raw_datasets import LOCAL, FlatMapDataset, type_attributes


class BatchDataset(FlatMapDataset):
    """The batches of chunks, each of which is whole batches, or one batch that is shorter.

    Chunks are dicts of columns. That of a ragged feature is a pair: its items, one row after
    another, and the int64 number of them in each row. ``select`` makes an element of a dict, in
    which RaggedTensors take the place of the pairs. With ``drop_remainder`` there is no shorter
    batch.
    """

    def __init__(
        self,
        chunks: tf.data.Dataset[Any],
        select: Callable[[Any], Any],
        batch_size: int,
        *,
        drop_remainder: bool,
    ) -> None:
        rows = batch_size if drop_remainder else None
        specs = chunks.element_spec
        spec = select({name: _batch_spec(column, rows) for name, column in specs.items()})

        def batches(chunk: Any) -> Any:
            first = next(iter(chunk.values()))
            size = _size_of_batches(first[1] if isinstance(first, tuple) else first, batch_size)
            batched = {name: _batched(chunk[name], size, specs[name]) for name in chunk}
            return operation(
                "TensorSliceDataset",
                tf.nest.flatten(select(batched)),
                output_shapes=type_attributes(spec)["output_shapes"],
            )

        if any(isinstance(column, tuple) for column in specs.values()):
            super().__init__(chunks, batches, spec)
            return
        dtypes = [column.dtype for column in tf.nest.flatten(specs)]
        defined = define(
            "batches",
            lambda *columns: [batches(tf.nest.pack_sequence_as(specs, columns))],
            dtypes,
            LOCAL,
        )
        super().__init__(chunks, defined, spec)


def _batch_spec(column: Any, rows: int | None) -> Any:
    """Return the spec of a batch, given that of a column of a chunk."""
    if isinstance(column, tuple):
        items, _ = column
        return tf.RaggedTensorSpec([rows, None, *items.shape[1:]], items.dtype, 1, tf.int64)
    return tf.TensorSpec([rows, *column.shape[1:]], column.dtype)


def _size_of_batches(column: Any, batch_size: int) -> Any:
    """Return how many rows each batch of a chunk has, given a column of the chunk."""
    shape = operation("Shape", column, out_type=tf.int64)
    one = np.array([1], np.int32)
    count = operation("StridedSlice", shape, one - 1, one, one, shrink_axis_mask=1)
    size = operation("Minimum", count, np.int64(batch_size))
    # Without samples there is no batch, but its size must still be that of the spec.
    none = operation("Equal", count, np.int64(0))
    return operation("SelectV2", none, np.int64(batch_size), size)


def _batched(column: Any, size: Any, spec: Any) -> Any:
    """Return a column of a chunk with a new first dimension: a batch of ``size`` rows per item."""
    if isinstance(column, tuple):
        # The numbers are right by construction, and validation would add assertions.
        ragged = tf.RaggedTensor.from_row_lengths(*column, validate=False)
        nested = tf.RaggedTensor.from_uniform_row_length(ragged, size, validate=False)
        # As RaggedTensors are in the elements of a dataset: a variant per batch.
        return nested._to_variant(batched_input=True)  # noqa: SLF001  # as tf.data's own
    others = list(spec.shape[1:])
    # The vector of -1, the size and the other lengths.
    second = operation("Mul", size, np.array([0, 1, *[0] * len(others)], np.int64))
    shape = operation("AddV2", second, np.array([-1, 0, *others], np.int64))
    return operation("Reshape", column, shape)
