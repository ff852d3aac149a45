"""Values of variable width in graph operations: from the units of a mirror to vectors of strings.

How it works: a row says where its values' units begin, and its lengths say how many each value has.
The units of many values are gathered by one operation. Their hashes are compared with the sums in
the rows. End to end, the units are one protobuf message, in which each value is a field. So a
single operation cuts it into strings; no operation copies values one by one in the graph.

`registry.storage.mirror.value_units` defines units and sums and this module repeats them. If only
one side changes, a graph reports intact values as damaged.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from google.protobuf import descriptor_pb2

from registry.storage.mirror.value_units import HEAD, MULTIPLIERS, UNIT
from registry.tensorflow.constants import int64
from registry.tensorflow.graph_checksums import mix


def unit_counts(lengths: Any) -> Any:
    """Return how many units values of these lengths in bytes take; all are int64."""
    ends = lengths + HEAD
    counts = (ends + UNIT - 1) // UNIT
    return counts + tf.cast(tf.equal(counts * UNIT - ends, 1), tf.int64)


def gather_values(values: Any, begins: Any, counts: Any) -> tuple[Any, Any, Any]:
    """Return the units of some values, and what `sums` needs: all units' numbers and the splits.

    ``values`` are all units. ``begins`` and ``counts`` (int64 vectors) are the first unit and the
    number of units of each value.
    """
    splits, numbers = tf.raw_ops.RaggedRange(
        starts=begins, limits=begins + counts, deltas=int64(1), Tsplits=tf.int64
    )
    return tf.gather(values, numbers), numbers, splits


def sums(units: Any, numbers: Any, splits: Any, begins: Any) -> Any:
    """Return the sum of each value, int64, from its units, their numbers and its first number."""
    hashes = tf.linalg.matvec(_mixed(units), tf.constant(MULTIPLIERS.view("<i8"), tf.int64))
    hashes = _mixed(hashes)
    # The sum over a value's units r of h·(2r + 1), as differences of sums over all units.
    alone = _differences(hashes, splits)
    return _differences(hashes * (2 * numbers + 1), splits) - 2 * begins * alone


def strings(units: Any, count: Any) -> Any:
    """Return the values in units, which are end to end, as a vector of ``count`` strings."""
    # Serialized, a tensor is its bytes after a short header.
    size = tf.size(units, tf.int64) * units.dtype.size
    message = tf.io.serialize_tensor(units)
    header = tf.cast(tf.strings.length(message), tf.int64) - size
    _, (values,) = tf.raw_ops.DecodeProtoV2(
        bytes=tf.strings.substr(message, header, size),
        message_type="units.Values",
        field_names=["value"],
        output_types=[tf.string],
        descriptor_source=_DESCRIPTOR,
    )
    # Of no values, the operation makes one empty string.
    return tf.reshape(values, [-1])[:count]


def _mixed(words: Any) -> Any:
    """Return `mix` of int64 words."""
    return tf.bitcast(mix(tf.bitcast(words, tf.uint64)), tf.int64)


def _differences(items: Any, splits: Any) -> Any:
    """Return the sum of each part of a vector, which the splits divide."""
    sums = tf.concat([[int64(0)], tf.cumsum(items)], 0)
    ends = tf.gather(sums, splits)
    return ends[1:] - ends[:-1]


def _descriptor() -> bytes:
    """Return the description of the message, as `DecodeProtoV2` takes it."""
    files = descriptor_pb2.FileDescriptorSet()
    file = files.file.add(name="units.proto", package="units")
    field = descriptor_pb2.FieldDescriptorProto
    file.message_type.add(name="Values").field.add(
        name="value", number=8, type=field.TYPE_BYTES, label=field.LABEL_REPEATED
    )
    return b"bytes://" + bytes(files.SerializeToString())


_DESCRIPTOR = _descriptor()
