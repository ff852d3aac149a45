"""Waiting, in a graph, for files that another process of the host makes.

A worker of tf.data service runs the graph of an epoch that a trainer on another host has just
pinned. `registry mirror --follow` makes the epoch's files there, perhaps a moment later.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from registry.errors import FeatureError
from registry.tensorflow.constants import int64
from registry.tensorflow.raw_datasets import graph_function, type_attributes

_PAUSE = 0.05
"""Seconds until the files are looked for again."""
_LONGEST = 1e7
"""Seconds that are waited at most: TensorFlow counts in 32 bits what it skips."""
_NUMBER = tf.TensorSpec((), tf.int64)
_NUMBERS = int | float | np.integer | np.floating
_MISSING = (
    "a file of the epoch is not on this host; run `registry mirror DATASET --follow` here, with "
    "the trainer's $REGISTRY_CACHE: "
)


def check_wait(seconds: Any) -> None:
    """Raise `FeatureError` unless these are seconds to wait: a number from 0 on, or infinity."""
    # "not >=" instead of "<" so that NaN is rejected, too.
    is_number = isinstance(seconds, _NUMBERS) and not isinstance(seconds, bool)
    if not is_number or not seconds >= 0:
        raise FeatureError(
            f"wait={reprlib.repr(seconds)} is no number of seconds from 0 on; give 60, for example"
        )


def when_there(
    block: Callable[[Any], Any], paths: Sequence[Path], spec: Any, seconds: float
) -> Callable[[Any], Any]:
    """Return a function that makes the dataset that ``block`` makes, but first waits for files.

    Both take a number and return the variant of a dataset, with elements of the structure ``spec``.
    After so many seconds the step fails with `InvalidArgumentError`, which names the remedy.
    """
    patterns = [_escaped(path) for path in paths]

    def waiting(number: Any) -> Any:
        def opened(_: Any) -> Any:
            all_there = tf.logical_not(_are_missing(patterns))
            check = tf.raw_ops.Assert(condition=all_there, data=[_MISSING, *map(str, paths)])
            with tf.control_dependencies([check]):
                return block(tf.identity(number))

        function = graph_function(opened, _NUMBER)
        return tf.raw_ops.FlatMapDataset(
            input_dataset=_once_there(patterns, math.ceil(min(seconds, _LONGEST) / _PAUSE)),
            other_arguments=function.captured_inputs,
            f=function,
            **type_attributes(spec),
        )

    return waiting


def _once_there(patterns: list[str], tries: int) -> Any:
    """Return the variant of a dataset of one number, which comes when the files are there.

    Or after so many tries.
    """
    numbers = type_attributes(_NUMBER)
    missing = tf.raw_ops.TakeWhileDataset(
        input_dataset=_range(tries),
        other_arguments=[],
        predicate=graph_function(lambda _: _are_missing(patterns), _NUMBER),
        **numbers,
    )
    pauses = tf.raw_ops.SleepDataset(
        input_dataset=missing, sleep_microseconds=int64(int(_PAUSE * 1e6)), **numbers
    )
    none = tf.raw_ops.SkipDataset(input_dataset=pauses, count=int64(tries), **numbers)
    return tf.raw_ops.ConcatenateDataset(input_dataset=none, another_dataset=_range(1), **numbers)


def _are_missing(patterns: list[str]) -> Any:
    names = tf.raw_ops.MatchingFiles(pattern=patterns)
    # Without this attribute, TensorFlow would look once, when it optimizes the graph (see
    # `gather`), and take what it finds for a constant.
    names.op._set_attr("_scoped_allocator", attr_value_pb2.AttrValue(list={}))  # noqa: SLF001
    return tf.less(tf.size(names), len(patterns))


def _escaped(path: Path) -> str:
    """Return the pattern that matches a path alone."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", str(path))


def _range(stop: int) -> Any:
    return tf.raw_ops.RangeDataset(
        start=int64(0), stop=int64(stop), step=int64(1), **type_attributes(_NUMBER)
    )
