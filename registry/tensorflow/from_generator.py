"""Datasets of the elements that Python generators yield."""

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

from registry.tensorflow import process_exit
from registry.tensorflow.raw_datasets import FlatMapped, flat, graph_function

KEPT_BYTES = 32 << 20
"""Free bytes at the end of the heap that the process keeps."""
_M_TRIM_THRESHOLD = -1


class Generated(FlatMapped):
    """The elements of a generator; each iterator gets a new one from ``make``.

    Does what ``tf.data.Dataset.from_generator(make, output_signature=spec)`` does, for dense
    arrays only, and starts in a fraction of the time. The generator yields arrays in the structure
    of ``spec``. TensorFlow's threads run it, one call at a time.
    """

    def __init__(self, make: Callable[[], Iterator[Any]], spec: Any) -> None:
        _keep_freed()
        specs = tf.nest.flatten(spec)
        types = [each.dtype for each in specs]
        # Graphs hold numbers only, so the generators are kept here until `end` is called.
        running: dict[int, Iterator[Any]] = {}
        numbers = itertools.count()

        def begin() -> np.int64:
            number = next(numbers)
            running[number] = make()
            return np.int64(number)

        def proceed(number: np.int64) -> list[Any]:
            # `tf.numpy_function` reports StopIteration as an error that ends the dataset.
            with process_exit.generator_call():
                if process_exit.is_near():
                    raise StopIteration
                return list(tf.nest.flatten(next(running[int(number)])))

        def end(number: np.int64) -> np.int64:
            del running[int(number)]
            return number

        def shaped(number: Any) -> list[Any]:
            found = tf.numpy_function(proceed, [number], types)
            # Python's results have no shape in the graph until they are given one.
            for each, known in zip(found, specs, strict=True):
                each.set_shape(known.shape)
            return list(found)

        handle = tf.TensorSpec((), tf.int64)
        # Kept for as long as the dataset: TensorFlow knows a Python function by a token, which
        # dies with the graph that holds it.
        self._functions_ = [
            graph_function(lambda: tf.numpy_function(begin, [], tf.int64)),
            graph_function(shaped, handle),
            graph_function(lambda number: tf.numpy_function(end, [number], tf.int64), handle),
        ]
        start, follow, finish = self._functions_

        def generate(number: Any) -> Any:  # noqa: ARG001  # names a node
            return tf.raw_ops.GeneratorDataset(
                init_func_other_args=[],
                next_func_other_args=[],
                finalize_func_other_args=[],
                init_func=start,
                next_func=follow,
                finalize_func=finish,
                **flat(spec),
            )

        # The generator dataset is made within a function. Otherwise TensorFlow could not serialize
        # the whole dataset as a graph, which it does to optimize it.
        super().__init__(tf.data.Dataset.range(1), generate, spec)


@cache
def _keep_freed() -> None:
    """Have the C library keep freed memory, so that the next chunk of samples reuses it.

    By default the GNU C library returns free memory at the end of the heap once it is 128 KiB. The
    next chunk then costs a page fault for each page, a tenth of all time with images. The library
    normally raises this threshold by what is freed, but TensorFlow switches that off when it
    makes a generator dataset (`ApplyPython311MemoryPatch` in
    https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/kernels/data/generator_dataset_op.cc).
    The setting holds for the whole process. ``MALLOC_TRIM_THRESHOLD_`` in the environment wins.
    """
    if sys.platform == "linux" and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        if set_option is not None:
            set_option(_M_TRIM_THRESHOLD, KEPT_BYTES)
