"""Datasets that are made by TensorFlow's raw operations.

Most do what a method of `tf.data.Dataset` does, and are here for the time that the method adds to
the first batch: ``python -m benchmarks --only first-batch``. On two cores it rose from 47 to 77 ms
with `map` in place of `MapDataset`, and from 111 to 211 ms with `interleave` in place of
`InterleaveDataset` (JPEG files, at an equal rate in ``--only train-photos``). Others do what no
method does. The price is that raw operations may change with TensorFlow.

`DefinedDataset` runs several operations as one function. Alone, the first use of each takes
milliseconds. Where a method costs nothing, the public methods are used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from registry.tensorflow.constants import int64
from registry.tensorflow.graph_definition import Function, Symbol, define, evaluate, operation

LOCAL = {"experimental_ints_on_device": True}
"""Attributes that keep a function on the device of its iterator.

Without them, TensorFlow partitions the function over devices, and first optimizes its graph, again
for each iterator. That takes half of the time until the first batch.
https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/data/captured_function.cc
"""

OWN_THREADS = {"use_unbounded_threadpool": True}
"""Attributes with which a function that takes long runs on threads of the dataset's own.

Without them it runs on the threads that also run the training step, of which there are as many as
cores. A call for each core then leaves none, and the step waits until a chunk is ready.
"""
ONE_PER_CORE = 0
"""The number of threads that stands for as many as the host that runs the dataset has cores."""


class RawDataset(tf.data.Dataset[Any]):  # type: ignore[misc]  # TensorFlow ships no types
    """A dataset that an operation makes; ``variant`` is the operation's output."""

    def __init__(self, variant: Any, spec: Any, *inputs: tf.data.Dataset[Any]) -> None:
        # Without these references, the functions of the input datasets would be deleted while the
        # operations that call them still exist.
        self._input_datasets = list(inputs)
        self._spec = spec
        super().__init__(variant)

    def _inputs(self) -> list[tf.data.Dataset[Any]]:
        return self._input_datasets

    @property
    def element_spec(self) -> Any:
        """The dtypes and shapes of an element."""
        return self._spec


class DefinedDataset(RawDataset):
    """A dataset that a function of symbols makes, given those of its inputs' variants.

    Without inputs, the function is given a constant.
    """

    def __init__(
        self, make: Callable[..., Symbol], spec: Any, *inputs: tf.data.Dataset[Any]
    ) -> None:
        # An attribute, so that the functions live for as long as the operations that call them.
        self._made_by = define("dataset", lambda *each: [make(*each)], [tf.variant] * len(inputs))
        variants = [each._variant_tensor for each in inputs]  # noqa: SLF001  # as tf.data's own
        super().__init__(evaluate(self._made_by, *variants), spec, *inputs)


class OwnThreadsDataset(DefinedDataset):
    """The elements of ``inputs``, which threads make that nothing else runs on (`OWN_THREADS`).

    Each operation takes a single one of them. To divide an operation among several, too, takes a
    sixth of all time with images. Iterators cannot be saved symbolically.
    """

    def __init__(self, inputs: tf.data.Dataset[Any], threads: int = ONE_PER_CORE) -> None:
        types = type_attributes(inputs.element_spec)

        def made(dataset: Symbol) -> Symbol:
            undivided = dataset.then("MaxIntraOpParallelismDataset", 1, **types)
            own: Symbol = undivided.then("PrivateThreadPoolDataset", threads, **types)
            return own

        super().__init__(made, inputs.element_spec, inputs)


class MapDataset(RawDataset):
    """A function of graph operations applied to each element, in parallel and in order.

    As ``inputs.map(function, calls)``, which does not keep its function on one device (`LOCAL`).
    """

    def __init__(
        self,
        inputs: tf.data.Dataset[Any],
        function: Callable[[Any], Any],
        calls: int = tf.data.AUTOTUNE,
    ) -> None:
        # An attribute, so that the function lives for as long as the operation that refers to it.
        self._function = graph_function(function, inputs.element_spec)
        spec = tf.nest.map_structure(
            lambda output: tf.TensorSpec(output.shape, output.dtype),
            self._function.structured_outputs,
        )
        variant = tf.raw_ops.ParallelMapDatasetV2(
            input_dataset=inputs._variant_tensor,  # noqa: SLF001  # as tf.data's own datasets
            # Without the captured inputs, a function that closes over a tensor or a variable would
            # be called with too few arguments.
            other_arguments=self._function.captured_inputs,
            num_parallel_calls=int64(calls),
            f=self._function,
            # Otherwise `EpochDataset` would have no known cardinality.
            preserve_cardinality=True,
            **type_attributes(spec),
        )
        super().__init__(variant, spec, inputs)


class FlatMapDataset(DefinedDataset):
    """The elements of the datasets that a function of graph operations makes, one after another.

    As ``inputs.flat_map(function)``, which does not keep its function on one device (`LOCAL`).
    Here ``function`` returns the variant of a dataset, whose elements have the structure of
    ``spec``. It can be defined already, with the attributes `LOCAL`.
    """

    def __init__(
        self, inputs: tf.data.Dataset[Any], function: Callable[[Any], Any] | Function, spec: Any
    ) -> None:
        if not isinstance(function, Function):
            function = graph_function(function, inputs.element_spec)
        types = type_attributes(spec)
        super().__init__(
            lambda dataset: dataset.then("FlatMapDataset", [], f=function, **types), spec, inputs
        )


class TakeWhileDataset(RawDataset):
    """The elements before the first for which a function of graph operations returns False.

    As ``inputs.take_while(predicate)``, which does not keep its function on one device (`LOCAL`).
    """

    def __init__(self, inputs: tf.data.Dataset[Any], predicate: Callable[[Any], Any]) -> None:
        self._function = graph_function(predicate, inputs.element_spec)
        variant = tf.raw_ops.TakeWhileDataset(
            input_dataset=inputs._variant_tensor,  # noqa: SLF001  # as tf.data's own datasets
            other_arguments=[],
            predicate=self._function,
            **type_attributes(inputs.element_spec),
        )
        super().__init__(variant, inputs.element_spec, inputs)


class InterleaveDataset(RawDataset):
    """The elements of the datasets that a function of graph operations makes, one after another.

    As ``inputs.flat_map(function)``, but the next dataset starts before the present one ends, so
    that its first element is ready by then. ``inputs.interleave(function, …)`` can do that, too,
    but has no parameters for its buffers, which may then hold all images of a chunk.
    """

    def __init__(
        self, inputs: tf.data.Dataset[Any], function: Callable[[Any], tf.data.Dataset[Any]]
    ) -> None:
        specs: list[Any] = []

        # Only the variant can leave a traced function, so the spec is put aside while it is traced.
        def make_variant(element: Any) -> Any:
            dataset = function(element)
            specs.append(dataset.element_spec)
            return dataset._variant_tensor  # noqa: SLF001  # as tf.data's own datasets

        self._function = graph_function(make_variant, inputs.element_spec)
        (spec,) = specs
        variant = tf.raw_ops.ParallelInterleaveDatasetV4(
            input_dataset=inputs._variant_tensor,  # noqa: SLF001  # as tf.data's own datasets
            other_arguments=[],
            # The present dataset and the next one.
            cycle_length=int64(2),
            # Never go to the other dataset before this one ends: that keeps the order.
            block_length=int64(tf.int64.max),
            buffer_output_elements=int64(1),
            # Each prefetched input is a whole chunk in memory.
            prefetch_input_elements=int64(0),
            num_parallel_calls=int64(2),
            f=self._function,
            # "default" would follow the user's options, which may allow another order.
            deterministic="true",
            **type_attributes(spec),
        )
        super().__init__(variant, spec, inputs)


class CountedDataset(DefinedDataset):
    """A dataset of unknown cardinality that has ``count`` elements; the cardinality is ``count``.

    Unlike after `tf.data.experimental.assert_cardinality`, an iterator may end earlier: one of a
    worker of tf.data service does, where the dataset is divided among several.
    """

    def __init__(self, inputs: tf.data.Dataset[Any], count: int) -> None:
        types, numbers = type_attributes(inputs.element_spec), NUMBERS

        def counted(dataset: Symbol) -> Symbol:
            # TensorFlow knows the cardinality of what is taken of an endless dataset, and
            # interleaved datasets are endless if one of them is. An empty one of unknown
            # cardinality counts as endless when it is repeated. No element is taken from it, as the
            # selector is always zero.
            empty = dataset.then("TakeDataset", 0, **types).then("RepeatDataset", -1, **types)
            zero = dataset.constant(0, tf.int64)
            one = operation("TensorDataset", [zero], output_shapes=numbers["output_shapes"])
            zeros = one.then("RepeatDataset", -1, **numbers)
            interleaved = zeros.then(
                "DirectedInterleaveDataset",
                [dataset, empty],
                stop_on_empty_dataset=True,
                **types,
            )
            taken: Symbol = interleaved.then("TakeDataset", count, **types)
            return taken

        super().__init__(counted, inputs.element_spec, inputs)


def map_plainly(
    dataset: tf.data.Dataset[Any], function: Callable[[Any], Any]
) -> tf.data.Dataset[Any]:
    """Map by a function of graph operations, without AutoGraph, which would only cost time."""
    return dataset.map(tf.autograph.experimental.do_not_convert(function))


def graph_function(function: Callable[..., Any], *spec: Any) -> Any:
    """Trace a function of graph operations, to run on the device of the iterator (`LOCAL`)."""
    return tf.function(
        function, autograph=False, input_signature=spec, experimental_attributes=LOCAL
    ).get_concrete_function()


def type_attributes(spec: Any) -> dict[str, Any]:
    """Return the attributes that describe a dataset's elements to its operation."""
    # A RaggedTensor is a single variant in a dataset.
    components = [
        tf.TensorSpec((), tf.variant) if isinstance(each, tf.RaggedTensorSpec) else each
        for each in tf.nest.flatten(spec)
    ]
    return {
        "output_types": [component.dtype for component in components],
        "output_shapes": [component.shape for component in components],
    }


NUMBERS = type_attributes(tf.TensorSpec((), tf.int64))
"""The attributes of a dataset of int64 numbers."""
