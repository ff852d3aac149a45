"""The order of an epoch in graph operations: which ranks a shard's samples have.

How it works: `sample_offsets` computes where a shard's samples are in the epoch, as
`registry.training.sharding` does. `permuted_once` maps these offsets to images, the first step of
their walks to ranks, as `registry.training.permutation` does. XLA can compile both into one loop
over the processor's registers.

The two modules define the arithmetic and this module repeats it. If only one side changes, a graph
yields other samples than Python does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from registry.tensorflow.graph_definition import Symbol
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


def sample_offsets(parameters: ShardParameters, numbers: Symbol, *, one_shard: bool) -> Symbol:
    """Return a shard's samples by their offsets: `Share.epoch_offsets` plus the start."""
    # The samples of a single shard are consecutive: the division below would be wasted on them.
    start: Symbol = parameters.start
    if one_shard:
        return numbers + start
    step = numbers // parameters.batch_size
    others = parameters.step - parameters.batch_size
    in_whole_step = step * others + numbers + parameters.before
    in_last_step = numbers + parameters.shift
    offsets: Symbol = (numbers < parameters.whole).where(in_whole_step, in_last_step)
    return offsets + start


def permuted_once(parameters: ShardParameters, keys: Symbol, indices: Symbol) -> Symbol:
    """Apply all rounds to int64 indices below the rectangle's area."""
    side: Symbol = parameters.low
    # The halves are uint32 and wrap around, as those of `Permutation` do. In int64 the sums would
    # not be taken modulo 2**32, and the order would be another.
    low_side, high_side = side.cast(tf.uint32), parameters.high.cast(tf.uint32)
    # The remainder by multiplication: a second division would take as long as the first.
    quotient = indices // side
    low, high = (indices - quotient * side).cast(tf.uint32), quotient.cast(tf.uint32)
    # Not a loop in the graph: XLA takes several times as long to compile one.
    for number, key in enumerate(keys.unpack(ROUNDS)):
        if number % 2 == 0:
            low = _turn(low, high, key, low_side)
        else:
            high = _turn(high, low, key, high_side)
    return high.cast(tf.int64) * side + low.cast(tf.int64)


def _turn(side: Symbol, other: Symbol, key: Symbol, length: Symbol) -> Symbol:
    """Return a half moved by a hash of the other one, modulo the length; all are uint32."""
    word = (other + key) * MULTIPLIERS[0]
    word = (word ^ (word >> 15)) * MULTIPLIERS[1]
    # In uint64, as the product of a word and a length does not fit in uint32.
    scaled = word.cast(tf.uint64) * length.cast(tf.uint64)
    moved = side + (scaled >> 32).cast(tf.uint32)
    # Both terms are below the length. If `moved` is, too, the difference wraps around to a larger
    # number, and the minimum is `moved`.
    return moved.minimum(moved - length)
