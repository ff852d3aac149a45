"""The order of an epoch in graph operations: which ranks a shard's samples have.

How it works: `sample_offsets` computes where a shard's samples are in the epoch, as
`registry.training.sharding` does. `step` maps these offsets to ranks, one step of their walks at a
time, as `registry.training.permutation` does. Both work on int64 vectors of a fixed length, so that
XLA compiles them into one loop over the processor's registers.

The two modules define the arithmetic and this module repeats it. If only one side changes, a graph
yields other samples than Python does.
"""

from __future__ import annotations

from collections.abc import Callable
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


def step(parameters: ShardParameters, keys: Any, offsets: Any, images: Any) -> Any:
    """Return the images of int64 offsets after one more step of each walk that has not ended.

    `Permutation.__call__` walks until an image is below the length. ``images`` are those after the
    steps before; before the first one, they are negative.
    """
    stepped = _permute_once(parameters, keys, tf.where(images < 0, offsets, images))
    ended = (images >= 0) & (images < parameters.length)
    return tf.where(ended, images, stepped)


def _permute_once(parameters: ShardParameters, keys: Any, indices: Any) -> Any:
    """Apply all rounds to indices below the rectangle's area."""
    # The halves are uint32 and wrap around, as those of `Permutation` do. In int64 the sums would
    # not be taken modulo 2**32, and the order would be another.
    low_side = tf.cast(parameters.low, tf.uint32)
    high_side = tf.cast(parameters.high, tf.uint32)
    # The remainder by multiplication: a second division would take as long as the first.
    quotient = indices // parameters.low
    low = tf.cast(indices - quotient * parameters.low, tf.uint32)
    high = tf.cast(quotient, tf.uint32)
    turn = _turn_function()
    # Not a loop in the graph: XLA takes several times as long to compile one.
    for number, key in enumerate(tf.unstack(keys, ROUNDS)):
        if number % 2 == 0:
            low = turn(low, high, key, low_side)
        else:
            high = turn(high, low, key, high_side)
    return tf.cast(high, tf.int64) * parameters.low + tf.cast(low, tf.int64)


def _turn_function() -> Callable[[Any, Any, Any, Any], Any]:
    """Return a function of a half, the other half, a key and the length of the first; all uint32.

    It returns the half moved by a hash of the other one, modulo the length.
    """
    # Here, once for all rounds: making a constant takes as long as making an operation.
    first, second = (tf.constant(multiplier, tf.uint32) for multiplier in MULTIPLIERS)
    fifteen, thirty_two = tf.constant(15, tf.uint32), tf.constant(32, tf.uint64)

    def turn(side: Any, other: Any, key: Any, length: Any) -> Any:
        word = (other + key) * first
        word = tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, fifteen)) * second
        # In uint64, as the product of a word and a length does not fit in uint32.
        scaled = tf.cast(word, tf.uint64) * tf.cast(length, tf.uint64)
        moved = side + tf.cast(tf.bitwise.right_shift(scaled, thirty_two), tf.uint32)
        # Both terms are below the length. If `moved` is, too, the difference wraps around to a
        # larger number, and the minimum is `moved`.
        return tf.minimum(moved, moved - length)

    return turn
