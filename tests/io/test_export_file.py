"""What is exported comes back as the same samples, in any format."""

from __future__ import annotations

import itertools
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import Bytes, ClassLabel, Dataset, Image, Ragged, Registry, Tensor, Text
from registry.errors import DatasetDroppedError, ExportFileError
from registry.io.export_file import export_file
from registry.io.formats import WRITABLE
from registry.io.import_file import insert_file
from registry.io.live_samples import live_samples
from registry.samples.features import DTYPES, Feature
from tests.support.datasets import digit
from tests.support.image_files import JPEG

NAMES = ["cat", "1", "a,b\u2028\U0001f600", "\ufeff"]
EVERYTHING: dict[str, Feature] = {
    **{f"scalar {dtype}": Tensor(dtype) for dtype in DTYPES},
    **{f"grid {dtype}": Tensor(dtype, (2, 3)) for dtype in DTYPES},
    **{f"ragged {dtype}": Ragged(dtype) for dtype in DTYPES},
    "named": ClassLabel(NAMES),
    "numbered": ClassLabel(7),
    "note.odd": Text(),
    "blob": Bytes(),
    "photo": Image("jpeg"),
}
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
KEYS = st.lists(TEXT.filter(lambda key: 0 < len(key.encode()) < 500), min_size=1, max_size=4)
_numbers = itertools.count()


def value(feature: Feature, rng: np.random.Generator, text: st.DataObject) -> Any:
    """A value of any bits: floats are NaNs of any payload, too."""
    if isinstance(feature, ClassLabel):
        return int(rng.integers(feature.count))
    if isinstance(feature, Text):
        return text.draw(TEXT)
    if isinstance(feature, Bytes | Image):
        return (JPEG if isinstance(feature, Image) else b"") + rng.bytes(int(rng.integers(40)))
    shape = feature.shape if isinstance(feature, Tensor) else (int(rng.integers(4)),)
    dtype = np.dtype(feature.dtype)
    data = rng.bytes(math.prod(shape) * dtype.itemsize)
    if dtype.kind == "b":
        data = bytes(byte & 1 for byte in data)
    array = np.frombuffer(data, dtype).reshape(shape).copy()
    if dtype.kind == "f":
        # Signaling NaNs become quiet ones wherever a processor takes them up.
        bits = array.view(f"u{dtype.itemsize}")
        bits[np.isnan(array)] |= np.array(np.nan, dtype).view(bits.dtype)
    return array


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), keys=KEYS, seed=st.integers(0, 2**32))
@pytest.mark.parametrize("form", WRITABLE)
def test_an_import_of_an_export_is_the_same_to_the_bit(
    reg: Registry, tmp_path: Path, form: str, data: st.DataObject, keys: list[str], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    number = next(_numbers)
    dataset = reg.create(f"given-{number}", EVERYTHING)
    unique = list(dict.fromkeys(keys))
    rows = [{n: value(f, rng, data) for n, f in EVERYTHING.items()} for _ in unique]
    dataset.insert(rows, keys=unique)
    path = tmp_path / f"{number}.{form}"
    assert export_file(reg.engine, dataset, path) == len(unique)
    copy = reg.create(f"copy-{number}", EVERYTHING)
    insert_file(copy, path, key="key")
    # The chain stands for all records and the buckets of their keys.
    assert copy.head == dataset.head
    assert [entry.key for entry in copy.entries()] == unique


@pytest.mark.parametrize("form", WRITABLE)
def test_only_what_is_alive_at_the_version_is_exported(
    reg: Registry, digits: Dataset, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.io.live_samples.RANGE_ROWS", 4)
    monkeypatch.setattr("registry.io.live_samples.PAGE_BYTES", 20)
    digits.insert([digit(n) for n in range(10)], keys=[f"k{n}" for n in range(10)])
    digits.update("k3", label=9)
    digits.retract("k4")
    version = str(digits.version)
    digits.update("k5", label=0)
    digits.insert([digit(10)], keys=["k10"])
    path = tmp_path / f"d.{form}"
    assert export_file(reg.engine, reg.open(version), path, key="name") == 9
    copy = reg.create("copy", digits.features)
    insert_file(copy, path, key="name")
    assert [e.key for e in copy.entries()] == [
        "k0",
        "k1",
        "k2",
        *(f"k{n}" for n in range(5, 10)),
        "k3",
    ]
    assert copy.get("k3")["label"] == 9
    assert copy.get("k5")["label"] == 5


def test_parquet_and_tfrecord_are_what_their_own_tools_read(reg: Registry, tmp_path: Path) -> None:
    import tensorflow as tf  # noqa: PLC0415  # takes seconds to load

    features: dict[str, Feature] = {
        "x": Tensor("float32", (2, 2)),
        "big": Tensor("uint64"),
        "animal": ClassLabel(["cat", "dog"]),
        "tokens": Ragged("int16"),
    }
    dataset = reg.create("things", features)
    rows = [
        {"x": [[0, 1], [2, math.nan]], "big": 2**64 - 1, "animal": "dog", "tokens": [1, -2]},
        {"x": [[1, 1], [1, 1]], "big": 0, "animal": "cat", "tokens": []},
    ]
    dataset.insert(rows, keys=["a", "b"])
    export_file(reg.engine, dataset, tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet").to_pydict()
    assert list(table) == ["key", "x", "big", "animal", "tokens"]
    assert table["x"][1] == [[1, 1], [1, 1]]
    assert (table["big"], table["animal"]) == ([2**64 - 1, 0], ["dog", "cat"])
    assert table["tokens"] == [[1, -2], []]
    export_file(reg.engine, dataset, tmp_path / "t.tfrecord")
    first, second = tf.data.TFRecordDataset([str(tmp_path / "t.tfrecord")])
    spec = {
        "key": tf.io.FixedLenFeature([], tf.string),
        "x": tf.io.FixedLenFeature([2, 2], tf.float32),
        "big": tf.io.FixedLenFeature([], tf.string),
        "animal": tf.io.FixedLenFeature([], tf.string),
        "tokens": tf.io.VarLenFeature(tf.int64),
    }
    found = tf.io.parse_single_example(first, spec)
    assert (found["key"].numpy(), found["animal"].numpy()) == (b"a", b"dog")
    assert np.isnan(found["x"].numpy()[1, 1])
    assert tf.io.decode_raw(found["big"], tf.int64).numpy() == [-1]
    assert found["tokens"].values.numpy().tolist() == [1, -2]
    assert tf.io.parse_single_example(second, spec)["key"].numpy() == b"b"


def test_a_file_is_replaced_when_the_new_one_is_complete_and_not_before(
    reg: Registry, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits.insert([digit(n) for n in range(8)])
    path = tmp_path / "d.jsonl"
    path.write_text("before")
    monkeypatch.setattr("registry.io.live_samples.RANGE_ROWS", 4)

    def drop(_rows: int, _bytes: int) -> None:
        assert path.read_text() == "before"
        reg.drop("digits")

    with pytest.raises(DatasetDroppedError):
        export_file(reg.engine, digits, path, progress=drop)
    assert [each.name for each in tmp_path.glob("*d.jsonl*")] == ["d.jsonl"]
    assert path.read_text() == "before"


def test_what_cannot_be_written_is_said(reg: Registry, digits: Dataset, tmp_path: Path) -> None:
    for name, form, key, reason in [
        (
            "d.zip",
            None,
            "key",
            "suffix '.zip' names no format that can be written; choose one of jsonl",
        ),
        ("d", "csv", "key", "no format 'csv' that can be written"),
        ("d.jsonl", None, "label", "'label' is a feature; choose another name for the keys"),
        ("gone/d.jsonl", None, "key", "No such file or directory"),
    ]:
        with pytest.raises(ExportFileError, match=reason):
            export_file(reg.engine, digits, tmp_path / name, form=form, key=key)
    assert export_file(reg.engine, digits, tmp_path / "empty.jsonl") == 0
    assert (tmp_path / "empty.jsonl").read_text() == ""


def test_rows_that_come_while_an_export_runs_are_no_part_of_it(
    reg: Registry, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.io.live_samples.RANGE_ROWS", 2)
    digits.insert([digit(n) for n in range(6)], keys=[f"k{n}" for n in range(6)])
    found: list[str] = []
    for page in live_samples(reg.engine, digits):
        found += page.keys
        digits.update("k5", label=len(found))
        digits.insert([digit(9)], keys=[f"late-{len(found)}"])
    assert found == [f"k{n}" for n in range(6)]


def test_every_line_of_an_export_is_plain_json(
    reg: Registry, notes: Dataset, tmp_path: Path
) -> None:
    sample = {"text": "one\ntwo\u2028", "label": 1, "blob": b"\0", "tokens": [3]}
    notes.insert([sample], keys=["\u00e9"])
    export_file(reg.engine, notes, tmp_path / "n.jsonl")
    (line,) = (tmp_path / "n.jsonl").read_text("utf-8").split("\n")[:-1]
    assert json.loads(line) == {
        "key": "\u00e9",
        "text": "one\ntwo\u2028",
        "label": "dog",
        "blob": "AA==",
        "tokens": [3],
    }


def test_an_export_leaves_devices_alone_and_follows_links(
    reg: Registry, digits: Dataset, tmp_path: Path
) -> None:
    digits.insert([digit(1)])
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(ExportFileError, match="no file that can be replaced"):
        export_file(reg.engine, digits, fifo, form="jsonl")
    link = tmp_path / "link.jsonl"
    link.symlink_to(tmp_path / "real.jsonl")
    assert export_file(reg.engine, digits, link) == 1
    assert link.is_symlink()
    assert (tmp_path / "real.jsonl").read_text().count("\n") == 1
