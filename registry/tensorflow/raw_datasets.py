"""Datasets of dense tensors that operations make, without what tf.data's own take to start."""

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


class Interleaved(Made):
    """What lies in the datasets that a function of graph operations makes of each element.

    As `FlatMapped`, but the next element's dataset begins before this one ends: the first of what
    lies in it is ready by then. ``function`` returns a dataset.
    """

    def __init__(self, inputs: tf.data.Dataset, function: Callable[[Any], tf.data.Dataset]) -> None:
        specs: list[Any] = []

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
    """A chunk's rows, one by one.

    As ``tf.data.Dataset.from_tensor_slices(chunk)``, but strings are not copied: they stay in the
    chunk's memory, which is kept until the last of them is gone.
    """

    def __init__(self, chunk: Any) -> None:
        spec = tf.nest.map_structure(lambda each: tf.TensorSpec(each.shape[1:], each.dtype), chunk)
        variant = tf.raw_ops.TensorSliceDataset(
            components=tf.nest.flatten(chunk), output_shapes=flat(spec)["output_shapes"]
        )
        super().__init__(variant, spec)


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


def map_as_is(dataset: tf.data.Dataset, function: Callable[[Any], Any]) -> tf.data.Dataset:
    """Map by a function that is graph operations alone: AutoGraph only takes its time with it."""
    return dataset.map(tf.autograph.experimental.do_not_convert(function))


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
