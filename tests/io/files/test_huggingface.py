"""Parquet to and from Hugging Face's ``datasets``: its own library reads and writes the files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets as hf
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow

import registry
from registry import Bytes, ClassLabel, Dataset, Image, Ragged, Registry, Tensor, Text
from registry.errors import ImportFileError
from registry.io.export_file import export_file
from registry.io.formats import find_reader
from registry.io.import_file import insert_file
from registry.io.media import MediaReader
from registry.samples.features import Feature
from tests.support.image_files import JPEG, PNG
from tests.support.label_studio_project import samples

EVERYTHING: dict[str, Feature] = {
    "image": Image(),
    "kind": ClassLabel(["cat", "dog"]),
    "digit": ClassLabel(10),
    "caption": Text(),
    "blob": Bytes(),
    "grid": Tensor("float32", (2, 3)),
    "count": Tensor("int64"),
    "tokens": Ragged("int16"),
    "boxes": Ragged("float32", (4,)),
}
PETS: dict[str, Feature] = {
    "image": Image(),
    "kind": ClassLabel(["cat", "dog"]),
    "text": Text(),
}
ROWS: list[dict[str, Any]] = [
    {
        "image": PNG,
        "kind": "dog",
        "digit": 7,
        "caption": "é",
        "blob": b"\0\1",
        "grid": np.arange(6).reshape(2, 3),
        "count": -5,
        "tokens": [1, -2, 3],
        "boxes": [[0, 0, 0.5, 1], [0.25, 0, 1, 1]],
    },
    {
        "image": JPEG,
        "kind": "cat",
        "digit": 0,
        "caption": "",
        "blob": b"",
        "grid": np.zeros((2, 3)),
        "count": 2**53 + 1,
        "tokens": [],
        "boxes": [],
    },
]


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


def test_datasets_reads_an_export_with_its_features(
    reg: Registry, tmp_path: Path, cache: str
) -> None:
    things = reg.create("things", EVERYTHING)
    things.insert(ROWS, keys=["a", "b"])
    path = tmp_path / "things.parquet"
    export_file(things, path, form="huggingface")
    read = hf.Dataset.from_parquet(str(path), cache_dir=cache)
    assert read.features["kind"] == hf.ClassLabel(names=["cat", "dog"])
    assert isinstance(read.features["image"], hf.Image)
    assert {name: read.features[name].dtype for name in ("caption", "count", "digit", "blob")} == {
        "caption": "string",
        "count": "int64",
        "digit": "int64",
        "blob": "binary",
    }
    first, second = read
    assert (first["key"], first["kind"], first["digit"], first["blob"]) == ("a", 1, 7, b"\0\1")
    assert np.asarray(first["image"]).tolist() == np.asarray(Pillow.open(io.BytesIO(PNG))).tolist()
    assert second["image"].format == "JPEG"
    assert first["grid"] == [[0, 1, 2], [3, 4, 5]]
    assert first["boxes"] == [[0, 0, 0.5, 1], [0.25, 0, 1, 1]]
    assert (second["tokens"], second["boxes"], second["count"]) == ([], [], 2**53 + 1)
    again = reg.create("again", EVERYTHING)
    assert insert_file(again, path, key="key").inserted == 2
    assert samples(again) == samples(things)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Two files that ``datasets`` has written, with the classes in another order."""
    features = hf.Features(
        {
            "image": hf.Image(),
            "kind": hf.ClassLabel(names=["dog", "cat"]),
            "text": hf.Value("string"),
        }
    )
    folder = tmp_path / "pets"
    (folder / "data").mkdir(parents=True)
    for shard in range(2):
        rows = {
            "image": [{"bytes": data, "path": None} for data in (PNG, JPEG)],
            "kind": [0, 1],
            "text": [f"{shard}.0", f"{shard}.1"],
        }
        made = hf.Dataset.from_dict(rows, features=features)
        made.to_parquet(folder / "data" / f"train-0000{shard}-of-00002.parquet")
    return folder


@pytest.fixture
def pets(reg: Registry) -> Dataset:
    return reg.create("pets", PETS)


def test_a_folder_of_shards_makes_the_samples_of_its_files(pets: Dataset, written: Path) -> None:
    assert insert_file(pets, written).inserted == 4
    made = samples(pets)
    assert [(each["kind"], each["text"]) for each in made.values()] == [
        (1, "0.0"),
        (0, "0.1"),
        (1, "1.0"),
        (0, "1.1"),
    ]
    assert [each["image"] for each in made.values()] == [PNG, JPEG] * 2
    assert insert_file(pets, written).unchanged == 4
    assert insert_file(pets, written / "data" / "train-00001-of-00002.parquet").unchanged == 2


def test_the_names_of_classes_are_text_for_a_text_feature(reg: Registry, written: Path) -> None:
    words = reg.create("words", {"word": Text()})
    insert_file(words, written, key="text", mapping={"word": "kind"})
    assert words.get("0.1") == {"word": "cat"}


def test_a_file_that_is_named_by_its_path_is_read_from_a_root(
    reg: Registry, tmp_path: Path
) -> None:
    photos = reg.create("photos", {"image": Image()})
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "1.png").write_bytes(PNG)
    path = tmp_path / "named.parquet"
    pq.write_table(pa.table({"image": [{"bytes": None, "path": "1.png"}]}), path)
    with pytest.raises(ImportFileError, match=r"row 1, .*'image': .* only from below a --root"):
        insert_file(photos, path)
    assert insert_file(photos, path, media=MediaReader([tmp_path / "files"])).inserted == 1


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("kind", -1, r"row 2, key '.*', feature 'kind': .*-1"),
        ("kind", 2, r"row 2, key '.*', feature 'kind': .*2"),
        ("kind", None, "row 2, key '.*', feature 'kind': "),
        ("image", {"bytes": None, "path": None}, "row 2, key '.*', feature 'image': "),
        ("image", None, "row 2, key '.*', feature 'image': "),
        ("image", {"bytes": PNG[:-9], "path": None}, "row 2, key '.*', feature 'image': .*cut off"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_stored(
    sqlite_url: str, written: Path, column: str, value: Any, reason: str
) -> None:
    path = sorted(written.rglob("*.parquet"))[1]
    table = pq.read_table(path)
    values = [*table[column].to_pylist()[:1], value]
    index = table.column_names.index(column)
    pq.write_table(table.set_column(index, column, pa.array(values, table[column].type)), path)
    with registry.connect(sqlite_url) as reg:
        pets = reg.create("pets", PETS)
        with pytest.raises(ImportFileError, match=reason) as caught:
            insert_file(pets, written)
        assert str(caught.value.key).startswith(f"{path.name}:2:")
        assert len(pets) == 0


def test_a_damaged_shard_is_named(pets: Dataset, written: Path) -> None:
    path = sorted(written.rglob("*.parquet"))[1]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ImportFileError, match=r"train-00001-of-00002\.parquet: "):
        insert_file(pets, written)
    assert len(pets) == 0


def test_a_folder_with_parquet_files_is_recognized(written: Path) -> None:
    assert find_reader(written).file_format.unit == "row"
