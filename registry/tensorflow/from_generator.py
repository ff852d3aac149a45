"""What Python generators yield, as a dataset."""

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

from registry.tensorflow.raw_datasets import FlatMapped, flat, graph_function

KEPT_BYTES = 32 << 20
"""Bytes at a heap's end that the process keeps though they are free."""
_M_TRIM_THRESHOLD = -1


class Generated(FlatMapped):
    """Elements of a generator, a new one for each iterator.

    As ``tf.data.Dataset.from_generator(make, output_signature=spec)``, which starts several times
    as long, for dense arrays only. ``make`` yields arrays in the structure of ``spec``.
    """

    def __init__(self, make: Callable[[], Iterator[Any]], spec: Any) -> None:
        _keep_freed()
        specs = tf.nest.flatten(spec)
        types = [each.dtype for each in specs]
        running: dict[int, Iterator[Any]] = {}
        numbers = itertools.count()

        def begin() -> np.int64:
            number = next(numbers)
            running[number] = make()
            return np.int64(number)

        def proceed(number: np.int64) -> list[Any]:
            return list(tf.nest.flatten(next(running[int(number)])))

        def end(number: np.int64) -> np.int64:
            del running[int(number)]
            return number

        def shaped(number: Any) -> list[Any]:
            found = tf.numpy_function(proceed, [number], types)
            for each, known in zip(found, specs, strict=True):
                each.set_shape(known.shape)
            return list(found)

        handle = tf.TensorSpec((), tf.int64)
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

        # Within a function, or TensorFlow could not write the whole down as a graph, which it
        # does to optimize it.
        super().__init__(tf.data.Dataset.range(1), generate, spec)


@cache
def _keep_freed() -> None:
    """Have the next chunk of samples take the memory of the last.

    The GNU C library would give it back, and take it anew page fault by page fault, which costs a
    tenth of all time with images: by default once 128 KiB are free. It learns to keep more from
    what is freed, but not since TensorFlow made a generator (`ApplyPython311MemoryPatch` in
    https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/kernels/data/generator_dataset_op.cc).
    """
    if sys.platform == "linux" and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        if set_option is not None:
            set_option(_M_TRIM_THRESHOLD, KEPT_BYTES)
