"""TFRecord files, and their pipelines as TensorFlow's performance guide advises.

Several files are read at a time (parallel interleave), records are shuffled as they are, in a
buffer that holds all of them, and numbers are parsed batch by batch, not one by one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorflow as tf

from benchmarks.data import Samples
from benchmarks.pipelines import BATCH

FILES = 16
OPEN_FILES, BLOCK = 4, 256
"""How many files are read at a time, and records of one before the next. With one record, the
default, a pipeline of numbers takes 1.7 times the CPU."""


@contextmanager
def written(samples: Samples, example: Callable[[dict[str, Any]], bytes]) -> Iterator[Path]:
    """Write the samples to `FILES` files in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="registry-benchmarks-") as folder:
        for number in range(FILES):
            with tf.io.TFRecordWriter(f"{folder}/{number:02}.tfrecord") as writer:
                for row in range(number, len(samples), FILES):
                    columns = samples.columns.items()
                    writer.write(example({name: column[row] for name, column in columns}))
        yield Path(folder)


def numbers(folder: Path, rows: int) -> tf.data.Dataset:
    """Return batches of the samples of `number_example`."""
    records = shuffled(folder, rows).batch(BATCH, drop_remainder=True)
    return records.map(_parse_numbers, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def shuffled(folder: Path, rows: int) -> tf.data.Dataset:
    """Return the records of all files, in an order that has all of them in its buffer."""
    files = tf.data.Dataset.list_files(f"{folder}/*.tfrecord", shuffle=True)
    records = files.interleave(
        tf.data.TFRecordDataset,
        cycle_length=OPEN_FILES,
        block_length=BLOCK,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=False,
    )
    return records.shuffle(rows)


def number_example(row: dict[str, Any]) -> bytes:
    """Return a sample of `NUMBERS` as a serialized `tf.train.Example`."""
    return _example(
        x=tf.train.Feature(float_list=tf.train.FloatList(value=row["x"])),
        label=tf.train.Feature(int64_list=tf.train.Int64List(value=[row["label"]])),
    )


def image_example(row: dict[str, Any]) -> bytes:
    """Return a sample with an image file as a serialized `tf.train.Example`."""
    return _example(
        image=tf.train.Feature(bytes_list=tf.train.BytesList(value=[row["image"]])),
        label=tf.train.Feature(int64_list=tf.train.Int64List(value=[row["label"]])),
    )


def parse_image(record: Any) -> tuple[Any, Any]:
    """Return the file and the label of one record. Images are decoded one by one anyway."""
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    parsed = tf.io.parse_single_example(record, features)
    return parsed["image"], tf.cast(parsed["label"], tf.int32)


def _parse_numbers(records: Any) -> tuple[Any, Any]:
    features = {
        "x": tf.io.FixedLenFeature([10], tf.float32),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    parsed = tf.io.parse_example(records, features)
    return parsed["x"], tf.cast(parsed["label"], tf.int32)


def _example(**features: tf.train.Feature) -> bytes:
    example = tf.train.Example(features=tf.train.Features(feature=features))
    serialized: bytes = example.SerializeToString()
    return serialized
