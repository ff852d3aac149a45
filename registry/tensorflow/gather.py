"""An epoch's samples as graph operations: order, index and mirror, without Python in between.

The same numbers as `registry.training.permutation`, `registry.training.sharding` and
`registry.storage.mirror.checksums` compute, where they are defined.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from registry.samples.codec import Codec
from registry.samples.features import Features
from registry.storage.mirror import checksums
from registry.storage.mirror.checksums import ENTRY_SHIFT, POSITION_BITS, SealedRows
from registry.storage.mirror.index import Index
from registry.storage.mirror.snapshot import View
from registry.tensorflow.elements import row_decoder
from registry.training.permutation import MULTIPLIERS, ROUNDS, Permutation
from registry.training.sharding import Share

DAMAGED = (
    "a local copy of the log is damaged; make the dataset anew, which mends what was written over, "
    "or run `registry verify` first, if it was the disk that lost a bit"
)


class Facts(NamedTuple):
    """What tells one shard's part of an epoch from others: int64 scalars.

    They are given to the graph instead of being written into it, so that it is traced once.
    """

    size: Any
    """The shard's samples."""
    start: Any
    """The offset in the epoch of the first sample of all shards."""
    batch_size: Any
    step: Any
    before: Any
    """Samples of the shards before this one in each step."""
    whole: Any
    """The shard's samples in whole steps."""
    shift: Any
    """How far on in the sequence those stand that are its share of what whole steps leave."""
    length: Any
    """Samples in the epoch's order."""
    low: Any
    high: Any
    """The sides of the rectangle that the order permutes."""
    first: Any
    """The first position of an index without entries."""

    @classmethod
    def of(cls, order: Permutation, index: Index, share: Share, start: int, size: int) -> Facts:
        steps, rest = divmod(order.size - start, share.step)
        whole = steps * share.batch_size
        return cls(
            size=size,
            start=start,
            batch_size=share.batch_size,
            step=share.step,
            before=share.index * share.batch_size,
            whole=whole,
            shift=steps * share.step + rest * share.index // share.count - whole,
            length=order.size,
            low=order.sides[0],
            high=order.sides[1],
            first=index.first,
        )


class Kind(NamedTuple):
    """What a graph is traced and compiled for."""

    features: Features
    wanted: tuple[str, ...]
    rows: int
    """Samples that are gathered at a time."""
    indexed: bool
    """Whether the index has entries."""
    alone: bool
    """Whether there is one shard only."""


def gatherer(
    kind: Kind, view: View, index: Index, order: Permutation, facts: Facts
) -> Callable[[Any], dict[str, Any]]:
    """Return the graph function from a chunk's number to its columns.

    What is damaged fails the graph.
    """
    gather = _gather(kind)

    def chunk(number: Any) -> dict[str, Any]:
        keys = tf.constant(order.keys, tf.uint32)
        rows = _mapped(view.path, tf.uint8, [view.position, view.seals.stride])
        entries = (
            _mapped(index.path, tf.int64, [index.size]) if kind.indexed else tf.zeros(0, tf.int64)
        )
        columns, intact = gather(number, tf.constant(facts, tf.int64), keys, rows, entries)
        # The operation itself: `tf.debugging.Assert` wraps it in branches that take time to start.
        with tf.control_dependencies([tf.raw_ops.Assert(condition=intact, data=[DAMAGED])]):
            return {name: tf.identity(column) for name, column in columns.items()}

    return chunk


@cache
def _gather(kind: Kind) -> Any:
    """Return what makes columns, and whether they are intact, of a chunk's number.

    Its parts are traced and compiled at the first use in a process, which takes half a second.
    What XLA compiles has fixed shapes: a last chunk is filled up with its last sample and cut at
    the end, and the mirror, which grows, is read by TensorFlow in between. Nothing in it may count
    as state, which would keep iterators from being saved.
    """
    codec = Codec(kind.features)
    layout, decode = SealedRows(codec.header.itemsize), row_decoder(codec, kind.wanted)

    @_compiled
    def ranked(number: Any, facts: Any, keys: Any) -> Any:
        known = Facts(*tf.unstack(facts))
        after = number * kind.rows
        local = tf.minimum(after + tf.range(kind.rows, dtype=tf.int64), known.size - 1)
        ranks = _permute(known, keys, _offsets(known, local, alone=kind.alone))
        count = tf.minimum(tf.constant(kind.rows, tf.int64), known.size - after)
        return ranks if kind.indexed else ranks + known.first, [count]

    located = _compiled(_positions)

    @_compiled
    def opened(found: Any, at: Any) -> Any:
        return decode(found), tf.reduce_all(_intact(layout, found, at))

    def gather(number: Any, facts: Any, keys: Any, rows: Any, entries: Any) -> Any:
        at, count = ranked(number, facts, keys)
        sound = True
        if kind.indexed:
            at, sound = located(tf.gather(entries, at), at)
        columns, intact = opened(tf.gather(rows, at), at)
        cut = {name: tf.strided_slice(column, [0], count) for name, column in columns.items()}
        return cut, tf.logical_and(sound, intact)

    return gather


def _compiled(function: Callable[..., Any]) -> Any:
    """Have XLA compile a function: one loop in place of an operation's pass after another's."""
    return tf.function(function, autograph=False, jit_compile=True)


def _offsets(known: Facts, local: Any, *, alone: bool) -> Any:
    """Return `Share.bounded` of a shard's samples, with the start added."""
    if alone:
        return local + known.start
    step = local // known.batch_size
    place = step * (known.step - known.batch_size) + local + known.before
    return tf.where(local < known.whole, place, local + known.shift) + known.start


def _permute(known: Facts, keys: Any, indices: Any) -> Any:
    """Return `Permutation.__call__` of an int64 vector.

    The first step of all walks is in the same loop as the others, since what a graph holds twice
    is compiled twice: indices begin beyond the rectangle, where no walk leads.
    """
    area = known.low * known.high

    def walk(images: Any) -> Any:
        stepped = _once(known, keys, tf.where(images >= area, images - area, images))
        return tf.where(images >= known.length, stepped, images)

    return tf.while_loop(
        lambda images: tf.reduce_any(images >= known.length), walk, [indices + area]
    )[0]


def _once(known: Facts, keys: Any, indices: Any) -> Any:
    """Go through the rounds in a loop, which is compiled once."""
    a, b = tf.cast(known.low, tf.uint32), tf.cast(known.high, tf.uint32)
    pairs = tf.reshape(keys, (-1, 2))

    def two_rounds(number: Any, low: Any, high: Any) -> Any:
        first, second = tf.unstack(tf.gather(pairs, number))
        low = _turn(low, high, first, a)
        return number + 1, low, _turn(high, low, second, b)

    quotient = indices // known.low
    low = tf.cast(indices - quotient * known.low, tf.uint32)
    begun = (0, low, tf.cast(quotient, tf.uint32))
    _, low, high = tf.while_loop(lambda number, *_: number < ROUNDS // 2, two_rounds, begun)
    return tf.cast(high, tf.int64) * known.low + tf.cast(low, tf.int64)


def _turn(side: Any, other: Any, key: Any, length: Any) -> Any:
    word = _mix((other + key) * _u32(MULTIPLIERS[0]), 15) * _u32(MULTIPLIERS[1])
    scaled = tf.cast(word, tf.uint64) * tf.cast(length, tf.uint64)
    moved = side + tf.cast(tf.bitwise.right_shift(scaled, _u64(32)), tf.uint32)
    return tf.minimum(moved, moved - length)


def _positions(found: Any, ranks: Any) -> Any:
    """Return the positions in some ranks' entries, 0 for the damaged, and if all are intact."""
    places = tf.bitwise.bitwise_and(found, tf.constant((1 << POSITION_BITS) - 1, tf.int64))
    total = tf.cast(ranks + 1, tf.uint64) * _u64(checksums.MULTIPLIERS[0])
    total += tf.cast(places + 1, tf.uint64) * _u64(checksums.MULTIPLIERS[1])
    total = _mix(total, 32) * _u64(checksums.MULTIPLIERS[0])
    sealed = tf.cast(tf.bitwise.right_shift(total, _u64(ENTRY_SHIFT)), tf.int64)
    stored = tf.bitwise.right_shift(found, tf.constant(POSITION_BITS, tf.int64))
    intact = tf.equal(sealed, stored)
    return tf.where(intact, places, tf.zeros_like(places)), tf.reduce_all(intact)


def _intact(layout: SealedRows, found: Any, at: Any) -> Any:
    words = tf.bitcast(tf.reshape(found, (-1, layout.stride // 8, 8)), tf.uint64)
    stored = tf.cast(tf.bitwise.right_shift(words[:, -1], _u64(32)), tf.uint32)
    mask = np.full(layout.stride // 8, 2**64 - 1, np.uint64)
    mask[-1] = 2**32 - 1
    words = _mix(tf.bitwise.bitwise_and(words, tf.constant(mask)), 32)
    total = tf.reduce_sum(words * tf.constant(layout.multipliers[:-1]), axis=1)
    total += tf.cast(at + 1, tf.uint64) * _u64(int(layout.multipliers[-1]))
    return tf.equal(tf.cast(_mix(total, 32), tf.uint32), stored)


def _mix(word: Any, shift: int) -> Any:
    return tf.bitwise.bitwise_xor(
        word, tf.bitwise.right_shift(word, tf.constant(shift, word.dtype))
    )


def _mapped(path: Any, dtype: Any, shape: list[int]) -> Any:
    mapped = tf.raw_ops.ImmutableConst(dtype=dtype, shape=shape, memory_region_name=str(path))
    # TensorFlow would fold this constant when the graph starts: copy the file into memory, find
    # the copy too large for a constant, and keep the memory. It leaves alone what has this mark.
    # https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/common_runtime/constant_folding.cc
    mapped.op._set_attr("_scoped_allocator", attr_value_pb2.AttrValue(list={}))  # noqa: SLF001
    return mapped


def _u32(value: int) -> Any:
    return tf.constant(value, tf.uint32)


def _u64(value: int) -> Any:
    return tf.constant(value, tf.uint64)
