"""Gathering an epoch's fixed-width samples from the mirror's files by graph operations alone.

`chunk_function` returns a graph function from the number of a chunk to the chunk's columns. A chunk
has ``rows`` samples of one shard. The function works in these steps:

1. Numbers: chunk n holds the shard's samples ``[n * rows, (n + 1) * rows)``. Numbers past the
   shard's end are replaced by that of its last sample.
2. Offsets: `graph_order.sample_offsets` computes where these samples are in the epoch.
3. Ranks: `graph_order.permute` maps the offsets through the epoch's order.
4. Positions: if the index has entries, their places and then they themselves are gathered from the
   mapped index files, and `graph_index` verifies each. Otherwise the position is the rank plus the
   index's first position.
5. Rows: the rows at these positions are gathered from the mapped mirror file.
   `graph_checksums.rows_intact` verifies the checksum of each, and `row_decoder` decodes them into
   columns.
6. The columns are cut to the number of samples that the chunk really has. An assertion fails the
   step if an entry or a row is damaged.

XLA compiles steps 1 to 3, the verification in step 4, and the verification and decoding in step 5.
TensorFlow runs the two gathers between them, because compiled code has fixed shapes and the files
grow. The fixed shapes are also why a last chunk is padded in step 1 and cut in step 6.

What is compiled depends on a `GatherSignature` only. The files, the seed and the shard are inputs,
so that one compilation serves all epochs of a dataset.

No Python runs after the graph is built. So iterators can be saved, and the graph can run in another
process that sees the files.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from registry.samples.codec import Codec
from registry.samples.features import Features
from registry.storage.mirror.checksums import SealedRows
from registry.storage.mirror.index import Index
from registry.storage.mirror.snapshot import View
from registry.tensorflow.elements import row_decoder
from registry.tensorflow.graph_checksums import rows_intact
from registry.tensorflow.graph_index import cell_numbers, open_cells, open_entries, same_file
from registry.tensorflow.graph_order import ShardParameters, permute, sample_offsets
from registry.training.permutation import Permutation

DAMAGED = (
    "a local copy of the log is damaged; create the dataset again, which repairs what was "
    "overwritten, or run `registry verify` first, if it was the disk that lost a bit"
)


class GatherSignature(NamedTuple):
    """What graph functions are traced and compiled for: the key of the cache of `_gather`."""

    features: Features
    wanted: tuple[str, ...]
    """The features that a batch holds, in order."""
    width: int
    """Bytes of a record in the mirror's files, which may have more features."""
    rows: int
    """Samples of a chunk."""
    indexed: bool
    """Whether the index has entries."""
    one_shard: bool
    """Whether there is only one shard."""


def chunk_function(
    signature: GatherSignature,
    view: View,
    index: Index,
    order: Permutation,
    parameters: ShardParameters,
) -> Callable[[Any], dict[str, Any]]:
    """Return the graph function from a chunk's number, an int64 scalar, to its columns.

    The caller keeps the files of view and index: the graph opens them by name for each iterator. If
    an entry or a row is damaged, the step fails with `InvalidArgumentError`, which says `DAMAGED`.
    """
    gather = _gather(signature)

    def read_chunk(number: Any) -> dict[str, Any]:
        # Tensors: a compiled function is traced again for every other value of a Python number.
        parameter_vector = tf.constant(parameters, tf.int64)
        keys = tf.constant(order.keys, tf.uint32)
        rows = _mapped_file(view.path, tf.uint8, [view.position, view.seals.stride])
        # Without entries, `gather` ignores these inputs.
        cells = entries = tf.zeros(0, tf.int64)
        if index.files is not None:
            cells = _mapped_file(index.files.cells, tf.int64, [index.cell_words])
            entries = _mapped_file(index.files.entries, tf.int64, [index.entry_words])
        columns, intact = gather(number, parameter_vector, keys, rows, cells, entries)
        # The raw operation: `tf.debugging.Assert` wraps it in branches that take time to start.
        with tf.control_dependencies([tf.raw_ops.Assert(condition=intact, data=[DAMAGED])]):
            # Only operations made in this block wait for the assertion, hence the identities.
            return {name: tf.identity(column) for name, column in columns.items()}

    return read_chunk


@cache
def _gather(signature: GatherSignature) -> Any:
    """Return the function from a chunk's number to its columns and whether they are intact.

    Its three parts are traced and compiled at the first use in a process, which takes half a
    second; the cache keeps them for later epochs. None of its operations may count as stateful, or
    iterators could not be saved.
    """
    layout = SealedRows(signature.width)
    # Features are only appended, so that those of the epoch have the same bytes in a newer row.
    decode = row_decoder(Codec(signature.features), signature.wanted)

    locate = _compiled(lambda *inputs: _locate(signature, *inputs))
    places_of, positions_of = _compiled(open_cells), _compiled(open_entries)

    @_compiled
    def verify_and_decode(rows: Any, positions: Any) -> Any:
        return decode(rows), tf.reduce_all(rows_intact(layout, rows, positions))

    def gather(
        number: Any, parameter_vector: Any, keys: Any, rows: Any, cells: Any, entries: Any
    ) -> Any:
        positions, count = locate(number, parameter_vector, keys)
        entries_intact = True
        # The gathers stay outside of what XLA compiles: the files' shapes differ by epoch, and each
        # new shape would be compiled again.
        if signature.indexed:
            ranks = positions
            places, cells_intact = places_of(tf.gather(cells, cell_numbers(ranks)), ranks)
            positions, entries_intact = positions_of(tf.gather(entries, places), places)
            entries_intact = same_file(cells, entries) & tf.reduce_all(
                cells_intact & entries_intact
            )
        columns, rows_are_intact = verify_and_decode(tf.gather(rows, positions), positions)
        # Cut here, as the count is not known when XLA compiles.
        cut = {name: tf.strided_slice(column, [0], count) for name, column in columns.items()}
        return cut, tf.logical_and(entries_intact, rows_are_intact)

    return gather


def _locate(signature: GatherSignature, number: Any, parameter_vector: Any, keys: Any) -> Any:
    """Return the ranks of a chunk's samples, or without entries their positions; and a count.

    The count is an int64 vector of one item, how many of the samples are no padding.
    """
    parameters = ShardParameters(*tf.unstack(parameter_vector))
    after = number * signature.rows
    # Padding of the last chunk. Unpadded, its numbers would lead past the epoch's end.
    numbers = tf.range(signature.rows, dtype=tf.int64)
    numbers = tf.minimum(after + numbers, parameters.size - 1)
    offsets = sample_offsets(parameters, numbers, one_shard=signature.one_shard)
    ranks = permute(parameters, keys, offsets)
    count = tf.minimum(tf.constant(signature.rows, tf.int64), parameters.size - after)
    return ranks if signature.indexed else ranks + parameters.first, [count]


def _compiled(function: Callable[..., Any]) -> Any:
    """Have XLA compile a function into one loop, in place of a pass over memory per operation."""
    return tf.function(function, autograph=False, jit_compile=True)


def _mapped_file(path: Any, dtype: Any, shape: list[int]) -> Any:
    """Return a file's content as a tensor that maps the file into memory.

    TensorFlow opens the file by name when an iterator starts, so it must still be there then.
    """
    content = tf.raw_ops.ImmutableConst(dtype=dtype, shape=shape, memory_region_name=str(path))
    # Without this attribute, TensorFlow folds the constant when the graph starts: it copies the
    # file into memory, finds the copy too large for a constant, and keeps the memory. Constant
    # folding skips operations that have the attribute.
    # https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/common_runtime/constant_folding.cc
    content.op._set_attr("_scoped_allocator", attr_value_pb2.AttrValue(list={}))  # noqa: SLF001
    return content
