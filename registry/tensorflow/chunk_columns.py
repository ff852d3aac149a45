"""The graph functions that decode the rows of a chunk into columns.

How it works: a row has the values of fixed width, and says where those of variable width are in the
mapped file of values. Their units are gathered from it. `graph_values` verifies their sums and cuts
them into strings. `row_decoder` makes columns of rows and strings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from registry.samples.codec import Codec
from registry.samples.features import Features
from registry.storage.mirror.row_layout import RowLayout
from registry.storage.mirror.value_units import UNIT
from registry.tensorflow import graph_values
from registry.tensorflow.elements import row_decoder
from registry.tensorflow.graph_definition import define, operation
from registry.tensorflow.raw_datasets import graph_function

DAMAGED = (
    "a local copy of the log is damaged; create the dataset again, which repairs what was "
    "overwritten, or run `registry verify` first, if it was the disk that lost a bit"
)


def columns_function(
    features: Features, wanted: tuple[str, ...], layout: RowLayout, *, by_row: bool
) -> Any:
    """Return a function from intact rows, as int64 words, and the file of values to columns.

    Only what reads values of variable width is traced, since that takes longer than to define it.
    """
    # Features are only appended, so that those of the epoch have the same bytes in a newer row.
    decode = row_decoder(Codec(features), wanted, by_row=by_row)
    stride = layout.seals.stride
    variable = [n for n, name in enumerate(features.variable) if name in wanted]

    def columns(words: Any, values: Any) -> Any:
        octets = operation("Bitcast", words, type=tf.uint8)
        records = operation("Reshape", octets, np.array([-1, stride], np.int32))
        strings = _values(layout, variable, records, values) if variable else []
        return decode(records, strings)

    if not variable:
        inputs = [tf.int64, tf.int64]
        return define("columns", lambda *each: tf.nest.flatten(columns(*each)), inputs)
    # On no device: the function is kept, and must not stay on that of a strategy's worker.
    with tf.device(None):
        rows = tf.TensorSpec((None, stride // 8), tf.int64)
        return graph_function(columns, rows, tf.TensorSpec((None, UNIT // 8), tf.int64))


def _values(layout: RowLayout, features: list[int], records: Any, values: Any) -> list[Any]:
    """Return the values of some features in rows, a vector of strings each.

    ``values`` are the units in the mapped file.
    """
    count = tf.shape(records)[0]
    lengths = _fields(records, layout.lengths, layout.values, tf.uint32)
    counts = graph_values.unit_counts(tf.cast(lengths, tf.int64))
    ends = _fields(records, layout.begin, 1, tf.int64) + tf.cumsum(counts, axis=1)
    begins = tf.reshape(tf.gather(ends - counts, features, axis=1), [-1])
    counts = tf.reshape(tf.gather(counts, features, axis=1), [-1])
    expected = tf.gather(_fields(records, layout.sums, layout.values, tf.int64), features, axis=1)
    units = graph_values.gather_values(values, begins, counts)
    sums = graph_values.sums(units, counts)
    with _unless_damaged(tf.reduce_all(tf.equal(sums, tf.reshape(expected, [-1])))):
        message = graph_values.message_of(tf.identity(units))
    return graph_values.string_columns(message, count, len(features))


def _fields(records: Any, offset: int, count: int, dtype: Any) -> Any:
    """Return ``count`` numbers that are at an offset in each row, shape ``(rows, count)``."""
    part = records[:, offset : offset + count * dtype.size]
    return tf.bitcast(tf.reshape(part, (-1, count, dtype.size)), dtype)


def _unless_damaged(intact: Any) -> Any:
    """Return a block, whose operations run after an assertion that nothing is damaged."""
    # The raw operation: `tf.debugging.Assert` wraps it in branches that take time to start.
    assertion = tf.raw_ops.Assert(condition=intact, data=[DAMAGED])
    return tf.control_dependencies([assertion])
