"""Training runs as `tf.data` datasets.

How a dataset is built:

1. `Elements` checks the names of features, and `Share` the batch size and the shard.
2. `pipelines` makes batches of the samples. `EpochDataset` reads the mirror's files in the graph if
   the epoch has local files (`Epoch.local_files`). Otherwise a Python generator reads the epoch.
   `StreamDataset` always uses a generator, because its epochs are pinned while it is read.
3. `_RunDataset` adds the options under which TensorFlow runs the whole.

How it is read: TensorFlow's threads run the graph, or wait for the thread that runs the generator
(`generator_thread`), a few batches ahead of the training. So an exception in a generator reaches
the user as an error of TensorFlow's, a signal does not reach it at all (`interrupts`), and it must
have ended when the interpreter is finalized (`generator_shutdown`).
"""

from __future__ import annotations

import inspect
import operator
from typing import Any, SupportsIndex, TypeAlias

import tensorflow as tf

from registry.errors import EpochError, TrainingError
from registry.tensorflow import interrupts
from registry.tensorflow.elements import Elements, Names
from registry.tensorflow.file_wait import check_wait
from registry.tensorflow.generator_thread import CANCEL_INTERVAL
from registry.tensorflow.image_fitting import Ratio, Size
from registry.tensorflow.image_options import Boxes, ImageOptions
from registry.tensorflow.pipelines import ChunkIterator, file_batches, generator_batches
from registry.tensorflow.raw_datasets import CountedDataset
from registry.training.epoch import Epoch
from registry.training.mix import Mix
from registry.training.run import Run
from registry.training.sharding import ALONE, Shard, Share

Worker: TypeAlias = Shard | Any
"""A pair of index and count, or a `tf.distribute.InputContext`."""
_KERAS_ITERATOR = "keras.src.trainers.epoch_iterator"


class _RunDataset(tf.data.Dataset[Any]):  # type: ignore[misc]  # TensorFlow ships no types
    """A dataset of batches under the subclass's name, with options added."""

    def __init__(self, batches: tf.data.Dataset[Any]) -> None:
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
        # Each new iterator would copy the whole graph to look for what it can rewrite, which takes
        # most of the time until the first batch. Without autotuning, TensorFlow would only fuse
        # `map` and `batch`, and `shuffle` and `repeat`.
        options.experimental_optimization.apply_default_optimizations = False
        self._batches = batches.with_options(options)
        super().__init__(self._batches._variant_tensor)  # noqa: SLF001  # as tf.data's own subclasses

    def _inputs(self) -> list[tf.data.Dataset[Any]]:
        return [self._batches]

    @property
    def element_spec(self) -> Any:
        """The dtypes and shapes of a batch."""
        return self._batches.element_spec


class EpochDataset(_RunDataset):
    """One epoch's samples, each once, in batches of ``batch_size``; its cardinality is known.

    Elements are dicts by feature. With ``x``, ``y`` and ``weight`` they are ``x``, ``(x, y)`` or
    ``(x, y, weight)``. Each of these is the name of a feature, a list of names for a dict by
    feature, or a mapping for a dict by other names, such as ``weight={"mask": "mask_weight"}`` by
    a model's output.

    A batch has the shape ``(batch_size, *shape)`` and the feature's dtype. Class labels are int32,
    `Text` and `Bytes` are strings, and `Ragged` is a RaggedTensor ``(batch_size, None, *shape)``.
    `Image` is decoded to uint8, shape ``(batch_size, height, width, channels)``; ``channels`` is 1,
    3, 4, or 0 for as many as the file has. With ``image_size``, ``(height, width)``, it is resized:
    by ``ratio``, all of the image fills the size ("stretch"), or all of it is in the size between
    black stripes ("pad"), or its center fills the size ("crop"). ``boxes`` is the feature with its
    boxes, `Ragged` ``(4,)`` with shares of the image's sides ("rel_xyxy"), or a mapping of such
    features to formats of `registry.samples.box_formats`; they become those in the resized image.
    The name ``image_shape`` among x, y or weight stands for the height and width before, int32
    ``(batch_size, 2)``. Without ``image_size``, the images of a batch must have one size. The
    error of an image that cannot be decoded names its dataset, position, key and feature; one from
    another process (see below) names the command that shows the key. With
    ``decode_images=False``, images stay files, as strings.

    With ``shard``, ``(index, count)`` or a `tf.distribute.InputContext`, the dataset holds only
    that worker's part of every ``batch_size * count`` samples. ``start`` is the offset in the
    epoch of the first sample of all shards. The last batch is shorter if the size is not a
    multiple of the batch size; with ``drop_remainder`` it is left out.

    A function that is mapped over the dataset with AUTOTUNE runs as many calls in parallel as
    there are cores. Autotuning and TensorFlow's default optimizations are disabled, because they
    cost more than they gain here. `with_options` enables them: ``autotune.enabled``, and
    ``experimental_optimization.apply_default_optimizations``.

    Unless there is no local copy, no Python runs while batches are made. `tf.train.Checkpoint`
    saves and restores iterators, with images not symbolically
    (`tf.data.Options.experimental_symbolic_checkpoint`). Other processes that see the cache
    directory can run the dataset: workers of tf.data service, which may divide it, or of a
    `tf.distribute.ParameterServerStrategy`. On another host they wait for ``wait`` seconds, until
    `registry mirror` has made the epoch's files there; then the step fails.
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
        image_size: Size | None = None,
        ratio: Ratio = "stretch",
        boxes: Boxes | None = None,
        decode_images: bool = True,
        wait: float = 0,
    ) -> None:
        images = ImageOptions(channels, image_size, ratio, boxes, decode_images)
        elements = Elements(epoch.features, x, y, weight, images)
        share = Share.of(batch_size, as_shard(shard))
        if not 0 <= (first := operator.index(start)) <= epoch.size:
            raise EpochError(f"{epoch!r} has no sample {first} to start at")
        check_wait(wait)
        # Both references keep the local files. The graph opens them by name for each iterator, so
        # without the references a file could be removed between two iterations.
        self._epoch = epoch
        self._files = epoch.local_files()
        if self._files is not None:
            batches = file_batches(
                epoch, self._files, elements, share, first, drop_remainder=drop_remainder, wait=wait
            )
        else:

            def chunks() -> ChunkIterator:
                for offsets in epoch.chunks(share, first, drop_remainder=drop_remainder):
                    yield epoch, offsets

            batches = generator_batches(
                elements,
                chunks,
                epoch.schema,
                [epoch.source.log],
                share.batch_size,
                drop_remainder=drop_remainder,
            )
        size = share.size(epoch.size - first, drop_remainder=drop_remainder)
        count = -(-size // share.batch_size)
        super().__init__(CountedDataset(batches, count))

    def __iter__(self) -> Any:
        """Iterate over the batches, from the first one on.

        Raises `MirrorError` if the local files were removed by hand.
        """
        if self._files is not None:
            self._files.check()
        return super().__iter__()


class StreamDataset(_RunDataset):
    """A run's samples without end, epoch after epoch, in full batches that can span two epochs.

    Or those of a mix, in its order. Arguments and elements are as in `EpochDataset`. ``start`` is
    the number of samples, of all shards, before the first one. With None, each new iterator
    continues after the samples that are recorded as consumed (`Run.record`, `Mix.record`), so that
    an iterator that is discarded loses none.

    An epoch is pinned when its first sample is read. That is a little before the sample is trained
    on, because batches are prefetched. Ctrl-C ends the wait for a sample if the dataset was made
    in the main thread. Keras needs ``steps_per_epoch`` with it, or its epoch would not end.

    Elements have the features that the dataset had when the run was opened. Those that are added
    later are left out, and in older epochs the others have their defaults.
    """

    def __init__(
        self,
        run: Run | Mix,
        *,
        batch_size: SupportsIndex,
        x: Names | None = None,
        y: Names | None = None,
        weight: Names | None = None,
        shard: Worker = ALONE,
        start: SupportsIndex | None = None,
        channels: int = 3,
        image_size: Size | None = None,
        ratio: Ratio = "stretch",
        boxes: Boxes | None = None,
        decode_images: bool = True,
    ) -> None:
        images = ImageOptions(channels, image_size, ratio, boxes, decode_images)
        elements = Elements(run.features, x, y, weight, images)
        share = Share.of(batch_size, as_shard(shard))

        def chunks() -> ChunkIterator:
            first = run.consumed if start is None else operator.index(start)
            if isinstance(run, Mix):  # which waits for nothing
                yield from run.chunks(share, first)
                return
            # This does not run in the main thread, where alone `KeyboardInterrupt` is raised.
            pressed = interrupts.count()
            for chunk in run.chunks(share, first, CANCEL_INTERVAL):
                if chunk is None and interrupts.count() != pressed:
                    raise EpochError(f"run {run.name!r} waited for a sample until Ctrl-C")
                yield chunk
                # Ctrl-C while there are samples interrupts the training, and must not end a later
                # wait of this iterator.
                if chunk is not None:
                    pressed = interrupts.count()

        interrupts.watch()

        # A stream has no remainder, but this makes the batch size known to a model that is built.
        batches = generator_batches(
            elements, chunks, run.schema, run.logs, share.batch_size, drop_remainder=True
        )
        endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        super().__init__(batches.apply(endless))

    def cardinality(self) -> Any:
        """Return `tf.data.INFINITE_CARDINALITY`.

        Raises `TrainingError` if Keras asks without a number of steps.
        """
        _check_steps_given()
        return super().cardinality()

    def map(self, *arguments: Any, **options: Any) -> tf.data.Dataset[Any]:
        """Map a function over the batches, as `tf.data.Dataset.map` does.

        Raises `TrainingError` if Keras maps without a number of steps.
        """
        # Keras maps `class_weight` before it asks for the cardinality, and then it asks the mapped
        # dataset, which knows nothing of this check.
        _check_steps_given()
        return super().map(*arguments, **options)


class MixStepsDataset(_RunDataset):
    """A worker's next ``steps`` batches of a mix after its first ``start`` samples.

    Unlike a `StreamDataset` that is cut off, it pins no epoch and reads no sample after them.
    Elements are those of a `StreamDataset`.
    """

    def __init__(
        self,
        mix: Mix,
        share: Share,
        start: int,
        steps: int,
        *,
        x: Names | None = None,
        y: Names | None = None,
        weight: Names | None = None,
        channels: int = 3,
        image_size: Size | None = None,
        ratio: Ratio = "stretch",
        boxes: Boxes | None = None,
        decode_images: bool = True,
    ) -> None:
        images = ImageOptions(channels, image_size, ratio, boxes, decode_images)
        elements = Elements(mix.features, x, y, weight, images)
        batches = generator_batches(
            elements,
            lambda: mix.chunks(share, start, steps),
            mix.schema,
            mix.logs,
            share.batch_size,
            drop_remainder=True,
        )
        super().__init__(CountedDataset(batches, steps))


def as_shard(worker: Worker) -> Shard:
    """Return a worker's index and the number of workers."""
    if isinstance(worker, tf.distribute.InputContext):
        return worker.input_pipeline_id, worker.num_input_pipelines
    index, count = worker
    return index, count


def _check_steps_given() -> None:
    """Raise `TrainingError` if Keras is the caller and was given no number of steps.

    It would train one epoch without end. Keras does not pass the number to a dataset. It is only an
    attribute of Keras's `EpochIterator`, which this finds on the stack.
    """
    # If another version of Keras moves the module, nothing is raised, and the epoch is endless.
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == _KERAS_ITERATOR:
            iterator = frame.f_locals.get("self")
            if iterator is not None and iterator.steps_per_epoch is None:
                raise TrainingError(
                    "a StreamDataset has no end: pass steps_per_epoch to model.fit (steps to "
                    "model.evaluate or predict), or train on whole epochs of the run by "
                    "registry.keras.fit(model, run, …)"
                )
            return
        frame = frame.f_back
