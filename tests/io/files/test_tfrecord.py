"""TFRecord: TensorFlow reads what is exported, and what TensorFlow writes is read."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry import ClassLabel, Dataset, Features, Ragged, Registry, Tensor
from registry.errors import ImportFileError
from registry.io.export_file import export_file
from registry.io.files.tfrecord import checksum, read
from registry.io.import_file import insert_file
from registry.samples.features import Feature

XY: dict[str, Feature] = {"x": Tensor("float32", (2,)), "y": ClassLabel(["no", "yes"])}


@pytest.fixture(scope="module")
def written_by_tensorflow(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a file of three records of one size."""
    import tensorflow as tf  # noqa: PLC0415  # takes seconds to load

    def feature(values: list[float] | list[int] | list[bytes]) -> Any:
        if isinstance(values[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if isinstance(values[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    path = tmp_path_factory.mktemp("records") / "t.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for n in range(3):
            parts = {"x": feature([n + 0.5, -1.0]), "y": feature([b"yes"]), "id": feature([n])}
            example = tf.train.Example(features=tf.train.Features(feature=parts))
            writer.write(example.SerializeToString())
    return path.read_bytes()


def test_a_file_of_tensorflow_is_read(
    reg: Registry, tmp_path: Path, written_by_tensorflow: bytes
) -> None:
    path = tmp_path / "t.tfrecord"
    path.write_bytes(written_by_tensorflow)
    dataset = reg.create("xy", XY)
    assert insert_file(dataset, path, key="id").inserted == 3
    assert dataset.get("2")["x"].tolist() == [2.5, -1]
    assert insert_file(dataset, path, key="id").unchanged == 3


def test_damage_is_named_with_its_record(tmp_path: Path, written_by_tensorflow: bytes) -> None:
    path, whole = tmp_path / "t.tfrecord", written_by_tensorflow
    size = len(whole) // 3
    for damaged, reason in [
        (whole[:-1], ", record 3: the file ends 1 bytes before the record does"),
        (whole[: 2 * size + 5], ", record 3: the file ends within the record's head"),
        (whole[: size + 20] + b"?" + whole[size + 21 :], ", record 2: the record's checksum"),
        (b"?" + whole[1:], ", record 1: the checksum of its length is wrong"),
        (_record(b"\xff\xff"), ", record 1: not a tf.train.Example"),
        (_head(2**60), f", record 1: the file ends {2**60 + 4:,} bytes before"),
        (whole + _record(b""), ", record 4: header: missing 'x', missing 'y', missing 'id'"),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(ImportFileError) as caught:
            list(read(path, Features(XY), "id", {}))
        assert str(caught.value).startswith(f"{path}{reason}")


def _head(length: int) -> bytes:
    head = struct.pack("<Q", length)
    return head + checksum(head)


def _record(data: bytes) -> bytes:
    return _head(len(data)) + data + checksum(data)


def test_an_exported_file_is_read_by_tensorflow(reg: Registry, tmp_path: Path) -> None:
    import tensorflow as tf  # noqa: PLC0415  # takes seconds to load

    things = _things(reg)
    export_file(things, tmp_path / "t.tfrecord")
    first, second = tf.data.TFRecordDataset([str(tmp_path / "t.tfrecord")])
    spec = {
        "key": tf.io.FixedLenFeature([], tf.string),
        "x": tf.io.FixedLenFeature([2, 2], tf.float32),
        "big": tf.io.FixedLenFeature([], tf.string),
        "animal": tf.io.FixedLenFeature([], tf.string),
        "tokens": tf.io.VarLenFeature(tf.int64),
    }
    parsed = tf.io.parse_single_example(first, spec)
    assert (parsed["key"].numpy(), parsed["animal"].numpy()) == (b"a", b"dog")
    assert np.isnan(parsed["x"].numpy()[1, 1])
    assert tf.io.decode_raw(parsed["big"], tf.int64).numpy() == [-1]
    assert parsed["tokens"].values.numpy().tolist() == [1, -2]
    assert tf.io.parse_single_example(second, spec)["key"].numpy() == b"b"


def _things(reg: Registry) -> Dataset:
    things = reg.create(
        "things",
        {
            "x": Tensor("float32", (2, 2)),
            "big": Tensor("uint64"),
            "animal": ClassLabel(["cat", "dog"]),
            "tokens": Ragged("int16"),
        },
    )
    rows = [
        {"x": [[0, 1], [2, math.nan]], "big": 2**64 - 1, "animal": "dog", "tokens": [1, -2]},
        {"x": [[1, 1], [1, 1]], "big": 0, "animal": "cat", "tokens": []},
    ]
    things.insert(rows, keys=["a", "b"])
    return things
