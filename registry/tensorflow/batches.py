"""Graph functions over a dataset, and rows and batches cut of what they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

HERE = {"experimental_ints_on_device": True}
"""Has a function run where its iterator is, not be spread over devices.

That would take TensorFlow half of the time until the first batch: it optimizes a function's graph
before it spreads it, for each iterator again.
https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/data/captured_function.cc
"""


class Made(tf.data.Dataset):  # type: ignore[misc]  # TensorFlow ships no types
    """A dataset of dense tensors that an operation makes."""

    def __init__(self, variant: Any, spec: Any, *inputs: tf.data.Dataset) -> None:
        self._made_of = list(inputs)
        self._spec = spec
        super().__init__(variant)

    def _inputs(self) -> list[tf.data.Dataset]:
        return self._made_of

    @property
    def element_spec(self) -> Any:
        """The dtypes and shapes of an element."""
        return self._spec


class Mapped(Made):
    """What a function of graph operations makes of each element, in parallel and in order.

    As ``inputs.map(function, calls)``, but for functions of dense tensors alone.
    """

    def __init__(
        self,
        inputs: tf.data.Dataset,
        function: Callable[[Any], Any],
        calls: int = tf.data.AUTOTUNE,
    ) -> None:
        self._function = graph_function(function, inputs.element_spec)
        spec = tf.nest.map_structure(
            lambda each: tf.TensorSpec(each.shape, each.dtype), self._function.structured_outputs
        )
        variant = tf.raw_ops.ParallelMapDatasetV2(
            input_dataset=inputs._variant_tensor,  # noqa: SLF001  # as tf.data's own datasets
            other_arguments=self._function.captured_inputs,
            num_parallel_calls=tf.constant(calls, tf.int64),
            f=self._function,
            preserve_cardinality=True,
            **flat(spec),
        )
        super().__init__(variant, spec, inputs)


class FlatMapped(Made):
    """What lies in the datasets that a function of graph operations makes of each element.

    As ``inputs.flat_map(function)``, but for datasets of dense tensors alone: ``function`` returns
    the variant of one, whose elements are like ``spec``.
    """

    def __init__(self, inputs: tf.data.Dataset, function: Callable[[Any], Any], spec: Any) -> None:
        self._function = graph_function(function, inputs.element_spec)
        variant = tf.raw_ops.FlatMapDataset(
            input_dataset=inputs._variant_tensor,  # noqa: SLF001  # as tf.data's own datasets
            other_arguments=[],
            f=self._function,
            **flat(spec),
        )
        super().__init__(variant, spec, inputs)


class Rows(FlatMapped):
    """What lies in ``chunks`` one after another, one by one.

    As ``chunks.unbatch()``, but for dense tensors alone, and strings are not copied: they stay in
    their chunk's memory, which is kept until the last of them is gone.
    """

    def __init__(self, chunks: tf.data.Dataset) -> None:
        spec = tf.nest.map_structure(
            lambda each: tf.TensorSpec(each.shape[1:], each.dtype), chunks.element_spec
        )

        def rows(chunk: Any) -> Any:
            return tf.raw_ops.TensorSliceDataset(
                components=tf.nest.flatten(chunk), output_shapes=flat(spec)["output_shapes"]
            )

        super().__init__(chunks, rows, spec)


class Rebatched(Made):
    """Batches of what lies in ``chunks`` one after another.

    As ``chunks.rebatch(batch_size, drop_remainder)``, but for dense tensors alone.
    """

    def __init__(self, chunks: tf.data.Dataset, batch_size: int, *, drop_remainder: bool) -> None:
        rows = batch_size if drop_remainder else None
        spec = tf.nest.map_structure(
            lambda each: tf.TensorSpec([rows, *each.shape[1:]], each.dtype), chunks.element_spec
        )
        variant = tf.raw_ops.RebatchDatasetV2(
            input_dataset=chunks._variant_tensor,  # noqa: SLF001  # as tf.data's own datasets
            batch_sizes=tf.constant(batch_size, tf.int64),
            drop_remainder=drop_remainder,
            **flat(spec),
        )
        super().__init__(variant, spec, chunks)


def graph_function(function: Callable[..., Any], *spec: Any) -> Any:
    """Trace a function of graph operations that stays where the iterator is."""
    return tf.function(
        function, autograph=False, input_signature=spec, experimental_attributes=HERE
    ).get_concrete_function()


def flat(spec: Any) -> dict[str, Any]:
    """Return the attributes by which operations tell what a dataset's elements are."""
    specs = tf.nest.flatten(spec)
    return {
        "output_types": [each.dtype for each in specs],
        "output_shapes": [each.shape for each in specs],
    }
