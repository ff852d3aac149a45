"""The order of an epoch in graph operations: which ranks a shard's samples have.

How it works: `sample_offsets` computes where a shard's samples are in the epoch, as
`registry.training.sharding` does. `permute` maps these offsets to ranks, as
`registry.training.permutation` does. Both work on int64 vectors of a fixed length, so that XLA
compiles them into loops over the processor's registers.

The two modules define the arithmetic and this module repeats it. If only one side changes, a graph
yields other samples than Python does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from registry.training.permutation import MULTIPLIERS, ROUNDS, Permutation
from registry.training.sharding import Share


class ShardParameters(NamedTuple):
    """The parameters of one shard's part of an epoch: int64 scalars, in Python or in the graph."""

    size: Any
    """The number of the shard's samples."""
    start: Any
    """The offset in the epoch of the first sample of all shards."""
    batch_size: Any
    """Samples of this shard in a global step."""
    step: Any
    """Samples of all shards in a global step."""
    before: Any
    """Samples of the shards before this one in each step."""
    whole: Any
    """The number of the shard's samples in whole steps."""
    shift: Any
    """What to add to the local number of a sample after the whole steps, to get its offset."""
    length: Any
    """Samples in the epoch's order."""
    low: Any
    """The side a of the rectangle that the order permutes."""
    high: Any
    """The side b of that rectangle."""
    first: Any
    """The first position of an index without entries."""

    @classmethod
    def of(
        cls, order: Permutation, share: Share, start: int, size: int, first_position: int
    ) -> ShardParameters:
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
            first=first_position,
        )


def sample_offsets(parameters: ShardParameters, numbers: Any, *, one_shard: bool) -> Any:
    """Return a shard's samples by their offsets: `Share.epoch_offsets` plus the start."""
    # The samples of a single shard are consecutive: the division below would be wasted on them.
    if one_shard:
        return numbers + parameters.start
    step = numbers // parameters.batch_size
    others = parameters.step - parameters.batch_size
    in_whole_step = step * others + numbers + parameters.before
    in_last_step = numbers + parameters.shift
    offsets = tf.where(numbers < parameters.whole, in_whole_step, in_last_step)
    return offsets + parameters.start


def permute(parameters: ShardParameters, keys: Any, offsets: Any) -> Any:
    """Return `Permutation.__call__` of an int64 vector.

    A walk applies `_permute_once` to each offset until its image is below the length.
    """
    area = parameters.low * parameters.high

    # XLA would compile a second copy of `_permute_once` in front of the loop. So the loop makes the
    # first step, too: offsets enter it raised by the rectangle's area, a range without images.
    def walk(images: Any) -> Any:
        inputs = tf.where(images >= area, images - area, images)
        stepped = _permute_once(parameters, keys, inputs)
        # The other images have ended their walks and must stay as they are.
        return tf.where(images >= parameters.length, stepped, images)

    return tf.while_loop(
        lambda images: tf.reduce_any(images >= parameters.length), walk, [offsets + area]
    )[0]


def _permute_once(parameters: ShardParameters, keys: Any, indices: Any) -> Any:
    """Apply all rounds to indices below the rectangle's area."""
    # The halves are uint32 and wrap around, as those of `Permutation` do. In int64 the sums would
    # not be taken modulo 2**32, and the order would be another.
    low_side = tf.cast(parameters.low, tf.uint32)
    high_side = tf.cast(parameters.high, tf.uint32)
    key_pairs = tf.reshape(keys, (-1, 2))

    # A loop of two rounds each. Unrolled, XLA would have to compile eight rounds.
    def two_rounds(number: Any, low: Any, high: Any) -> Any:
        first, second = tf.unstack(tf.gather(key_pairs, number))
        low = _turn(low, high, first, low_side)
        return number + 1, low, _turn(high, low, second, high_side)

    # The remainder by multiplication: a second division would take as long as the first.
    quotient = indices // parameters.low
    low = tf.cast(indices - quotient * parameters.low, tf.uint32)
    _, low, high = tf.while_loop(
        lambda number, *_: number < ROUNDS // 2,
        two_rounds,
        (0, low, tf.cast(quotient, tf.uint32)),
    )
    return tf.cast(high, tf.int64) * parameters.low + tf.cast(low, tf.int64)


def _turn(side: Any, other: Any, key: Any, length: Any) -> Any:
    """Return ``side`` moved by a hash of the other side, modulo ``length``; all are uint32."""
    word = _mix((other + key) * _uint32(MULTIPLIERS[0])) * _uint32(MULTIPLIERS[1])
    # In uint64, as the product of a word and a length does not fit in uint32.
    scaled = tf.cast(word, tf.uint64) * tf.cast(length, tf.uint64)
    moved = side + tf.cast(tf.bitwise.right_shift(scaled, tf.constant(32, tf.uint64)), tf.uint32)
    # Both terms are below the length. If `moved` is, too, the difference wraps around to a larger
    # number, and the minimum is `moved`.
    return tf.minimum(moved, moved - length)


def _mix(word: Any) -> Any:
    return tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, _uint32(15)))


def _uint32(value: int) -> Any:
    return tf.constant(value, tf.uint32)
