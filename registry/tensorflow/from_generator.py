"""Datasets of the elements that Python generators yield.

How it works: TensorFlow's operation `GeneratorDataset` calls three functions, to start an iterator,
for each of its elements, and to finish it. Here each of them calls Python. A graph holds tensors
only, so `_Generators` keeps the generators, and the graph holds their numbers. Each generator runs
on a separate thread (`generator_thread`).

Why: `tf.data.Dataset.from_generator` does the same, but checks and converts every element in
Python, and does not keep its functions on one device (`raw_datasets.LOCAL`). With it, the first
batch of a `StreamDataset` takes 48 ms instead of 30, on two cores: "StreamDataset: first batch" of
``python -m benchmarks --only large``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from registry.tensorflow import generator_shutdown
from registry.tensorflow.freed_memory import keep_freed_memory
from registry.tensorflow.generator_thread import GeneratorThread
from registry.tensorflow.raw_datasets import FlatMapDataset, graph_function, type_attributes


class GeneratorDataset(FlatMapDataset):
    """The elements of a generator; each iterator gets a new one from ``make``.

    Does what ``tf.data.Dataset.from_generator(make, output_signature=spec)`` does, for dense
    arrays only. The generator yields arrays in the structure of ``spec``. While one takes longer
    than `CANCEL_INTERVAL`, the dataset has elements equal to ``empty``, each after that time.
    """

    def __init__(self, make: Callable[[], Iterator[Any]], spec: Any, empty: Any) -> None:
        generators = _Generators(make, empty)
        specs = tf.nest.flatten(spec)
        dtypes = [component.dtype for component in specs]

        def take(number: Any) -> list[Any]:
            components = tf.numpy_function(generators.take, [number], dtypes)
            # Python's results have no shape in the graph until they are given one.
            for component, component_spec in zip(components, specs, strict=True):
                component.set_shape(component_spec.shape)
            return list(components)

        number_spec = tf.TensorSpec((), tf.int64)
        # Kept for as long as the dataset: TensorFlow knows a Python function by a token, which
        # dies with the graph that holds it.
        self._functions_ = (
            graph_function(lambda: tf.numpy_function(generators.start, [], tf.int64)),
            graph_function(take, number_spec),
            graph_function(
                lambda number: tf.numpy_function(generators.finish, [number], tf.int64),
                number_spec,
            ),
        )
        init, take_next, finalize = self._functions_

        def generate(number: Any) -> Any:  # noqa: ARG001  # names a node
            return tf.raw_ops.GeneratorDataset(
                init_func_other_args=[],
                next_func_other_args=[],
                finalize_func_other_args=[],
                init_func=init,
                next_func=take_next,
                finalize_func=finalize,
                **type_attributes(spec),
            )

        # The generator dataset is made within a function. Otherwise TensorFlow could not serialize
        # the whole dataset as a graph, which it does to optimize it.
        super().__init__(tf.data.Dataset.range(1), generate, spec)


class _Generators:
    """The generators of a dataset's iterators, by number."""

    def __init__(self, make: Callable[[], Iterator[Any]], empty: Any) -> None:
        self._make = make
        self._empty = empty
        self._numbers = itertools.count()
        self._running: dict[int, GeneratorThread] = {}

    def start(self) -> np.int64:
        # Now, because the operation of the dataset has changed the settings.
        keep_freed_memory()
        number = next(self._numbers)
        self._running[number] = GeneratorThread(self._make())
        return np.int64(number)

    def take(self, number: np.int64) -> list[Any]:
        """Return the components of the generator's next element, or of an empty one."""
        with generator_shutdown.running_call():
            if generator_shutdown.has_begun():
                # `tf.numpy_function` reports StopIteration as an error that ends the dataset.
                raise StopIteration
            element = self._running[int(number)].take()
            return list(tf.nest.flatten(self._empty if element is None else element))

    def finish(self, number: np.int64) -> np.int64:
        # Otherwise the generator and what it has open would live as long as the dataset.
        self._running.pop(int(number)).close()
        return number
