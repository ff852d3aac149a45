"""The table of formats: suffixes, names, and libraries that are not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from registry.errors import ExportFileError, ImportFileError
from registry.io.formats import FORMATS, WRITABLE, find_reader, find_writer


@pytest.mark.parametrize(
    ("name", "file_format"),
    [
        ("d.jsonl", "jsonl"),
        ("d.NDJSON", "jsonl"),
        ("d.jsonl.gz", "jsonl"),
        ("d.csv", "csv"),
        ("d.v2.parquet", "parquet"),
        ("d.npz", "npz"),
        ("d.tfrecord", "tfrecord"),
    ],
)
def test_a_suffix_selects_a_format(name: str, file_format: str) -> None:
    assert find_reader(Path(name)).file_format is FORMATS[file_format]


def test_a_folder_is_one_of_images_whatever_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "photos.csv"
    (folder / "cats").mkdir(parents=True)
    assert find_reader(folder).file_format is FORMATS["images"]


def test_a_name_goes_before_the_suffix() -> None:
    assert find_reader(Path("d.jsonl"), "prodigy").file_format is FORMATS["prodigy"]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ImportFileError, match="no format is named 'xml'; choose one of jsonl, csv"):
        find_reader(Path("d.jsonl"), "xml")


def test_no_format_can_be_written_in_gzip() -> None:
    with pytest.raises(ExportFileError, match=r"suffix '\.gz' names no format that can be written"):
        find_writer(Path("d.jsonl.gz"))


def test_writable_formats_have_a_writer() -> None:
    for name, file_format in FORMATS.items():
        assert (file_format.load().writer is not None) == (name in WRITABLE)


def test_a_library_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # An entry of None makes the import fail as if the library were not there.
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "registry.io.files.parquet", raising=False)
    monkeypatch.delattr("registry.io.files.parquet", raising=False)
    reason = r"parquet files need pyarrow; run: pip install 'registry-datasets\[parquet\]'"
    with pytest.raises(ImportFileError, match=reason):
        find_reader(Path("d.parquet"))
    with pytest.raises(ExportFileError, match=reason):
        find_writer(Path("d.parquet"))
    assert find_reader(Path("d.csv")).file_format is FORMATS["csv"]


def test_the_table_loads_no_library_of_an_extra() -> None:
    code = "import json, sys, registry.io.formats; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    extras = {"google.protobuf", "google_crc32c", "pyarrow", "tensorflow"}
    assert not extras & set(json.loads(done.stdout))
