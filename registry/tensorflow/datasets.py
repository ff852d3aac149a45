"""Training runs as `tf.data` datasets.

A dataset is built in four steps:

1. `Elements` checks the names of features, and `Share` the batch size and the shard.
2. A source yields the samples in chunks of a few MiB. There are two kinds of sources.

   - `_in_graph`: a range of chunk numbers is mapped through `gather.gatherer`, which reads the
     mirror's files. `EpochDataset` uses it if all features have a fixed width and the epoch has
     local files (`Epoch.local_files`).
   - `_generated`: a Python generator yields chunks that `Epoch` reads from the mirror or the
     database. `StreamDataset` always uses it, because its epochs are pinned while it is read.

3. The chunks are decoded and cut into batches. Of a generator's chunks, fixed-width records are
   decoded in the graph (`row_decoder`), and encoded images sample by sample in the graph
   (`images.batches`). Otherwise Python decodes the columns, and the graph only makes
   RaggedTensors of those that are ragged.
4. `_Wrapped` adds prefetching and the options under which TensorFlow runs the whole.

Why chunks: they divide the cost of a call into Python or of a graph function among many samples.
Why two sources: iterators of a graph without Python can be saved by `tf.train.Checkpoint`, and
tf.data service can run it, but it needs all its files when it is built.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
import tensorflow as tf

from registry.errors import EpochError
from registry.samples.arrays import Positions
from registry.storage.log.reader import Log
from registry.storage.mirror.local_files import LocalFiles
from registry.tensorflow import gather as graph
from registry.tensorflow import images, interrupts
from registry.tensorflow.elements import (
    Elements,
    Names,
    arrays,
    joined,
    row_arrays,
    row_decoder,
    row_signature,
    signature,
)
from registry.tensorflow.endless import refuse_endless_epoch
from registry.tensorflow.from_generator import Generated
from registry.tensorflow.raw_datasets import Mapped, Rebatched, map_as_is
from registry.training.epoch import ALONE, Epoch
from registry.training.run import Run
from registry.training.sharding import Shard, Share

Worker: TypeAlias = Shard | Any
"""A pair of index and count, or a `tf.distribute.InputContext`."""


Chunk = tuple[Epoch, Positions]
"""An epoch, and the offsets of some of its samples."""
PATIENCE = 0.2
"""Seconds between the moments at which a stream that waits for samples can be cancelled."""


class _Wrapped(tf.data.Dataset):  # type: ignore[misc]  # TensorFlow ships no types
    """A dataset wrapped under the subclass's name, with prefetching and options added."""

    def __init__(self, whole: tf.data.Dataset) -> None:
        options = tf.data.Options()
        # The samples come from a database: there are no files of which each worker could read a
        # part, and `shard` has divided the samples already.
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        # There is nothing to tune here, but measuring costs a fifth of an epoch's time, and one
        # iterator in four takes up to twice as long to end, by up to a minute: the tuning thread
        # is woken before the flag that ends it is set, and sleeps again (`OptimizeLoop` in
        # https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/framework/model.cc).
        # Without it, buffers still grow when they run empty, and AUTOTUNE makes as many calls in
        # parallel as there are cores.
        options.autotune.enabled = False
        self._whole = whole.prefetch(tf.data.AUTOTUNE).with_options(options)
        super().__init__(self._whole._variant_tensor)  # noqa: SLF001  # as tf.data's own subclasses

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._whole]

    @property
    def element_spec(self) -> Any:
        """The dtypes and shapes of a batch."""
        return self._whole.element_spec


class EpochDataset(_Wrapped):
    """One epoch's samples, each once, in batches of ``batch_size``; its cardinality is known.

    Elements are dicts by feature. With ``x``, ``y`` and ``weight`` they are ``x``, ``(x, y)`` or
    ``(x, y, weight)``. Each of these is the name of a feature, a list of names for a dict by
    feature, or a mapping for a dict by other names, such as ``weight={"mask": "mask_weight"}`` by
    a model's output.

    A batch has the shape ``(batch_size, *shape)`` and the feature's dtype. Class labels are int32,
    `Text` and `Bytes` are strings, and `Ragged` is a RaggedTensor. `Image` is decoded to uint8,
    shape ``(batch_size, height, width, channels)``, and resized to ``image_size``,
    ``(height, width)``, if that is given. The error of an image that cannot be decoded names its
    dataset, position, key and feature.

    With ``shard``, ``(index, count)`` or a `tf.distribute.InputContext`, the dataset holds only
    that worker's part of every ``batch_size * count`` samples. ``start`` is the offset in the
    epoch of the first sample of all shards. The last batch is shorter if the size is not a
    multiple of the batch size; with ``drop_remainder`` it is left out.

    A function that is mapped over the dataset with AUTOTUNE runs as many calls in parallel as
    there are cores. Autotuning is disabled, because it costs more than it gains here; enable it by
    `with_options`.

    If all features have a fixed width, no Python runs while batches are made. Then
    `tf.train.Checkpoint` saves and restores iterators, and tf.data service can run the dataset in
    another process that sees the cache directory.
    """

    def __init__(
        self,
        epoch: Epoch,
        *,
        batch_size: SupportsIndex,
        x: Names | None = None,
        y: Names | None = None,
        weight: Names | None = None,
        shard: Worker = ALONE,
        start: SupportsIndex = 0,
        drop_remainder: bool = False,
        channels: int = 3,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        elements = Elements(epoch.features, x, y, weight, channels, image_size)
        share = Share.of(batch_size, pair(shard))
        if not 0 <= (first := operator.index(start)) <= epoch.size:
            raise EpochError(f"{epoch!r} has no sample {first} to start at")
        size = share.size(epoch.size - first, drop_remainder=drop_remainder)
        # Both references keep the local files. The graph opens them by name for each iterator, so
        # without the references a file could be removed between two iterations.
        self._epoch = epoch
        self._files = epoch.local_files()
        if self._files is not None:
            chunks = _in_graph(epoch, self._files, share, first, size, elements)
            batches = Rebatched(chunks, share.batch_size, drop_remainder=drop_remainder)
        else:
            batches = _generated(
                elements,
                lambda: (
                    (epoch, offsets)
                    for offsets in epoch.chunks(share, first, drop_remainder=drop_remainder)
                ),
                epoch.source.log,
                share.batch_size,
                drop_remainder=drop_remainder,
            )
        count = -(-size // share.batch_size)
        super().__init__(batches.apply(tf.data.experimental.assert_cardinality(count)))

    def __iter__(self) -> Any:
        """Iterate over the batches, from the first one on.

        Raises `MirrorError` if the local files were removed by hand.
        """
        if self._files is not None:
            self._files.check()
        return super().__iter__()


class StreamDataset(_Wrapped):
    """A run's samples without end, epoch after epoch, in full batches that can span two epochs.

    Arguments and elements are as in `EpochDataset`. ``start`` is the number of the run's samples,
    of all shards, before the first one. With None, each new iterator continues after the samples
    that are recorded as consumed (`Run.record`), so that an iterator that is discarded loses none.

    An epoch is pinned when its first sample is read. That is a little before the sample is trained
    on, because batches are prefetched. Ctrl-C ends the wait for a sample if the dataset was made
    in the main thread. Keras needs ``steps_per_epoch`` with it, or its epoch would not end.
    """

    def __init__(
        self,
        run: Run,
        *,
        batch_size: SupportsIndex,
        x: Names | None = None,
        y: Names | None = None,
        weight: Names | None = None,
        shard: Worker = ALONE,
        start: SupportsIndex | None = None,
        channels: int = 3,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        elements = Elements(run.features, x, y, weight, channels, image_size)
        share = Share.of(batch_size, pair(shard))

        def chunks() -> Iterator[Chunk | None]:
            first = run.consumed if start is None else operator.index(start)
            # This runs in one of TensorFlow's threads, where `KeyboardInterrupt` is never raised.
            pressed = interrupts.count()
            for chunk in run.chunks(share, first, PATIENCE):
                if chunk is None and interrupts.count() != pressed:
                    raise EpochError(f"run {run.name!r} waited for a sample until Ctrl-C")
                yield chunk
                # Ctrl-C while there are samples interrupts the training, and must not end a later
                # wait of this iterator.
                if chunk is not None:
                    pressed = interrupts.count()

        interrupts.watch()

        batches = _generated(elements, chunks, run.log, share.batch_size, drop_remainder=True)
        endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        super().__init__(batches.apply(endless))

    def cardinality(self) -> Any:
        """Return `tf.data.INFINITE_CARDINALITY`.

        Raises `TrainingError` if Keras asks without a number of steps.
        """
        refuse_endless_epoch()
        return super().cardinality()

    def map(self, *arguments: Any, **options: Any) -> tf.data.Dataset:
        """Map a function over the batches, as `tf.data.Dataset.map` does.

        Raises `TrainingError` if Keras maps without a number of steps.
        """
        # Keras maps `class_weight` before it asks for the cardinality, and then it asks the mapped
        # dataset, which knows nothing of this check.
        refuse_endless_epoch()
        return super().map(*arguments, **options)


def pair(shard: Worker) -> Shard:
    """Return a worker's index and the number of workers."""
    if isinstance(shard, tf.distribute.InputContext):
        return shard.input_pipeline_id, shard.num_input_pipelines
    index, count = shard
    return index, count


def _in_graph(
    epoch: Epoch, files: LocalFiles, share: Share, start: int, size: int, elements: Elements
) -> tf.data.Dataset:
    """Return a dataset of chunks that graph operations gather from the mirror's files.

    Elements are columns of up to `Epoch.chunk_rows` samples, already selected; ``size`` is the
    number of the shard's samples.
    """
    rows = epoch.chunk_rows(share.batch_size)
    kind = graph.Kind(
        epoch.features,
        tuple(elements.wanted),
        rows,
        indexed=files.index.entries is not None,
        alone=share.count == 1,
    )
    facts = graph.Facts.of(epoch.order, files.index, share, start, size)
    gather = graph.gatherer(kind, files.view, files.index, epoch.order, facts)
    numbers = tf.data.Dataset.range(-(-size // rows))
    return Mapped(numbers, lambda number: elements.select(gather(number)))


def _generated(
    elements: Elements,
    chunks: Callable[[], Iterator[Chunk | None]],
    log: Log,
    batch_size: int,
    *,
    drop_remainder: bool,
) -> tf.data.Dataset:
    """Return batches of samples that a Python generator reads, a chunk at a time.

    ``chunks`` yields None while there is nothing to read yet, and this yields an empty chunk for
    it. TensorFlow cannot interrupt Python, but it can cancel an iterator between two chunks.
    """
    codec = log.codec
    features, wanted = codec.features, elements.wanted
    if codec.fixed_width:
        empty = np.empty((0, codec.header.itemsize), np.uint8)
        rows = Generated(
            lambda: (
                rows
                for chunk in chunks()
                for rows in (chunk[0].rows(chunk[1]) if chunk else [empty])
            ),
            tf.TensorSpec((None, None), tf.uint8),
        )
        decode = row_decoder(codec, wanted)
        decoded = Mapped(rows, lambda found: elements.select(decode(found)))
        return Rebatched(decoded, batch_size, drop_remainder=drop_remainder)
    if elements.images:
        return _with_images(elements, chunks, log, batch_size, drop_remainder=drop_remainder)
    nothing = codec.decode(b"", 0)

    def parts() -> Iterator[Any]:
        for chunk in chunks():
            for columns in chunk[0].columns(chunk[1]) if chunk else [nothing]:
                yield arrays(features, columns, wanted)

    columns = Generated(parts, signature(features, wanted))
    chosen = map_as_is(columns, lambda found: elements.select(joined(found)))
    return chosen.rebatch(batch_size, drop_remainder=drop_remainder)


def _with_images(
    elements: Elements,
    chunks: Callable[[], Iterator[Chunk | None]],
    log: Log,
    batch_size: int,
    *,
    drop_remainder: bool,
) -> tf.data.Dataset:
    """Return what `_generated` does, with images decoded in the graph.

    Chunks carry the position of each sample, by which an image that cannot be decoded is named.
    """
    features, wanted = log.codec.features, elements.wanted
    nothing = np.empty(0, np.int64), log.codec.decode(b"", 0)

    def parts() -> Iterator[Any]:
        for chunk in chunks():
            found = chunk[0].samples(chunk[1], batch_size) if chunk else [nothing]
            for positions, columns in found:
                yield positions, row_arrays(features, columns, wanted)

    places = tf.TensorSpec((None,), tf.int64)
    # Without the prefetch, decoding waits while Python gathers the next chunk.
    ahead = Generated(parts, (places, row_signature(features, wanted))).prefetch(1)
    return images.batches(ahead, elements, log, batch_size, drop_remainder=drop_remainder)
