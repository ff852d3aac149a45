"""WebDataset: tar files make samples, and hostile ones are refused in little memory."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import registry
from registry import Bytes, ClassLabel, Dataset, Features, Image, Registry, Tensor, Text
from registry.errors import ImportFileError
from registry.io.files.webdataset import read
from registry.io.import_file import insert_file
from tests.support.image_files import PNG
from tests.support.label_studio_project import samples

Files = list[tuple[str, bytes]]
TWO: Files = [
    ("./a/1.png", PNG),
    ("./a/1.cls", b"1\n"),
    ("./a/1.json", json.dumps({"caption": "a dog", "id": 7}).encode()),
    ("./a/1.seg.png", PNG + b"seg"),
    ("./a/2.PNG", PNG + b"2"),
    ("./a/2.cls", b"0"),
    ("./a/2.json", json.dumps({"caption": "a cat", "id": 8}).encode()),
    ("./a/2.seg.png", PNG),
    ("._2.png", b"of macOS"),
    ("readme", b"no extension"),
]


def archive(
    path: Path, files: Files, change: Callable[[tarfile.TarInfo], Any] | None = None
) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if change is not None:
                change(info)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def pets(reg: Registry) -> Dataset:
    kind = ClassLabel(["cat", "dog"])
    return reg.create("pets", {"image": Image("png"), "kind": kind, "caption": Text()})


@pytest.mark.parametrize("name", ["pets-00.tar", "pets-00.tar.gz"])
def test_an_archive_makes_samples_of_files_with_one_basename(
    pets: Dataset, tmp_path: Path, name: str
) -> None:
    path = archive(tmp_path / name, TWO)
    assert insert_file(pets, path).inserted == 2
    assert samples(pets) == {
        "pets-00/a/1": {"image": PNG, "kind": 1, "caption": "a dog"},
        "pets-00/a/2": {"image": PNG + b"2", "kind": 0, "caption": "a cat"},
    }
    assert insert_file(pets, path).unchanged == 2


def test_a_mapping_names_extensions_and_the_properties_of_json(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", TWO)
    features = Features({"mask": Bytes(), "number": Tensor("int8"), "id": Tensor("int64")})
    first, second = read(path, features, "json.id", {"mask": "seg.png", "number": "cls"})
    assert (first.key, first.values) == ("7", {"mask": PNG + b"seg", "number": 1, "id": 7})
    assert second.key == "8"


@pytest.mark.parametrize(
    ("files", "change", "reason"),
    [
        ([("../1.png", PNG)], None, r"the name '\.\./1\.png' leads out of the archive"),
        ([("/etc/1.png", PNG)], None, "the name '/etc/1.png' leads out of the archive"),
        (
            [("1.png", b"")],
            {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
            "is a link, a dev",
        ),
        ([("1.png", b"")], {"type": tarfile.LNKTYPE, "linkname": "x"}, "'1.png' is a link, a dev"),
        ([("1.png", b"")], {"type": tarfile.CHRTYPE}, "'1.png' is a link, a device"),
        ([("1.png", b"")], {"type": tarfile.FIFOTYPE}, "'1.png' is a link, a device"),
        ([("1.png", b""), ("1.png", b"")], None, "sample '1' has .png twice"),
        (
            [("1.png", PNG)],
            None,
            "sample 1, key 'bad/1', feature 'kind': there is no 'kind' in the",
        ),
        (
            [("1.png", PNG), ("1.cls", b"cow")],
            None,
            "key 'bad/1', feature 'kind': 'cow' is not a cl",
        ),
        ([("1.cls", b"cat"), ("1.png", b"GIF")], None, "sample 1, key 'bad/1', feature 'image': "),
        (
            [("1.cls", b"\xff"), ("1.png", PNG)],
            None,
            "feature 'kind': byte 0xff at column 1 is not",
        ),
        ([("1.json", b"{"), ("1.png", PNG)], None, "feature 'kind': there is no 'kind'"),
    ],
)
def test_a_hostile_or_incomplete_archive_is_refused(
    sqlite_url: str, tmp_path: Path, files: Files, change: dict[str, Any] | None, reason: str
) -> None:

    def alter(info: tarfile.TarInfo) -> None:
        for name, value in (change or {}).items():
            setattr(info, name, value)

    path = archive(tmp_path / "bad.tar", files, alter)
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("d", {"image": Image("png"), "kind": ClassLabel(["cat", "dog"])})
        with pytest.raises(ImportFileError, match=reason) as caught:
            insert_file(dataset, path)
        assert caught.value.file == str(path)
        assert len(dataset) == 0


@pytest.mark.parametrize("size", [0, 100, 512, 700, 1500])
def test_a_damaged_archive_is_refused(tmp_path: Path, size: int) -> None:
    features = Features({"image": Image(), "kind": ClassLabel(["cat", "dog"])})
    whole = archive(tmp_path / "whole.tar", TWO).read_bytes()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[:size])
    with pytest.raises(ImportFileError, match=r"cut.tar: .*(damaged|no file|ends)"):
        list(read(cut, features, None, {}))
    packed = tmp_path / "cut.tar.gz"
    packed.write_bytes(gzip.compress(whole)[: size // 8])
    with pytest.raises(ImportFileError, match=r"cut.tar.gz: the archive is damaged"):
        list(read(packed, features, None, {}))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE])
def test_sizes_that_an_archive_claims_take_no_memory(tmp_path: Path, kind: bytes) -> None:
    claim = tarfile.TarInfo("1.png")
    claim.type, claim.size = kind, 1 << 33
    packed = tmp_path / "bomb.tar.gz"
    with gzip.open(packed, "wb", compresslevel=1) as file:
        file.write(claim.tobuf(tarfile.GNU_FORMAT))
        for _ in range(32):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(ImportFileError, match=r"claims 8,589,9|has 8,589,934,592 bytes"):
        list(read(packed, Features({"image": Bytes()}), None, {}))
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_an_archive_of_many_samples_is_a_stream(tmp_path: Path) -> None:
    path, features = tmp_path / "many.tar", Features({"txt": Text()})
    with tarfile.open(path, "w") as tar:
        for number in range(3000):
            info = tarfile.TarInfo(f"{number}.txt")
            info.size = 2000
            tar.addfile(info, io.BytesIO(bytes([65 + number % 26]) * 2000))
    tracemalloc.start()
    sizes = [tracemalloc.get_traced_memory()[0] for _ in read(path, features, None, {})]
    tracemalloc.stop()
    assert len(sizes) == 3000
    assert sizes[2900] - sizes[500] < 300_000
