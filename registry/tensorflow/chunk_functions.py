"""The graph functions that read a chunk of an epoch's samples from the mapped files.

A chunk has ``rows`` samples of one shard, as columns. `read_chunk` works in these steps:

1. Numbers: chunk n holds the shard's samples ``[n * rows, (n + 1) * rows)``. The last one ends with
   the whole batches; one more chunk holds the rest, if there is one. Numbers past the shard's end
   are replaced by that of its last sample.
2. Offsets: `graph_order.sample_offsets` computes where these samples are in the epoch.
3. Ranks: `graph_order.permuted_once` maps the offsets to ranks. Those past the epoch's end are
   mapped again.
4. Positions: if the index has entries, `graph_index` looks them up in the mapped index files and
   verifies each. Otherwise the position is the rank plus the index's first position.
5. Rows: the rows at these positions are gathered from the mapped mirror file, as int64 words.
   `graph_checksums.rows_intact` verifies the checksum of each.
6. The rows are cut to the number of samples that the chunk really has.
7. Values of variable width, of the wanted features only: the units that the rows name are gathered
   from the mapped file of values. `graph_values` verifies their sums and cuts them into strings.
8. `row_decoder` decodes rows and strings into columns. Assertions fail the step if an entry, a row
   or a value is damaged.

Steps 1 to 5 are `locate`. XLA can compile what computes there: steps 2 and 3 as one function, step
4, and the checksums of step 5. Each of these is one loop over the samples. It takes a third of the
time of the same operations one by one, but a tenth of a second to compile. So the first chunks are
read without it (`gather`). The files' shapes differ by epoch, and each new shape is compiled again;
those of an index are powers of two. Compiled code has fixed shapes, which is why a last chunk is
padded in step 1 and cut in step 6.

What is defined, traced and compiled depends on a `GatherSignature` only. The files, the seed and
the shard are inputs, so that one function serves all epochs of a dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from registry.samples.codec import Codec
from registry.samples.features import Features
from registry.storage.mirror.row_layout import RowLayout
from registry.tensorflow.chunk_columns import DAMAGED, columns_function
from registry.tensorflow.elements import column_specs
from registry.tensorflow.graph_checksums import rows_intact
from registry.tensorflow.graph_definition import Function, Symbol, define
from registry.tensorflow.graph_index import positions_of
from registry.tensorflow.graph_order import ShardParameters, permuted_once, sample_offsets
from registry.tensorflow.raw_datasets import LOCAL
from registry.training.permutation import LEAST_SIDE, Permutation

LARGEST_TABLE = LEAST_SIDE**2
"""The size up to which the order is a table of all images: most of its walks are long."""
_WALK = tf.int64, tf.int64, tf.uint32


class GatherSignature(NamedTuple):
    """What graph functions are traced and compiled for: the key of the cache of `read_chunk`."""

    features: Features
    wanted: tuple[str, ...]
    """The features that a batch holds, in order."""
    stored: Features
    """The features in the mirror's files, of which there may be more."""
    rows: int
    """Samples of a chunk."""
    indexed: bool
    """Whether the index has entries."""
    one_shard: bool
    """Whether there is only one shard."""
    tabled: bool
    """Whether the order is small enough to be a table of all images."""
    by_row: bool = False
    """Whether a chunk is a pair: the samples' positions, and columns as `row_arrays` makes them."""

    @property
    def variable(self) -> list[int]:
        """The wanted features of variable width, by their numbers among all of these."""
        return [n for n, name in enumerate(self.features.variable) if name in self.wanted]


class ReadChunk(NamedTuple):
    """The function that reads a chunk, and what a chunk is."""

    function: Function
    """From the chunk's number, whether to read it without XLA, `ShardParameters`, `order_images`
    and the mapped files of rows, cells, entries and values to the components of the chunk."""
    compile: Function
    """Returns a chunk's number after a call of what XLA compiles. Its inputs are those of the other
    function but the second and the last."""
    spec: Any
    """The structure of a chunk."""
    columns: Any
    """A function that the other calls, which must live as long."""


@cache
def read_chunk(signature: GatherSignature) -> ReadChunk:
    """Return the function that reads a chunk; the cache keeps it for later epochs.

    None of its operations may count as stateful, or iterators could not be saved.
    """
    layout = RowLayout(Codec(signature.stored))
    features, wanted, by_row = signature.features, signature.wanted, signature.by_row
    columns = columns_function(features, wanted, layout, by_row=by_row)
    spec = column_specs(features, wanted, by_row=by_row)
    plain, compiled = (_located(signature, layout, part) for part in (_in_place, _by_xla))

    def first_of(number: Symbol, parameters: ShardParameters) -> Symbol:
        return (number * signature.rows).minimum(parameters.whole)

    def read(
        number: Symbol, uncompiled: Symbol, vector: Symbol, order: Symbol, *files: Symbol
    ) -> list[Symbol]:
        *located, values = files
        parameters = _parameters(vector)
        after = first_of(number, parameters)
        end = (after < parameters.whole).where(parameters.whole, parameters.size)
        count = (end - after).minimum(signature.rows)
        words, positions, intact = uncompiled.then(
            "StatelessIf",
            [after, vector, order, *located],
            Tout=[tf.int64, tf.int64, tf.bool],
            then_branch=plain,
            else_branch=compiled,
        )
        assertion = intact.then("Assert", [intact.constant(DAMAGED, tf.string)])
        zero, width = (count.constant(n, tf.int64) for n in (0, layout.seals.stride // 8))
        cut = words.then("Slice", zero.pack(zero), count.pack(width), after=assertion)
        components = cut.call(columns, values)
        if not signature.by_row:
            return list(components)
        return [positions.then("Slice", zero.pack(), count.pack()), *components]

    def compile_(number: Symbol, vector: Symbol, *inputs: Symbol) -> list[Symbol]:
        after = first_of(number, _parameters(vector))
        *_, intact = after.call(compiled, vector, *inputs)
        # Without the control input, nothing would call the function.
        return [number.then("Identity", after=intact)]

    inputs = [tf.int64, tf.int64, order_dtype(signature), tf.int64, tf.int64, tf.int64]
    return ReadChunk(
        define("read_chunk", read, [tf.int64, tf.bool, *inputs[1:], tf.int64], LOCAL),
        define("compile", compile_, inputs),
        (tf.TensorSpec((None,), tf.int64), spec) if signature.by_row else spec,
        columns,
    )


def order_images(signature: GatherSignature, order: Permutation) -> Any:
    """Return an epoch's order as its functions take it: its keys, or the table of all images."""
    return order(np.arange(order.size)) if signature.tabled else np.array(order.keys, np.uint32)


def order_dtype(signature: GatherSignature) -> tf.DType:
    """Return the dtype of `order_images`."""
    return tf.int64 if signature.tabled else tf.uint32


_Part = Callable[..., Callable[..., Sequence[Symbol]]]
"""Makes a function of symbols from one, its name, and its inputs' dtypes."""


def _in_place(function: Callable[..., Any], *_: Any) -> Callable[..., Any]:
    return function


def _by_xla(function: Callable[..., Any], name: str, *dtypes: tf.DType) -> Callable[..., Any]:
    """Have XLA compile a function, in place of a pass over memory per operation."""
    defined = define(name, function, dtypes)
    return lambda first, *others: first.call_compiled(defined, *others)


def _located(signature: GatherSignature, layout: RowLayout, part: _Part) -> Function:
    """Define steps 1 to 5.

    From the number of the chunk's first sample, `ShardParameters`, the order and the mapped files
    of rows, cells and entries to the rows, their positions, and whether all is intact.
    """
    ranks_of, positions_of = _ranks(signature, part), _positions(signature, part)
    intact_of = part(
        lambda *inputs: [rows_intact(layout.seals, *inputs)], "rows_intact", tf.int64, tf.int64
    )

    def locate(
        after: Symbol, vector: Symbol, order: Symbol, rows: Symbol, *index: Symbol
    ) -> list[Symbol]:
        positions, *intact = positions_of(ranks_of(after, vector, order), vector, *index)
        words = rows.gather(positions)
        (every,) = intact_of(words, positions)
        for each in intact:
            every = every & each
        return [words, positions, every.then("All", every.constant([0], tf.int32))]

    order = order_dtype(signature)
    return define("locate", locate, [tf.int64, tf.int64, order, tf.int64, tf.int64, tf.int64])


def _ranks(signature: GatherSignature, part: _Part) -> Callable[..., Symbol]:
    """Return a function from a chunk's first number, `ShardParameters` and order to ranks."""

    def offsets_of(after: Symbol, parameters: ShardParameters) -> Symbol:
        first, step = (after.constant(n, tf.int64) for n in (0, 1))
        numbers = first.then("Range", signature.rows, step) + after
        # Padding of the last chunk. Unpadded, its numbers would lead past the epoch's end.
        numbers = numbers.minimum(parameters.size - 1)
        return sample_offsets(parameters, numbers, one_shard=signature.one_shard)

    def look_up(after: Symbol, vector: Symbol, table: Symbol) -> Symbol:
        return table.gather(offsets_of(after, _parameters(vector)))

    def images_of(after: Symbol, vector: Symbol, keys: Symbol) -> list[Symbol]:
        return offsets_of(after, _parameters(vector)).call(_permute(), vector, keys)

    def ranks_of(after: Symbol, vector: Symbol, keys: Symbol) -> Symbol:
        (images,) = first_images_of(after, vector, keys)
        ranks, *_ = images.loop(*_walk(), vector, keys)
        return ranks

    first_images_of = part(images_of, "images_of", tf.int64, tf.int64, tf.uint32)
    return look_up if signature.tabled else ranks_of


@cache
def _permute() -> Function:
    """Define one step of the walks: from indices, `ShardParameters` and keys to their images."""

    def permute(indices: Symbol, vector: Symbol, keys: Symbol) -> list[Symbol]:
        return [permuted_once(_parameters(vector), keys, indices)]

    return define("permute", permute, _WALK)


@cache
def _walk() -> tuple[Function, Function]:
    """Define whether any image is past the epoch's end, and another step for those that are."""

    def any_outside(images: Symbol, vector: Symbol, _: Symbol) -> list[Symbol]:
        largest = images.then("Max", images.constant([0], tf.int32))
        return [largest >= _parameters(vector).length]

    def step(images: Symbol, vector: Symbol, keys: Symbol) -> list[Symbol]:
        # They are few: one in half as many as the rectangle's side is long, or fewer.
        outside = (images >= _parameters(vector).length).then("Where")
        (stepped,) = images.then("GatherNd", outside).call(_permute(), vector, keys)
        return [images.then("TensorScatterUpdate", outside, stepped), vector, keys]

    return define("any_outside", any_outside, _WALK), define("step", step, _WALK)


def _parameters(vector: Symbol) -> ShardParameters:
    return ShardParameters(*vector.unpack(len(ShardParameters._fields)))


def _positions(signature: GatherSignature, part: _Part) -> Callable[..., Sequence[Symbol]]:
    """Return a function from ranks to their positions, and which were looked up without damage.

    It takes the ranks, `ShardParameters`, and the mapped files of cells and entries.
    """

    def added(ranks: Symbol, vector: Symbol, *_: Symbol) -> list[Symbol]:
        return [ranks + _parameters(vector).first]

    find = part(positions_of, "positions_of", tf.int64, tf.int64, tf.int64)
    return (lambda ranks, _, *index: find(*index, ranks)) if signature.indexed else added
