"""Values of variable width in graph operations: from the units of a mirror to vectors of strings.

How it works: a row says where its values' units begin, and its lengths say how many each value has.
The units of many values are gathered by one operation, and hashed by another. Sums of the hashes
are compared with those in the rows. End to end, the units are one protobuf message, in which each
value is a field. So a single operation cuts it into strings; no operation copies values one by one
in the graph.

`registry.storage.mirror.value_units` defines units and sums and this module repeats them. If only
one side changes, a graph reports intact values as damaged.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from google.protobuf import descriptor_pb2

from registry.storage.mirror.value_units import HEAD, UNIT
from registry.tensorflow.constants import int64


def unit_counts(lengths: Any) -> Any:
    """Return how many units values of these lengths in bytes take; all are int64."""
    ends = lengths + HEAD
    counts = (ends + UNIT - 1) // UNIT
    return counts + tf.cast(tf.equal(counts * UNIT - ends, 1), tf.int64)


def gather_values(values: Any, begins: Any, counts: Any) -> Any:
    """Return the units of some values, end to end.

    ``values`` are all units. ``begins`` and ``counts`` (int64 vectors) are the first unit and the
    number of units of each value.
    """
    _, numbers = tf.raw_ops.RaggedRange(
        starts=begins, limits=begins + counts, deltas=int64(1), Tsplits=tf.int64
    )
    return tf.gather(values, numbers)


def sums(units: Any, counts: Any) -> Any:
    """Return the sums, int64, of values that have so many units each, end to end."""
    hashes = tf.bitcast(tf.raw_ops.Fingerprint(data=units, method="farmhash64"), tf.int64)
    # Of each value: 1, 3, 5, …
    splits, weights = tf.raw_ops.RaggedRange(
        starts=tf.ones_like(counts), limits=2 * counts + 1, deltas=int64(2), Tsplits=tf.int64
    )
    # A histogram with a single bin: the fastest sums of parts of a vector. Sums by segment need the
    # segment of each item, and differences of `tf.cumsum` take as long as all the rest.
    bins = tf.raw_ops.RaggedBincount(
        splits=splits, values=tf.zeros_like(weights), size=int64(1), weights=hashes * weights
    )
    return bins[:, 0]


def message_of(units: Any) -> Any:
    """Return units as a string, the message that they are."""
    # Serialized, a tensor is its bytes after a short header.
    size = tf.size(units, tf.int64) * units.dtype.size
    serialized = tf.io.serialize_tensor(units)
    header = tf.cast(tf.strings.length(serialized), tf.int64) - size
    return tf.strings.substr(serialized, header, size)


def string_columns(message: Any, count: Any, features: int) -> list[Any]:
    """Return the values in a message, those of a sample after those of the one before, by feature.

    The result is a vector of ``count`` strings for each of the ``features``.
    """
    if not features:
        return []
    _, (values,) = tf.raw_ops.DecodeProtoV2(
        bytes=message,
        message_type="units.Values",
        field_names=["value"],
        output_types=[tf.string],
        descriptor_source=_DESCRIPTOR,
    )
    # Of no values, the operation makes one empty string.
    strings = tf.reshape(values, [-1])[: count * features]
    # `tf.unstack` copies each string, also those of a single feature.
    return [strings] if features == 1 else tf.unstack(tf.reshape(strings, [-1, features]), axis=1)


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
