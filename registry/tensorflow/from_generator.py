"""Datasets of the elements that Python generators yield.

How it works: TensorFlow's operation `GeneratorDataset` calls three functions, to start an iterator,
for each of its elements, and to finish it. Here each of them calls Python. A graph holds tensors
only, so `_Generators` keeps the generators, and the graph holds their numbers.

Why: `tf.data.Dataset.from_generator` does the same, but checks and converts every element in
Python, and does not keep its functions on one device (`raw_datasets.LOCAL`). With it, the first
batch of a `StreamDataset` takes 48 ms instead of 30, on two cores: "StreamDataset: first batch" of
``python -m benchmarks --only large``.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf

from registry.tensorflow import generator_shutdown
from registry.tensorflow.raw_datasets import FlatMapDataset, graph_function, type_attributes

KEPT_BYTES = 32 << 20
"""Free bytes at the end of the heap that the process keeps."""
_M_TRIM_THRESHOLD = -1
"""The number of this option of ``mallopt`` in glibc's ``malloc.h``."""


class GeneratorDataset(FlatMapDataset):
    """The elements of a generator; each iterator gets a new one from ``make``.

    Does what ``tf.data.Dataset.from_generator(make, output_signature=spec)`` does, for dense
    arrays only. The generator yields arrays in the structure of ``spec``. TensorFlow's threads run
    it, one call at a time.
    """

    def __init__(self, make: Callable[[], Iterator[Any]], spec: Any) -> None:
        _keep_freed_memory()
        generators = _Generators(make)
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

    def __init__(self, make: Callable[[], Iterator[Any]]) -> None:
        self._make = make
        self._numbers = itertools.count()
        self._running: dict[int, Iterator[Any]] = {}

    def start(self) -> np.int64:
        number = next(self._numbers)
        self._running[number] = self._make()
        return np.int64(number)

    def take(self, number: np.int64) -> list[Any]:
        """Return the components of the generator's next element."""
        with generator_shutdown.running_call():
            if generator_shutdown.has_begun():
                # `tf.numpy_function` reports StopIteration as an error that ends the dataset.
                raise StopIteration
            return list(tf.nest.flatten(next(self._running[int(number)])))

    def finish(self, number: np.int64) -> np.int64:
        # Otherwise the generator and what it has open would live as long as the dataset.
        del self._running[int(number)]
        return number


@cache
def _keep_freed_memory() -> None:
    """Have the C library keep freed memory, so that the next chunk of samples reuses it.

    By default the GNU C library returns free memory at the end of the heap once it is 128 KiB. The
    next chunk then costs a page fault for each page, a tenth of all time with images
    (``python -m benchmarks --only train-photos``). The library normally raises this threshold by
    what is freed, but TensorFlow switches that off when it makes a generator dataset
    (`ApplyPython311MemoryPatch` in
    https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/kernels/data/generator_dataset_op.cc).
    The setting holds for the whole process. ``MALLOC_TRIM_THRESHOLD_`` in the environment wins.
    """
    if sys.platform == "linux" and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        if set_option is not None:
            set_option(_M_TRIM_THRESHOLD, KEPT_BYTES)
