"""What an import or export says about a file that looks like another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry import Dataset
from registry.errors import ExportFileError, ImportFileError
from registry.io.export_file import export_file
from registry.io.import_file import insert_file
from tests.support.datasets import digit

OBJECT = '{"id": "a", "id2": 1}\n'


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("d.json", OBJECT * 2, "d.json: it looks like JSON Lines: say --format jsonl"),
        ("d.json", '{"a": 1, "a": 2}', "an object with 'a' is not recognized"),
        ("d.json", "[1]", "element 1: not a JSON object but an int"),
        ("d.json", "[null]", "element 1: not a JSON object but null"),
        ("d.csv", "id;image;label\n", "separated by commas, and not by ';'"),
    ],
)
def test_a_file_that_looks_like_another_one_is_named(
    digits: Dataset, tmp_path: Path, name: str, content: str, reason: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ImportFileError) as caught:
        insert_file(digits, tmp_path / name)
    assert reason in str(caught.value)


def test_an_empty_folder_is_called_empty(digits: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(ImportFileError, match="the folder is empty"):
        insert_file(digits, folder)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_the_groups_of_an_own_export_are_read_by_the_option_that_is_named(
    digits: Dataset, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"d.{suffix}"
    digits.insert([digit(1)], keys=["a"], groups=["g"])
    export_file(digits, path)
    with pytest.raises(ImportFileError, match="own export are read by --key key --group group"):
        insert_file(digits, path)
    with pytest.raises(ImportFileError, match="own export are read by --group group"):
        insert_file(digits, path, key="key")
    assert insert_file(digits, path, key="key", options={"group": "group"}).unchanged == 1


def test_an_export_names_the_formats_of_folders(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ExportFileError, match="or a folder by --format coco or yolo"):
        export_file(digits, tmp_path / "d.csv")
