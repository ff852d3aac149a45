"""Gathering an epoch's samples from the mirror's files by graph operations alone.

`gathered_chunks` returns a dataset of chunks. A chunk has ``rows`` samples of one shard, as
columns. Chunks are read block by block. For each block, a function maps the files once, and makes a
dataset of its chunks, whose function captures the mapped tensors. (A file is mapped whenever the
operation that maps it runs, and each mapping faults in its pages again.) Blocks are also what
tf.data service can divide among workers. The function of a chunk works in these steps:

1. Numbers: chunk n holds the shard's samples ``[n * rows, (n + 1) * rows)``. The last one ends with
   the whole batches; one more chunk holds the rest, if there is one. Numbers past the shard's end
   are replaced by that of its last sample.
2. Offsets: `graph_order.sample_offsets` computes where these samples are in the epoch.
3. Ranks: `graph_order.step` walks the offsets through the epoch's order.
4. Positions: if the index has entries, `graph_index` looks them up in the mapped index files and
   verifies each. Otherwise the position is the rank plus the index's first position.
5. Rows: the rows at these positions are gathered from the mapped mirror file, as int64 words.
   `graph_checksums.rows_intact` verifies the checksum of each.
6. The rows are cut to the number of samples that the chunk really has.
7. Values of variable width, of the wanted features only: the units that the rows name are gathered
   from the mapped file of values. `graph_values` verifies their sums and cuts them into strings.
8. `row_decoder` decodes rows and strings into columns. Assertions fail the step if an entry, a row
   or a value is damaged.

XLA compiles what computes: steps 1 to 3 as one function, step 4, and the checksums of step 5. Each
of these is one loop over the samples, since compiling takes most of the time until the first batch.
TensorFlow runs the rest. The files' shapes differ by epoch, and each new shape would be compiled
again; those of an index are powers of two. Compiled code has fixed shapes, which is why a last
chunk is padded in step 1 and cut in step 6.

What is traced and compiled depends on a `GatherSignature` only. The files, the seed and the shard
are inputs, so that one function serves all epochs of a dataset.

No Python runs after the graph is built. So iterators can be saved, and the graph can run in another
process that sees the files.
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
from registry.storage.mirror.local_files import LocalFiles
from registry.storage.mirror.row_layout import RowLayout
from registry.storage.mirror.value_units import UNIT
from registry.tensorflow import graph_values
from registry.tensorflow.constants import int64
from registry.tensorflow.elements import row_decoder
from registry.tensorflow.file_wait import when_there
from registry.tensorflow.graph_checksums import rows_intact
from registry.tensorflow.graph_index import positions_of
from registry.tensorflow.graph_order import ShardParameters, sample_offsets, step
from registry.tensorflow.raw_datasets import (
    OWN_THREADS,
    FlatMapDataset,
    graph_function,
    type_attributes,
)
from registry.training.permutation import LEAST_SIDE, ROUNDS, Permutation

BLOCK_ROWS = 1 << 20
"""How many samples, about, are read from one mapping of the files."""
LARGEST_TABLE = LEAST_SIDE**2
"""The size up to which the order is a table of all images: most of its walks are long."""
DAMAGED = (
    "a local copy of the log is damaged; create the dataset again, which repairs what was "
    "overwritten, or run `registry verify` first, if it was the disk that lost a bit"
)


class GatherSignature(NamedTuple):
    """What graph functions are traced and compiled for: the key of the cache of `_read_chunk`."""

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


def gathered_chunks(
    signature: GatherSignature,
    files: LocalFiles,
    order: Permutation,
    parameters: ShardParameters,
    wait: float = 0,
) -> FlatMapDataset:
    """Return a dataset of chunks, as dicts of columns or, by row, as pairs.

    ``wait`` is in seconds, for which files that are missing on the host are waited for.

    The caller keeps the files: the graph opens them by name for each iterator. If an entry or a row
    is damaged, the step fails with `InvalidArgumentError`, which says `DAMAGED`.
    """
    read_chunk = _read_chunk(signature)
    view, index = files.view, files.index
    chunks = -(-parameters.whole // signature.rows) + (parameters.size > parameters.whole)
    block_chunks = max(1, BLOCK_ROWS // signature.rows)
    spec = tf.nest.map_structure(tf.TensorSpec.from_tensor, read_chunk.structured_outputs)

    def block(number: Any) -> Any:
        first = number * block_chunks
        numbers = tf.raw_ops.RangeDataset(
            start=first,
            stop=tf.minimum(first + block_chunks, int64(chunks)),
            step=int64(1),
            **type_attributes(tf.TensorSpec((), tf.int64)),
        )
        rows = _mapped_file(view.path, [view.position, view.seals.stride // 8])
        # `read_chunk` ignores what it does not need.
        values, cells = tf.zeros((0, UNIT // 8), tf.int64), tf.zeros(0, tf.int64)
        entries = cells
        if signature.variable:
            values = _mapped_file(view.values_path, [*view.values.shape])
        if index.files is not None:
            cells = _mapped_file(index.files.cells, [index.cell_words])
            entries = _mapped_file(index.files.entries, [index.entry_words])
        return tf.raw_ops.ParallelMapDatasetV2(
            input_dataset=numbers,
            other_arguments=[
                tf.constant(parameters, tf.int64),
                _order_tensor(signature, order),
                rows,
                values,
                cells,
                entries,
            ],
            num_parallel_calls=int64(tf.data.AUTOTUNE),
            f=read_chunk,
            **OWN_THREADS,
            **type_attributes(spec),
        )

    blocks = tf.data.Dataset.range(-(-chunks // block_chunks))
    opened = when_there(block, files.paths, spec, wait) if wait else block
    return FlatMapDataset(blocks, opened, spec)


@cache
def _read_chunk(signature: GatherSignature) -> Any:
    """Return the graph function that reads a chunk.

    It takes the chunk's number, the `ShardParameters`, the order (`_order_tensor`) and the mapped
    files, and returns the columns. It is traced and compiled at the first use in a process; the
    cache keeps it for later epochs. None of its operations may count as stateful, or iterators
    could not be saved.
    """
    layout = RowLayout(Codec(signature.stored))
    # Features are only appended, so that those of the epoch have the same bytes in a newer row.
    decode = row_decoder(Codec(signature.features), signature.wanted, by_row=signature.by_row)
    ranks_of, positions_of = _ranks(signature), _positions(signature)
    rows_are_intact = _compiled(lambda *inputs: rows_intact(layout.seals, *inputs))

    def read(number: Any, vector: Any, order: Any, rows: Any, values: Any, *index: Any) -> Any:
        parameters = ShardParameters(*tf.unstack(vector))
        after = tf.minimum(number * signature.rows, parameters.whole)
        end = tf.where(after < parameters.whole, parameters.whole, parameters.size)
        count = tf.minimum(end - after, signature.rows)
        ranks = ranks_of(after, vector, order)
        positions, entries_intact = positions_of(ranks, parameters.first, *index)
        words = tf.gather(rows, positions)
        intact = tf.reduce_all(entries_intact & rows_are_intact(words, positions))
        with _unless_damaged(intact):
            cut = tf.strided_slice(words, [0], [count])
            records = tf.reshape(tf.bitcast(cut, tf.uint8), (-1, layout.seals.stride))
            columns = decode(records, _values(layout, signature.variable, records, values))
            if not signature.by_row:
                return columns
            return tf.strided_slice(positions, [0], [count]), columns

    scalar, vector = tf.TensorSpec((), tf.int64), tf.TensorSpec((None,), tf.int64)
    order = vector if signature.tabled else tf.TensorSpec((ROUNDS,), tf.uint32)
    rows = tf.TensorSpec((None, layout.seals.stride // 8), tf.int64)
    values = tf.TensorSpec((None, UNIT // 8), tf.int64)
    # On no device: the function is kept, and must not stay on that of a strategy's worker.
    with tf.device(None):
        parameters = tf.TensorSpec((len(ShardParameters._fields),), tf.int64)
        return graph_function(read, scalar, parameters, order, rows, values, vector, vector)


def _values(layout: RowLayout, features: list[int], records: Any, values: Any) -> list[Any]:
    """Return the values of some features in rows, a vector of strings each.

    ``values`` are the units in the mapped file.
    """
    if not features:
        return []
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


def _ranks(signature: GatherSignature) -> Callable[[Any, Any, Any], Any]:
    """Return a function from a chunk's first number, `ShardParameters` and order to ranks."""

    def offsets_of(after: Any, parameters: ShardParameters) -> Any:
        # Padding of the last chunk. Unpadded, its numbers would lead past the epoch's end.
        numbers = after + tf.range(signature.rows, dtype=tf.int64)
        numbers = tf.minimum(numbers, parameters.size - 1)
        return sample_offsets(parameters, numbers, one_shard=signature.one_shard)

    @_compiled
    def compiled_step(after: Any, vector: Any, keys: Any, images: Any) -> Any:
        parameters = ShardParameters(*tf.unstack(vector))
        return step(parameters, keys, offsets_of(after, parameters), images)

    def walk(after: Any, vector: Any, keys: Any) -> Any:
        length = ShardParameters(*tf.unstack(vector)).length
        images = compiled_step(after, vector, keys, tf.fill([signature.rows], int64(-1)))
        return tf.while_loop(
            lambda images: tf.reduce_max(images) >= length,
            lambda images: [compiled_step(after, vector, keys, images)],
            [images],
        )[0]

    def look_up(after: Any, vector: Any, table: Any) -> Any:
        return tf.gather(table, offsets_of(after, ShardParameters(*tf.unstack(vector))))

    return look_up if signature.tabled else walk


def _positions(signature: GatherSignature) -> Callable[..., tuple[Any, Any]]:
    """Return a function from ranks to their positions and which were looked up without damage.

    It takes the ranks, the first position, and the mapped files of cells and entries.
    """
    find = _compiled(positions_of)

    def look_up(ranks: Any, _: Any, cells: Any, entries: Any) -> tuple[Any, Any]:
        positions, intact = find(cells, entries, ranks)
        return positions, intact

    return look_up if signature.indexed else lambda ranks, first, *_: (ranks + first, True)


def _order_tensor(signature: GatherSignature, order: Permutation) -> Any:
    if signature.tabled:
        return tf.constant(order(np.arange(order.size)), tf.int64)
    return tf.constant(order.keys, tf.uint32)


def _compiled(function: Callable[..., Any]) -> Any:
    """Have XLA compile a function into one loop, in place of a pass over memory per operation."""
    return tf.function(function, autograph=False, jit_compile=True)


def _mapped_file(path: Any, shape: list[int]) -> Any:
    """Return a file's content as an int64 tensor that maps the file into memory.

    TensorFlow opens the file by name when it is needed, so it must still be there then.
    """
    content = tf.raw_ops.ImmutableConst(dtype=tf.int64, shape=shape, memory_region_name=str(path))
    # Without this attribute, TensorFlow folds the constant when the graph starts: it copies the
    # file into memory, finds the copy too large for a constant, and keeps the memory. Constant
    # folding skips operations that have the attribute.
    # https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/common_runtime/constant_folding.cc
    content.op._set_attr("_scoped_allocator", attr_value_pb2.AttrValue(list={}))  # noqa: SLF001
    return content
