"""Parquet: files of other tools are read, and exported files are read by other tools."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from registry import ClassLabel, Dataset, Features, Ragged, Registry, Tensor
from registry.errors import ImportFileError
from registry.io.export_file import export_file
from registry.io.files.parquet import read
from registry.io.import_file import insert_file
from registry.samples.features import Feature

XY: dict[str, Feature] = {"x": Tensor("float32", (2,)), "y": ClassLabel(["no", "yes"])}


@pytest.fixture
def dataset(reg: Registry) -> Dataset:
    return reg.create("xy", XY)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Five rows with types that our own writer does not use, and a column that is no feature."""
    path = tmp_path / "t.parquet"
    table = pa.table(
        {
            "id": pa.array(range(5), pa.int16()),
            "x": pa.array([[n, n / 2] for n in range(5)], pa.large_list(pa.float64())),
            "y": pa.array(["no", "yes", "no", "no", "yes"]).dictionary_encode(),
            "more": pa.array([None] * 5),
        }
    )
    pq.write_table(table, path, row_group_size=3)
    return path


def test_a_file_is_read_a_few_rows_at_a_time(
    dataset: Dataset, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.io.files.parquet.BATCH_BYTES", 64)
    insert_file(dataset, file, key="id", mapping={"x": "x"})
    assert [entry.key for entry in dataset.entries()] == ["0", "1", "2", "3", "4"]
    assert dataset.get("4")["x"].tolist() == [4, 2]
    assert dataset.get("4")["y"] == 1
    assert insert_file(dataset, file, key="id", mapping={"x": "x"}).unchanged == 5


def test_rows_without_keys_are_known_by_their_values(dataset: Dataset, file: Path) -> None:
    assert insert_file(dataset, file, mapping={"y": "y"}).inserted == 5
    assert insert_file(dataset, file, mapping={"y": "y"}).unchanged == 5


def test_an_unknown_column_is_refused_without_a_mapping(dataset: Dataset, file: Path) -> None:
    with pytest.raises(
        ImportFileError, match=r"parquet: header: unknown 'more'; the features are 'x'"
    ):
        insert_file(dataset, file, key="id")


def test_a_null_is_refused_with_its_row(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "null.parquet"
    pq.write_table(pa.table({"x": [[0.0, 1.0], None], "y": ["no", "no"]}), path)
    with pytest.raises(ImportFileError, match=r"row 2, key '.*', feature 'x': "):
        insert_file(dataset, path)


def test_a_damaged_file_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ImportFileError, match="arquet"):
        list(read(file, Features(XY), None, {}))


def test_an_exported_file_is_read_by_pyarrow(reg: Registry, tmp_path: Path) -> None:
    things = reg.create(
        "things",
        {
            "x": Tensor("float32", (2, 2)),
            "big": Tensor("uint64"),
            "animal": ClassLabel(["cat", "dog"]),
            "tokens": Ragged("int16"),
            "boxes": Ragged("float32", (4,)),
        },
    )
    rows: list[dict[str, Any]] = [
        {"x": [[0, 1], [2, math.nan]], "big": 2**64 - 1, "animal": "dog", "tokens": [1, -2]},
        {"x": [[1, 1], [1, 1]], "big": 0, "animal": "cat", "tokens": []},
    ]
    boxes = [[[0, 0, 0.5, 1], [0.25, 0, 1, 1]], []]
    rows = [row | {"boxes": row_boxes} for row, row_boxes in zip(rows, boxes, strict=True)]
    things.insert(rows, keys=["a", "b"])
    export_file(things, tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet").to_pydict()
    assert list(table) == ["key", "x", "big", "animal", "tokens", "boxes"]
    assert table["key"] == ["a", "b"]
    assert table["x"][1] == [[1, 1], [1, 1]]
    assert (table["big"], table["animal"]) == ([2**64 - 1, 0], ["dog", "cat"])
    assert table["tokens"] == [[1, -2], []]
    assert table["boxes"] == boxes
