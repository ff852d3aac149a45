"""Gathering an epoch's fixed-width samples from the mirror's files by graph operations alone.

`gatherer` returns a graph function from the number of a chunk to the chunk's columns. A chunk has
``rows`` samples of one shard. The function works in these steps:

1. Local numbers: chunk n holds the shard's samples ``[n * rows, (n + 1) * rows)``. Numbers past
   the shard's end are replaced by that of its last sample.
2. Offsets: `_offsets` computes where these samples are in the epoch, as `Share.bounded` does.
3. Ranks: `_permute` maps the offsets through the epoch's order, as `Permutation.__call__` does.
4. Positions: if the index has entries, they are gathered from the mapped index file, and
   `_positions` unpacks each into a position and verifies its checksum. Otherwise the position is
   the rank plus the index's first position.
5. Rows: the rows at these positions are gathered from the mapped mirror file. `_intact` verifies
   the checksum of each, and `row_decoder` decodes them into columns.
6. The columns are cut to the number of samples that the chunk really has. An assertion fails the
   step if an entry or a row is damaged.

XLA compiles steps 1 to 3, the verification in step 4, and the verification and decoding in step 5.
TensorFlow runs the two gathers between them, because compiled code has fixed shapes and the files
grow. The fixed shapes are also why a last chunk is padded in step 1 and cut in step 6.

No Python runs after the graph is built. So iterators can be saved, and the graph can run in another
process that sees the files.

`registry.training.permutation`, `registry.training.sharding` and
`registry.storage.mirror.checksums` define the arithmetic, and this module repeats it in TensorFlow.
If only one side changes, a graph yields other samples than Python does, or reports sound rows as
damaged.
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
    "a local copy of the log is damaged; create the dataset again, which repairs what was "
    "overwritten, or run `registry verify` first, if it was the disk that lost a bit"
)


class Facts(NamedTuple):
    """The parameters of one shard's part of an epoch: int64 scalars, in Python or in the graph.

    They are inputs of the graph. As constants they would have it traced and compiled again for
    every epoch.
    """

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
    """What a graph is traced and compiled for: the key of the cache of `_gather`."""

    features: Features
    wanted: tuple[str, ...]
    """The features that a batch holds, in order."""
    rows: int
    """Samples of a chunk."""
    indexed: bool
    """Whether the index has entries."""
    alone: bool
    """Whether there is only one shard."""


def gatherer(
    kind: Kind, view: View, index: Index, order: Permutation, facts: Facts
) -> Callable[[Any], dict[str, Any]]:
    """Return the graph function from a chunk's number, an int64 scalar, to its columns.

    The caller keeps the files of view and index: the graph opens them by name for each iterator. If
    an entry or a row is damaged, the step fails with `InvalidArgumentError`, which says `DAMAGED`.
    """
    gather = _gather(kind)

    def chunk(number: Any) -> dict[str, Any]:
        keys = tf.constant(order.keys, tf.uint32)
        rows = _mapped(view.path, tf.uint8, [view.position, view.seals.stride])
        entries = (
            _mapped(index.path, tf.int64, [index.size]) if kind.indexed else tf.zeros(0, tf.int64)
        )
        columns, intact = gather(number, tf.constant(facts, tf.int64), keys, rows, entries)
        # The raw operation: `tf.debugging.Assert` wraps it in branches that take time to start.
        with tf.control_dependencies([tf.raw_ops.Assert(condition=intact, data=[DAMAGED])]):
            # Only operations made in this block wait for the assertion, hence the identities.
            return {name: tf.identity(column) for name, column in columns.items()}

    return chunk


@cache
def _gather(kind: Kind) -> Any:
    """Return the function from a chunk's number to its columns and whether they are intact.

    Its three parts are traced and compiled at the first use in a process, which takes half a
    second; the cache keeps them for later epochs. None of its operations may count as stateful, or
    iterators could not be saved.
    """
    codec = Codec(kind.features)
    layout, decode = SealedRows(codec.header.itemsize), row_decoder(codec, kind.wanted)

    @_compiled
    def ranked(number: Any, facts: Any, keys: Any) -> Any:
        known = Facts(*tf.unstack(facts))
        after = number * kind.rows
        # Padding of the last chunk. Unpadded, its numbers would lead past the epoch's end.
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
        # The gathers stay outside of what XLA compiles: the files' shapes differ by epoch.
        if kind.indexed:
            at, sound = located(tf.gather(entries, at), at)
        columns, intact = opened(tf.gather(rows, at), at)
        cut = {name: tf.strided_slice(column, [0], count) for name, column in columns.items()}
        return cut, tf.logical_and(sound, intact)

    return gather


def _compiled(function: Callable[..., Any]) -> Any:
    """Have XLA compile a function into one loop, in place of a pass over memory per operation."""
    return tf.function(function, autograph=False, jit_compile=True)


def _offsets(known: Facts, local: Any, *, alone: bool) -> Any:
    """Return the offsets in the epoch of a shard's samples: `Share.bounded` plus the start."""
    if alone:
        return local + known.start
    step = local // known.batch_size
    place = step * (known.step - known.batch_size) + local + known.before
    return tf.where(local < known.whole, place, local + known.shift) + known.start


def _permute(known: Facts, keys: Any, indices: Any) -> Any:
    """Return `Permutation.__call__` of an int64 vector.

    A walk applies `_once` until its image is below the length. `_once` is traced in one place, the
    loop's body, because XLA would compile a second copy, too. So the loop makes the first step as
    well: indices enter it raised by the rectangle's area, a range that no image is in.
    """
    area = known.low * known.high

    def walk(images: Any) -> Any:
        stepped = _once(known, keys, tf.where(images >= area, images - area, images))
        return tf.where(images >= known.length, stepped, images)

    return tf.while_loop(
        lambda images: tf.reduce_any(images >= known.length), walk, [indices + area]
    )[0]


def _once(known: Facts, keys: Any, indices: Any) -> Any:
    """Apply all rounds to the indices. They are a loop, so that two rounds are compiled, not eight.

    The halves are uint32 and wrap around, as those of `Permutation` do. In int64 the sums would not
    be taken modulo 2**32, and the order would be another.
    """
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
    """Return ``side`` moved by a hash of the other side, modulo ``length``; all are uint32."""
    word = _mix((other + key) * _u32(MULTIPLIERS[0]), 15) * _u32(MULTIPLIERS[1])
    scaled = tf.cast(word, tf.uint64) * tf.cast(length, tf.uint64)
    moved = side + tf.cast(tf.bitwise.right_shift(scaled, _u64(32)), tf.uint32)
    # Both terms are below the length. If `moved` is, too, the difference wraps around to a larger
    # number, and the minimum is `moved`.
    return tf.minimum(moved, moved - length)


def _positions(found: Any, ranks: Any) -> Any:
    """Return the positions (int64) in the entries of some ranks, and whether all are intact.

    A damaged entry gets position 0: the gather that follows must not read past the file's end.
    """
    places = tf.bitwise.bitwise_and(found, tf.constant((1 << POSITION_BITS) - 1, tf.int64))
    total = tf.cast(ranks + 1, tf.uint64) * _u64(checksums.MULTIPLIERS[0])
    total += tf.cast(places + 1, tf.uint64) * _u64(checksums.MULTIPLIERS[1])
    total = _mix(total, 32) * _u64(checksums.MULTIPLIERS[0])
    sealed = tf.cast(tf.bitwise.right_shift(total, _u64(ENTRY_SHIFT)), tf.int64)
    stored = tf.bitwise.right_shift(found, tf.constant(POSITION_BITS, tf.int64))
    intact = tf.equal(sealed, stored)
    return tf.where(intact, places, tf.zeros_like(places)), tf.reduce_all(intact)


def _intact(layout: SealedRows, found: Any, at: Any) -> Any:
    """Tell which rows, uint8 ``(count, stride)``, have the checksum of these positions (int64)."""
    words = tf.bitcast(tf.reshape(found, (-1, layout.stride // 8, 8)), tf.uint64)
    # The checksum is the higher half of the last word. It counts as zero in the hash.
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
    """Return a file's content as a tensor that maps the file into memory.

    TensorFlow opens the file by name when an iterator starts, so it must still be there then.
    """
    mapped = tf.raw_ops.ImmutableConst(dtype=dtype, shape=shape, memory_region_name=str(path))
    # Without this attribute, TensorFlow folds the constant when the graph starts: it copies the
    # file into memory, finds the copy too large for a constant, and keeps the memory. Constant
    # folding skips operations that have the attribute.
    # https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/common_runtime/constant_folding.cc
    mapped.op._set_attr("_scoped_allocator", attr_value_pb2.AttrValue(list={}))  # noqa: SLF001
    return mapped


def _u32(value: int) -> Any:
    return tf.constant(value, tf.uint32)


def _u64(value: int) -> Any:
    return tf.constant(value, tf.uint64)
