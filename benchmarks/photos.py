"""Subjects: training on JPEG files, where decoding takes nearly all of the time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from benchmarks import tfrecords
from benchmarks.cache import cache
from benchmarks.data import SEED, Samples, loaded
from benchmarks.measure import Bench, Contender, Result, Work, compare, interleave
from benchmarks.pipelines import Make
from registry.samples.features import ClassLabel, Features, Image
from registry.tensorflow import EpochDataset, StreamDataset
from registry.tensorflow.images import DECODERS
from registry.training.run import Run

FILES = 400
SIDE = 512
SMALL_FILES, SMALL_SIDE, RESIZED = 2000, 256, (224, 224)
"""The files that are resized, pixels along their sides, and the height and width of the result.

An epoch has as many batches as are taken."""
NOISE = {4: 40, 32: 20, 256: 8.5}
"""Strength of the noise in levels of brightness, by the number of cells along a side."""
BATCH = 32
LEAST, MOST = 10, 60
"""Minimum and maximum of the batches that are taken."""
Decode: TypeAlias = Callable[[Any], Any]
"""From a file to an image."""


def train_photos(bench: Bench) -> list[Result]:
    """Take files of 100 KiB and their labels, next to the same decoding of files in memory."""
    samples = photos()
    batches = min(MOST, max(LEAST, bench.rows // 10_000))
    with (
        cache(),
        bench.server.database() as database,
        loaded(database, {"photos": samples}) as reg,
    ):
        run = reg.open("photos").run("train")
        ways = {"ours": partial(streamed, run), "memory": partial(in_memory, samples, decode)}
        for make in ways.values():
            _check(make(), samples, decode)
        timings = interleave(
            {name: _contender(make, batches) for name, make in ways.items()}, bench.rounds
        )
    what = "StreamDataset of JPEG files, next to files in memory"
    return [compare(what, timings["ours"], timings["memory"], at_least=0.95)]


def train_resized_photos(bench: Bench) -> list[Result]:
    """Take smaller files, and resize the images, next to files in memory and in TFRecord files."""
    samples = photos(SMALL_FILES, SMALL_SIDE)
    batches = min(MOST, max(LEAST, bench.rows // 10_000))
    with (
        cache(),
        bench.server.database() as database,
        loaded(database, {"photos": samples}) as reg,
        tfrecords.written(samples, tfrecords.image_example) as folder,
    ):
        run = reg.open("photos").run("train")
        ways: dict[str, Make] = {
            "EpochDataset": partial(epochs, run, RESIZED),
            "StreamDataset": partial(streamed, run, RESIZED),
            "files in memory": partial(in_memory, samples, decode_and_resize),
            "TFRecord": partial(recorded, folder, len(samples), decode_and_resize),
        }
        for make in ways.values():
            _check(make(), samples, decode_and_resize)
        timings = interleave(
            {name: _contender(make, batches) for name, make in ways.items()}, bench.rounds
        )
    what = f"JPEG files of {SMALL_SIDE} by {SMALL_SIDE} pixels, resized"
    return [
        compare(f"{what}: {ours}, next to {other}", timings[ours], timings[other], at_least=1)
        for ours in ("EpochDataset", "StreamDataset")
        for other in ("files in memory", "TFRecord")
    ]


def photos(count: int = FILES, side: int = SIDE) -> Samples:
    """Make files as large as a camera's of this size; the label is the number of the file."""
    rng = np.random.default_rng(SEED)
    files = [_photo(rng, side) for _ in range(count)]
    features = Features({"image": Image("jpeg"), "label": ClassLabel(count)})
    columns = {"image": files, "label": np.arange(count, dtype=np.int32)}
    return Samples(features, columns, [f"photo-{number}" for number in range(count)])


def streamed(run: Run, size: tuple[int, int] | None = None) -> tf.data.Dataset:
    return StreamDataset(run, batch_size=BATCH, x="image", y="label", image_size=size)


def epochs(run: Run, size: tuple[int, int]) -> tf.data.Dataset:
    """Return the batches of one epoch, repeatedly."""
    epoch = EpochDataset(
        run.epoch(0),
        batch_size=BATCH,
        x="image",
        y="label",
        image_size=size,
        drop_remainder=True,
    )
    return epoch.repeat()


def in_memory(samples: Samples, decoded: Decode) -> tf.data.Dataset:
    files = tf.data.Dataset.from_tensor_slices((samples.columns["image"], samples.columns["label"]))
    return _batched(files.shuffle(len(samples)).repeat().map(_with_label(decoded), DECODERS))


def recorded(folder: Path, rows: int, decoded: Decode) -> tf.data.Dataset:
    """Decode where a record is parsed, which saves a step for each image."""
    records = tfrecords.shuffled(folder, rows).repeat()
    with_label = _with_label(decoded)
    return _batched(records.map(lambda one: with_label(*tfrecords.parse_image(one)), DECODERS))


def decode(file: Any) -> Any:
    return tf.io.decode_jpeg(file, channels=3)


def decode_and_resize(file: Any) -> Any:
    """Return the image as `EpochDataset` does: bilinear, rounded to uint8."""
    resized = tf.image.resize(decode(file), RESIZED)
    return tf.saturate_cast(tf.round(resized), tf.uint8)


def _with_label(decoded: Decode) -> Callable[[Any, Any], tuple[Any, Any]]:
    return lambda file, label: (decoded(file), label)


def _batched(images: tf.data.Dataset) -> tf.data.Dataset:
    return images.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def _photo(rng: np.random.Generator, side: int) -> bytes:
    """Return noise of several scales, the coarser the stronger, as photos have."""
    image = np.zeros((side, side, 3), np.float32)
    for cells, strength in NOISE.items():
        noise = strength * rng.standard_normal((cells, cells, 3), np.float32)
        image += tf.image.resize(noise, (side, side), "bicubic").numpy()
    pixels = np.clip(128 + image, 0, 255).astype(np.uint8)
    encoded: bytes = tf.io.encode_jpeg(pixels, quality=95).numpy()
    return encoded


def _contender(make: Make, batches: int) -> Contender:
    @contextmanager
    def ready() -> Iterator[Work]:
        # TensorFlow may take a second to end an iterator, which is not training. The list keeps it
        # alive until the end of the round, after the time is taken.
        running: list[Iterator[Any]] = []

        def work() -> int:
            running.append(iter(dataset))
            return BATCH * sum(1 for _ in islice(running[0], batches))

        dataset = make()
        yield work

    return ready


def _check(dataset: tf.data.Dataset, samples: Samples, decoded: Decode) -> None:
    """Check that a batch has the photos of its labels."""
    images, labels = next(iter(dataset))
    for image, label in zip(images, labels.numpy(), strict=True):
        if not np.array_equal(image, decoded(samples.columns["image"][label])):
            raise AssertionError("a photo differs from the inserted one")
