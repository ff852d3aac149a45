"""Chunks of samples by a graph function, cut into batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

_HERE = {"experimental_ints_on_device": True}
"""Has a function run where its iterator is, not be spread over devices.

That would take TensorFlow half of the time until the first batch: it optimizes a function's graph
before it spreads it, for each iterator again.
https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/data/captured_function.cc
"""


class Batches(tf.data.Dataset):  # type: ignore[misc]  # TensorFlow ships no types
    """Batches of the chunks that a function of graph operations makes of single tensors.

    As ``inputs.map(function, tf.data.AUTOTUNE).rebatch(batch_size, drop_remainder)``, for dense
    tensors only and without what that does for all others.
    """

    def __init__(
        self,
        inputs: tf.data.Dataset,
        function: Callable[[Any], Any],
        batch_size: int,
        *,
        drop_remainder: bool,
    ) -> None:
        self._inputs_ = [inputs]
        self._function = tf.function(
            function,
            autograph=False,
            input_signature=[inputs.element_spec],
            experimental_attributes=_HERE,
        ).get_concrete_function()
        made = self._function.structured_outputs
        rows = batch_size if drop_remainder else None
        self._spec = tf.nest.map_structure(
            lambda each: tf.TensorSpec([rows, *each.shape[1:]], each.dtype), made
        )
        types = [each.dtype for each in tf.nest.flatten(made)]
        chunks = tf.raw_ops.ParallelMapDatasetV2(
            input_dataset=inputs._variant_tensor,  # noqa: SLF001  # as tf.data's own datasets
            other_arguments=self._function.captured_inputs,
            num_parallel_calls=tf.constant(tf.data.AUTOTUNE, tf.int64),
            f=self._function,
            output_types=types,
            output_shapes=[each.shape for each in tf.nest.flatten(made)],
            preserve_cardinality=True,
        )
        batches = tf.raw_ops.RebatchDatasetV2(
            input_dataset=chunks,
            batch_sizes=tf.constant(batch_size, tf.int64),
            drop_remainder=drop_remainder,
            output_types=types,
            output_shapes=[each.shape for each in tf.nest.flatten(self._spec)],
        )
        super().__init__(batches)

    def _inputs(self) -> list[tf.data.Dataset]:
        return self._inputs_

    @property
    def element_spec(self) -> Any:
        """The dtypes and shapes of a batch."""
        return self._spec
