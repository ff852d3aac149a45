"""The two ways to make batches of an epoch's samples: in the graph alone, or by a generator.

Samples travel in chunks of a few MiB, which are then cut into batches. Chunks divide the cost of a
call into Python, or of a graph function, among many samples.

- `file_batches`: `gather.gathered_chunks` reads the mirror's files, and `images.batches` decodes
  images. Iterators of a graph without Python can be saved by `tf.train.Checkpoint`, and
  tf.data service can run it. All files must be there when it is built.
- `generator_batches`: a Python generator yields chunks that `Epoch` reads from the mirror or the
  database. They are handed on as arrays of rows and of units (`PackedChunk`), and decoded in the
  graph. With encoded images, Python decodes the records into columns with one value per sample, and
  `images.batches` decodes the images sample by sample in the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import starmap
from typing import Any

import numpy as np
import tensorflow as tf

from registry.samples.arrays import Positions
from registry.samples.codec import Codec, Column
from registry.samples.schema import Schema
from registry.storage.database.transactions import read
from registry.storage.log.reader import Log
from registry.storage.log.records import dataset_name
from registry.storage.mirror.local_files import LocalFiles
from registry.tensorflow import images
from registry.tensorflow.batch_dataset import BatchDataset
from registry.tensorflow.chunk_functions import LARGEST_TABLE, GatherSignature
from registry.tensorflow.elements import (
    Elements,
    row_arrays,
    row_decoder,
    row_specs,
)
from registry.tensorflow.freed_memory import keep_freed_memory
from registry.tensorflow.from_generator import GeneratorDataset
from registry.tensorflow.gather import gathered_chunks
from registry.tensorflow.graph_order import ShardParameters
from registry.tensorflow.graph_values import string_columns
from registry.tensorflow.image_errors import ImageErrors
from registry.tensorflow.raw_datasets import MapDataset, OwnThreadsDataset
from registry.training import packed_chunk
from registry.training.batching import in_whole_batches
from registry.training.chunks import Samples, rows_in_chunk
from registry.training.epoch import Epoch
from registry.training.packed_chunk import PackedChunk
from registry.training.sharding import Share

Chunk = tuple[Samples, Positions]
"""An epoch, or epochs of a mix, and the offsets of some of its samples."""
ChunkIterator = Iterator[Chunk | None]
"""Yields None while there is nothing to read yet."""
_POSITIONS = ""
"""The name of the positions next to columns: no feature has it."""


def file_batches(
    epoch: Epoch,
    files: LocalFiles,
    elements: Elements,
    share: Share,
    start: int,
    *,
    drop_remainder: bool,
    wait: float,
) -> tf.data.Dataset[Any]:
    """Return batches that graph operations gather from the mirror's files.

    The caller keeps ``files``; where they are missing, they are waited for, in seconds.
    """
    size = share.size(epoch.size - start, drop_remainder=drop_remainder)
    parameters = ShardParameters.of(epoch.order, share, start, size, files.index.first)
    view, wanted = files.view, tuple(elements.wanted)
    variable = any(name in epoch.features.variable for name in wanted)
    if variable:
        keep_freed_memory()
    width = epoch.source.record_bytes if variable else view.seals.stride
    signature = GatherSignature(
        epoch.features,
        wanted,
        view.schema.features,
        _chunk_rows(width, elements, share.batch_size, fixed_width=not variable),
        indexed=files.index.entries is not None,
        one_shard=share.count == 1,
        tabled=epoch.size <= LARGEST_TABLE,
        by_row=bool(elements.images),
    )
    # There is no prefetch of batches: waking a thread for each would take as long as making it.
    chunks = gathered_chunks(signature, files, epoch.order, parameters, wait)
    if elements.images:
        log = epoch.source.log
        errors = ImageErrors(
            elements, [log], share.batch_size, read(log.engine, dataset_name, log.dataset_id)
        )
        return images.batches(
            chunks, elements, errors, share.batch_size, drop_remainder=drop_remainder
        ).prefetch(tf.data.AUTOTUNE)
    return BatchDataset(chunks, elements.select, share.batch_size, drop_remainder=drop_remainder)


def _chunk_rows(width: int, elements: Elements, batch_size: int, *, fixed_width: bool) -> int:
    if elements.images:
        # More than of other samples, since each chunk is a dataset that must be started. But half
        # of what Python copies at a time: decoding 256 by 256 pixels takes 3 % less time so.
        return rows_in_chunk(2 * width, batch_size, fixed_width=False, as_arrays=False)
    return rows_in_chunk(width, batch_size, fixed_width=fixed_width)


def generator_batches(
    elements: Elements,
    chunks: Callable[[], ChunkIterator],
    schema: Schema,
    logs: Sequence[Log],
    batch_size: int,
    *,
    drop_remainder: bool,
) -> tf.data.Dataset[Any]:
    """Return batches of samples that a Python generator reads, a chunk at a time.

    Each iterator calls ``chunks`` once. All chunks have this schema, and positions in ``logs``.
    """
    if elements.images:
        samples = _samples(elements, chunks, schema.codec, batch_size)
        errors = ImageErrors(elements, logs, batch_size)
        return images.batches(samples, elements, errors, batch_size, drop_remainder=drop_remainder)
    decoded = _decoded(elements, chunks, schema.codec, batch_size)
    return BatchDataset(decoded, elements.select, batch_size, drop_remainder=drop_remainder)


# Each generator below yields no samples where `chunks` yields None: a generator can only be ended
# where it yields, also while it waits for samples.


def _decoded(
    elements: Elements,
    chunks: Callable[[], ChunkIterator],
    codec: Codec,
    batch_size: int,
) -> tf.data.Dataset[Any]:
    """Return chunks of samples, which Python hands on as arrays, of whole batches each."""
    empty = PackedChunk.empty(codec)
    variable = [n for n, name in enumerate(codec.features.variable) if name in elements.wanted]

    def arrays_of(chunk: PackedChunk) -> Any:
        # As a string: `graph_values.message_of` copies units three times to make one of them.
        return chunk.rows, np.array(chunk.units_of(variable).tobytes(), object)

    def packed() -> Iterator[PackedChunk]:
        for chunk in chunks():
            yield from chunk[0].packed(chunk[1], batch_size) if chunk else [empty]

    def generate() -> Iterator[Any]:
        return map(arrays_of, packed_chunk.in_whole_batches(packed(), batch_size))

    def decoded(arrays: Any) -> Any:
        rows, message = arrays
        return decode(rows, string_columns(message, tf.shape(rows)[0], len(variable)))

    spec = tf.TensorSpec((None, None), tf.uint8), tf.TensorSpec((), tf.string)
    decode = row_decoder(codec, elements.wanted)
    return OwnThreadsDataset(MapDataset(_generated(generate, spec, arrays_of(empty)), decoded))


def _samples(
    elements: Elements, chunks: Callable[[], ChunkIterator], codec: Codec, batch_size: int
) -> tf.data.Dataset[Any]:
    """Return chunks of samples with their positions, as `images.batches` takes them.

    By its position, an image that cannot be decoded is named.
    """
    features, wanted = codec.features, elements.wanted

    def arrays_of(positions: Positions, columns: Mapping[str, Column]) -> dict[str, Column]:
        return {_POSITIONS: positions, **row_arrays(features, columns, wanted)}

    def parts() -> Iterator[dict[str, Column]]:
        for chunk in chunks():
            samples = chunk[0].samples(chunk[1], batch_size) if chunk else [nothing]
            yield from starmap(arrays_of, samples)

    def generate() -> Iterator[Any]:
        return map(element_of, in_whole_batches(parts(), batch_size))

    def element_of(arrays: dict[str, Column]) -> Any:
        return arrays.pop(_POSITIONS), arrays

    nothing = np.empty(0, np.int64), codec.decode(b"", 0)
    empty = element_of(arrays_of(*nothing))
    spec = tf.TensorSpec((None,), tf.int64), row_specs(features, wanted)
    # Without the prefetch, decoding waits while Python gathers the next chunk.
    return _generated(generate, spec, empty).prefetch(1)


def _generated(
    generate: Callable[[], Iterator[Any]], spec: Any, empty: Any
) -> tf.data.Dataset[Any]:
    # On one thread: while Python waits for samples, it would keep one from the chunks before.
    return OwnThreadsDataset(GeneratorDataset(generate, spec, empty), 1)
