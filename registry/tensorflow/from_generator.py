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
HEAP_BYTES = 8 << 20
"""Bytes from which on an array gets its own memory, which is returned once it is free."""
_KEPT = (
    (-1, "MALLOC_TRIM_THRESHOLD_", KEPT_BYTES),
    (-3, "MALLOC_MMAP_THRESHOLD_", HEAP_BYTES),
)
"""Options of ``mallopt`` by their numbers in glibc's ``malloc.h``, and variables that set them."""


class GeneratorDataset(FlatMapDataset):
    """The elements of a generator; each iterator gets a new one from ``make``.

    Does what ``tf.data.Dataset.from_generator(make, output_signature=spec)`` does, for dense
    arrays only. The generator yields arrays in the structure of ``spec``. TensorFlow's threads run
    it, one call at a time.
    """

    def __init__(self, make: Callable[[], Iterator[Any]], spec: Any) -> None:
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
        _keep_freed_memory()
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


def _keep_freed_memory() -> None:
    """Have the C library keep freed memory, so that the next chunk of samples reuses it.

    By default the GNU C library maps memory for each array of 128 KiB or more, and returns free
    memory at the end of the heap once it is 128 KiB. The next chunk then costs a page fault for
    each page: half of all time with texts (``python -m benchmarks --only train-texts``), a tenth
    with images (``train-photos``). The library normally raises both thresholds by what is freed.
    But TensorFlow sets the first one to 128 KiB whenever it makes the operation of a generator
    dataset (`ApplyPython311MemoryPatch` in
    https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/kernels/data/generator_dataset_op.cc),
    which switches that off. So this is called at the start of each iterator, after that.

    The settings hold for the whole process. ``MALLOC_MMAP_THRESHOLD_`` and
    ``MALLOC_TRIM_THRESHOLD_`` in the environment win.
    """
    for option, variable, size in _KEPT:
        if variable not in os.environ and _mallopt() is not None:
            _mallopt()(option, size)


@cache
def _mallopt() -> Any:
    """Return the function that sets an option of ``malloc``; None if there is none."""
    # Other C libraries have none, and the options are those of the GNU C library.
    return getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
