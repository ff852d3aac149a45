"""Waiting, in a graph, for files that another process of the host makes.

A worker of tf.data service runs the graph of an epoch that a trainer on another host has just
pinned. `registry mirror --follow` makes the epoch's files there, perhaps a moment later.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from registry.errors import FeatureError
from registry.tensorflow.graph_definition import Function, Symbol, define
from registry.tensorflow.raw_datasets import LOCAL, NUMBERS, type_attributes

_PAUSE = 0.05
"""Seconds until the files are looked for again."""
_LONGEST = 1e7
"""Seconds that are waited at most: TensorFlow counts in 32 bits what it skips."""
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


def when_there(block: Function, paths: Sequence[Path], spec: Any, seconds: float) -> Function:
    """Return a function that makes the dataset that ``block`` makes, but first waits for files.

    Both take a number and return the variant of a dataset, with elements of the structure ``spec``.
    After so many seconds the step fails with `InvalidArgumentError`, which names the remedy.
    """
    patterns = [_escaped(path) for path in paths]
    tries = math.ceil(min(seconds, _LONGEST) / _PAUSE)

    def opened(_: Symbol, number: Symbol) -> list[Symbol]:
        text = [number.constant(part, tf.string) for part in (_MISSING, *map(str, paths))]
        check = _are_missing(number, patterns).then("LogicalNot").then("Assert", text)
        return number.call(block, after=check)

    def waiting(number: Symbol) -> list[Symbol]:
        function = define("opened", opened, [tf.int64, tf.int64], LOCAL)
        files = _once_there(number, patterns, tries)
        return [files.then("FlatMapDataset", [number], f=function, **type_attributes(spec))]

    return define("waiting", waiting, [tf.int64], LOCAL)


def _once_there(number: Symbol, patterns: list[str], tries: int) -> Symbol:
    """Return the variant of a dataset of one number, which comes when the files are there.

    Or after so many tries.
    """
    missing = define("missing", lambda each: [_are_missing(each, patterns)], [tf.int64], LOCAL)
    every = number.constant(0, tf.int64).then("RangeDataset", tries, 1, **NUMBERS)
    pauses = every.then("TakeWhileDataset", [], predicate=missing, **NUMBERS).then(
        "SleepDataset", int(_PAUSE * 1e6), **NUMBERS
    )
    none = pauses.then("SkipDataset", tries, **NUMBERS)
    one = number.constant(0, tf.int64).then("RangeDataset", 1, 1, **NUMBERS)
    there: Symbol = none.then("ConcatenateDataset", one, **NUMBERS)
    return there


def _are_missing(number: Symbol, patterns: list[str]) -> Symbol:
    # Without the last attribute, TensorFlow would look once, when it optimizes the graph (see
    # `gather`), and take what it finds for a constant.
    names = number.constant(patterns, tf.string).then(
        "MatchingFiles", _scoped_allocator=attr_value_pb2.AttrValue(list={})
    )
    missing: Symbol = names.then("Size", out_type=tf.int32) < len(patterns)
    return missing


def _escaped(path: Path) -> str:
    """Return the pattern that matches a path alone."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", str(path))
