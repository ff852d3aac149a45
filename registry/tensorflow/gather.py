"""Gathering an epoch's samples from the mirror's files by graph operations alone.

`gathered_chunks` returns a dataset of chunks, each of which `chunk_functions` reads. Chunks are
read block by block. For each block, a function maps the files once, and makes a dataset of its
chunks, whose function captures the mapped tensors. (A file is mapped whenever the operation that
maps it runs, and each mapping faults in its pages again.) Blocks are also what tf.data service can
divide among workers.

The first block is short. The first dataset of its kind in a process reads it by code that is not
compiled. Meanwhile, the code that reads the others is compiled: the number of the second block
comes from a function that calls it. Later datasets find it compiled. Their graphs differ in two
constants only, so that an iterator can be restored from one that another process has saved.

No Python runs after the graph is built. So iterators can be saved, and the graph can run in another
process that sees the files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from registry.storage.mirror.local_files import LocalFiles
from registry.storage.mirror.value_units import UNIT
from registry.tensorflow.chunk_functions import (
    GatherSignature,
    order_dtype,
    order_images,
    read_chunk,
)
from registry.tensorflow.file_wait import when_there
from registry.tensorflow.graph_definition import Function, Symbol, define
from registry.tensorflow.graph_order import ShardParameters
from registry.tensorflow.raw_datasets import (
    LOCAL,
    NUMBERS,
    OWN_THREADS,
    DefinedDataset,
    type_attributes,
)
from registry.training.permutation import Permutation

NONE = -1
"""The number of no block."""
BLOCK_ROWS = 1 << 20
"""How many samples, about, are read from one mapping of the files, at least."""
BLOCKS = 16
"""How many blocks, about, a large epoch has.

Each block's mapping faults in most pages of the files once more: 0.3 s for 10⁸ rows of 44 bytes, as
long as two million samples take.
"""
FIRST_ROWS = 1 << 15
"""How many samples, about, are read by code that is not compiled.

It takes several times as long per sample. A step of a millisecond per batch of 256 waits for
nothing while XLA compiles; one that takes no time waits for a tenth of a second, once.
"""


_compiled: set[tuple[GatherSignature, int, int]] = set()
"""What is compiled in this process once the first dataset of its kind is read: a signature, and the
lengths of the files of the index."""


def gathered_chunks(
    signature: GatherSignature,
    files: LocalFiles,
    order: Permutation,
    parameters: ShardParameters,
    wait: float = 0,
) -> DefinedDataset:
    """Return a dataset of chunks, as dicts of columns or, by row, as pairs.

    ``wait`` is in seconds, for which files that are missing on the host are waited for.

    The caller keeps the files: the graph opens them by name for each iterator. If an entry or a row
    is damaged, the step fails with `InvalidArgumentError`, which says that the copy is damaged.
    """
    chunk = read_chunk(signature)
    chunks = -(-parameters.whole // signature.rows) + (parameters.size > parameters.whole)
    first, others = (max(1, rows // signature.rows) for rows in (FIRST_ROWS, BLOCK_ROWS))
    others = max(others, -(-chunks // BLOCKS))
    images = order_images(signature, order)
    blocks = (chunks > 0) + max(0, -(-(chunks - first) // others))
    kind = (signature, files.index.cell_words, files.index.entry_words)
    compiling = blocks > 1 and kind not in _compiled
    uncompiled = 1 if compiling or blocks == 1 else 0
    if compiling:
        _compiled.add(kind)

    def captured(number: Symbol, *, values: bool) -> list[Symbol]:
        shard = number.constant(parameters, tf.int64)
        permuted = number.constant(images, order_dtype(signature))
        return [shard, permuted, *_mapped_files(number, files, values=values)]

    def block(number: Symbol) -> list[Symbol]:
        start = (number < 1).where(number, (number - 1) * others + first)
        numbers = start.then(
            "RangeDataset",
            (number * others + first).minimum(chunks),
            1,
            **NUMBERS,
        )
        read = numbers.then(
            "ParallelMapDatasetV2",
            [number < uncompiled, *captured(number, values=bool(signature.variable))],
            # To decode a chunk's images takes much longer than to read it: chunks that are read
            # further ahead would delay the first batch.
            1 if signature.by_row else tf.data.AUTOTUNE,
            f=chunk.function,
            **OWN_THREADS,
            **type_attributes(chunk.spec),
        )
        return [read]

    def compiled(number: Symbol) -> list[Symbol]:
        *inputs, _ = captured(number, values=False)
        return number.call(chunk.compile, *inputs)

    def gathered(zero: Symbol) -> Symbol:
        numbers = zero.then("RangeDataset", blocks, 1, **NUMBERS)
        if blocks > 1 and not wait:
            ahead = define("compiled", compiled, [tf.int64])
            numbers = _after(numbers, 1 if compiling else NONE, ahead)
        opened = define("block", block, [tf.int64], LOCAL)
        if wait:
            opened = when_there(opened, files.paths, chunk.spec, wait)
        types = type_attributes(chunk.spec)
        every: Symbol = numbers.then("FlatMapDataset", [], f=opened, **types)
        if signature.by_row:
            return every
        # The prefetch keeps the cores busy while a block ends and the next one begins.
        prefetched: Symbol = every.then("PrefetchDataset", 1, **types)
        return prefetched

    return DefinedDataset(gathered, chunk.spec)


def _after(numbers: Symbol, number: int, function: Function) -> Symbol:
    """Return the same numbers, of which one comes after a function was called with it.

    That begins when the number before is taken.
    """

    def call(each: Symbol) -> list[Symbol]:
        returned: list[Symbol] = each.equal(number).then(
            "StatelessIf", [each], Tout=[tf.int64], then_branch=function, else_branch=unchanged
        )
        return returned

    unchanged = define("unchanged", lambda each: [each], [tf.int64])
    after: Symbol = numbers.then(
        "ParallelMapDatasetV2",
        [],
        2,
        f=define("call", call, [tf.int64], LOCAL),
        # "default" would follow the user's options, which may allow another order.
        deterministic="true",
        **OWN_THREADS,
        **NUMBERS,
    )
    return after


def _mapped_files(number: Symbol, files: LocalFiles, *, values: bool) -> list[Symbol]:
    """Return the files of rows, cells, entries and values; without one it is empty."""
    view, index = files.view, files.index
    nothing = number.constant(np.zeros(0), tf.int64)
    rows = _mapped_file(number, view.path, [view.position, view.seals.stride // 8])
    cells = entries = nothing
    if index.files is not None:
        cells = _mapped_file(number, index.files.cells, [index.cell_words])
        entries = _mapped_file(number, index.files.entries, [index.entry_words])
    if not values:
        return [rows, cells, entries, number.constant(np.zeros((0, UNIT // 8)), tf.int64)]
    return [rows, cells, entries, _mapped_file(number, view.values_path, [*view.values.shape])]


def _mapped_file(number: Symbol, path: Path, shape: list[int]) -> Symbol:
    """Return a file's content as an int64 tensor that maps the file into memory.

    TensorFlow opens the file by name when it is needed, so it must still be there then.
    """
    content: Symbol = number.source(
        "ImmutableConst",
        dtype=tf.int64,
        shape=tf.TensorShape(shape),
        memory_region_name=str(path),
        # Without this attribute, TensorFlow folds the constant when the graph starts: it copies the
        # file into memory, finds the copy too large for a constant, and keeps the memory. Constant
        # folding skips operations that have the attribute.
        # https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/common_runtime/constant_folding.cc
        _scoped_allocator=attr_value_pb2.AttrValue(list={}),
    )
    return content
