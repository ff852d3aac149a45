"""Datasets of dense tensors made by raw operations.

They do what methods of `tf.data.Dataset` do, in a fraction of the time that those take to start.
The price is that elements are dense tensors only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

HERE = {"experimental_ints_on_device": True}
"""Attributes that keep a function on the device of its iterator.

Without them, TensorFlow partitions the function over devices, and first optimizes its graph, again
for each iterator. That takes half of the time until the first batch.
https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/data/captured_function.cc
"""


class Made(tf.data.Dataset):  # type: ignore[misc]  # TensorFlow ships no types
    """A dataset of dense tensors that an operation makes; ``variant`` is the operation's output."""

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
    """A function of graph operations applied to each element, in parallel and in order.

    As ``inputs.map(function, calls)``, but only for functions from and to dense tensors.
    """

    def __init__(
        self,
        inputs: tf.data.Dataset,
        function: Callable[[Any], Any],
        calls: int = tf.data.AUTOTUNE,
    ) -> None:
        # An attribute, so that the function lives for as long as the operation that refers to it.
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
    """The elements of the datasets that a function of graph operations makes, one after another.

    As ``inputs.flat_map(function)``, but only for datasets of dense tensors. ``function`` returns
    the variant of a dataset whose elements have the structure of ``spec``.
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


class Interleaved(Made):
    """The elements of the datasets that a function of graph operations makes, one after another.

    As `FlatMapped`, but ``function`` returns a dataset, and the next dataset starts before the
    present one ends, so that its first element is ready by then.
    """

    def __init__(self, inputs: tf.data.Dataset, function: Callable[[Any], tf.data.Dataset]) -> None:
        specs: list[Any] = []

        # Only the variant can leave a traced function, so the spec is put aside while it is traced.
        def make(element: Any) -> Any:
            made = function(element)
            specs.append(made.element_spec)
            return made._variant_tensor  # noqa: SLF001  # as tf.data's own datasets

        self._function = graph_function(make, inputs.element_spec)
        (spec,) = specs
        variant = tf.raw_ops.ParallelInterleaveDatasetV4(
            input_dataset=inputs._variant_tensor,  # noqa: SLF001  # as tf.data's own datasets
            other_arguments=[],
            cycle_length=tf.constant(2, tf.int64),
            # Never go to the other dataset before this one ends: that keeps the order.
            block_length=tf.constant(tf.int64.max, tf.int64),
            buffer_output_elements=tf.constant(1, tf.int64),
            prefetch_input_elements=tf.constant(0, tf.int64),
            num_parallel_calls=tf.constant(2, tf.int64),
            f=self._function,
            deterministic="true",
            **flat(spec),
        )
        super().__init__(variant, spec, inputs)


class Slices(Made):
    """The rows of a chunk, one by one.

    As ``tf.data.Dataset.from_tensor_slices(chunk)``, but strings are not copied. They stay in the
    chunk's memory, which is freed after the last of them.
    """

    def __init__(self, chunk: Any) -> None:
        spec = tf.nest.map_structure(lambda each: tf.TensorSpec(each.shape[1:], each.dtype), chunk)
        variant = tf.raw_ops.TensorSliceDataset(
            components=tf.nest.flatten(chunk), output_shapes=flat(spec)["output_shapes"]
        )
        super().__init__(variant, spec)


class Rebatched(Made):
    """Batches of the rows of ``chunks``, which have any number of rows, also none.

    As ``chunks.rebatch(batch_size, drop_remainder)``, but only for dense tensors.
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


def map_as_is(dataset: tf.data.Dataset, function: Callable[[Any], Any]) -> tf.data.Dataset:
    """Map by a function of graph operations, without AutoGraph, which would only cost time."""
    return dataset.map(tf.autograph.experimental.do_not_convert(function))


def graph_function(function: Callable[..., Any], *spec: Any) -> Any:
    """Trace a function of graph operations, to run on the device of the iterator (`HERE`)."""
    return tf.function(
        function, autograph=False, input_signature=spec, experimental_attributes=HERE
    ).get_concrete_function()


def flat(spec: Any) -> dict[str, Any]:
    """Return the attributes that describe a dataset's elements to its operation."""
    specs = tf.nest.flatten(spec)
    return {
        "output_types": [each.dtype for each in specs],
        "output_shapes": [each.shape for each in specs],
    }
