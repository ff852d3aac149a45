"""Subject: training on JPEG files, where decoding takes nearly all of the time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.cache import cache
from benchmarks.data import SEED, Samples, loaded
from benchmarks.measure import Bench, Contender, Result, Work, compare, interleave
from benchmarks.pipelines import Make
from registry.samples.features import ClassLabel, Features, Image
from registry.tensorflow import StreamDataset
from registry.tensorflow.images import DECODERS
from registry.training.run import Run

FILES = 400
SIDE = 512
NOISE = {4: 40, 32: 20, 256: 8.5}
"""Strength of the noise in levels of brightness, by the number of cells along a side."""
BATCH = 32
LEAST, MOST = 10, 60
"""Minimum and maximum of the batches that are taken."""


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
        ways = {"ours": partial(streamed, run), "memory": partial(in_memory, samples)}
        for make in ways.values():
            _check(make(), samples)
        timings = interleave(
            {name: _contender(make, batches) for name, make in ways.items()}, bench.rounds
        )
    what = "StreamDataset of JPEG files, next to files in memory"
    return [compare(what, timings["ours"], timings["memory"], at_least=0.95)]


def photos() -> Samples:
    """Make files as large as a camera's of this size; the label is the number of the file."""
    rng = np.random.default_rng(SEED)
    files = [_photo(rng) for _ in range(FILES)]
    features = Features({"image": Image("jpeg"), "label": ClassLabel(FILES)})
    columns = {"image": files, "label": np.arange(FILES, dtype=np.int32)}
    return Samples(features, columns, [f"photo-{number}" for number in range(FILES)])


def streamed(run: Run) -> tf.data.Dataset:
    return StreamDataset(run, batch_size=BATCH, x="image", y="label")


def in_memory(samples: Samples) -> tf.data.Dataset:
    files = tf.data.Dataset.from_tensor_slices((samples.columns["image"], samples.columns["label"]))
    decoded = files.shuffle(FILES).repeat().map(_decode, DECODERS)
    return decoded.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def _decode(file: Any, label: Any) -> tuple[Any, Any]:
    return tf.io.decode_jpeg(file, channels=3), label


def _photo(rng: np.random.Generator) -> bytes:
    """Return noise of several scales, the coarser the stronger, as photos have."""
    image = np.zeros((SIDE, SIDE, 3), np.float32)
    for cells, strength in NOISE.items():
        noise = strength * rng.standard_normal((cells, cells, 3), np.float32)
        image += tf.image.resize(noise, (SIDE, SIDE), "bicubic").numpy()
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


def _check(dataset: tf.data.Dataset, samples: Samples) -> None:
    """Check that a batch has the photos of its labels."""
    images, labels = next(iter(dataset))
    for image, label in zip(images, labels.numpy(), strict=True):
        if not np.array_equal(image, tf.io.decode_jpeg(samples.columns["image"][label], 3)):
            raise AssertionError("a photo differs from the inserted one")
