"""Files become samples, or an error that names the line; never anything in between."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from registry import Bytes, ClassLabel, Dataset, Features, Image, Ragged, Registry, Tensor, Text
from registry.errors import ImportFileError, VersionError
from registry.io.formats import find_reader
from registry.io.import_file import insert_file
from registry.samples.features import Feature
from tests.support.datasets import digit
from tests.support.image_files import PNG

XY: dict[str, Feature] = {"x": Tensor("float32", (2,)), "y": ClassLabel(["no", "yes"])}
EVERYTHING: dict[str, Feature] = {
    "count": Tensor("int64"),
    "score": Tensor("float32"),
    "good": Tensor("bool"),
    "grid": Tensor("uint8", (2, 2)),
    "animal": ClassLabel(["cat", "dog"]),
    "note": Text(),
    "blob": Bytes(),
    "photo": Image(),
    "tokens": Ragged("int32"),
    "boxes": Ragged("float32", (4,)),
}
PHOTO = base64.b64encode(PNG).decode()
JSONL = f"""\
\ufeff{{"count": 9007199254740993, "score": 0.5, "good": true, "grid": [[0, 1], [2, 255]],\
 "animal": "dog", "note": "one\\ntwo, \\"three\\" \u00e9", "blob": "AAE=",\
 "photo": "{PHOTO}", "tokens": [1, -2, 3], "boxes": [[0, 0, 0.5, 1]], "id": "a"}}\r
\r
{{"id": 7, "boxes": [], "tokens": [], "photo": "{PHOTO}", "blob": "", "note": "", "animal": 0,\
 "grid": [[0, 0], [0, 0]], "good": false, "score": -1, "count": -1}}"""
CSV = f"""\
\ufeffid,count,score,good,grid,animal,note,blob,photo,tokens,boxes\r
a,9007199254740993,0.5,true,"[[0, 1], [2, 255]]",dog,"one
two, ""three"" \u00e9",AAE=,{PHOTO},"[1, -2, 3]","[[0, 0, 0.5, 1]]"\r
\r
7,-1,-1,0,"[[0,0],[0,0]]",0,,,{PHOTO},[],[]"""


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_lines(path: Path, samples: Iterable[dict[str, Any]], between: str = "\n") -> Path:
    return write(path, between.join(map(json.dumps, samples)))


@pytest.mark.parametrize(("name", "content"), [("f.jsonl", JSONL), ("f.csv", CSV)])
def test_a_file_holds_every_kind_of_feature(
    reg: Registry, tmp_path: Path, name: str, content: str
) -> None:
    dataset = reg.create("everything", EVERYTHING)
    path = write(tmp_path / name, content)
    insert_file(dataset, path, key="id")
    assert [entry.key for entry in dataset.entries()] == ["a", "7"]
    first, second = dataset.get("a"), dataset.get("7")
    assert (first["count"], first["score"], first["good"]) == (9007199254740993, 0.5, True)
    assert first["grid"].tolist() == [[0, 1], [2, 255]]
    assert (first["animal"], first["note"]) == (1, 'one\ntwo, "three" é')
    assert (first["blob"], first["photo"]) == (b"\x00\x01", PNG)
    assert first["tokens"].tolist() == [1, -2, 3]
    assert first["boxes"].tolist() == [[0, 0, 0.5, 1]]
    assert second["boxes"].shape == (0, 4)
    assert (second["count"], second["animal"], second["good"]) == (-1, 0, False)
    assert (second["note"], second["blob"], second["tokens"].tolist()) == ("", b"", [])
    assert {entry.source for entry in dataset.entries()} == {f"file:{name}"}


def test_importing_a_file_again_changes_nothing(digits: Dataset, tmp_path: Path) -> None:
    samples = [digit(n) for n in range(3)]
    path = write_lines(tmp_path / "d.jsonl", samples)
    assert insert_file(digits, path).inserted == 3
    assert insert_file(digits, path).unchanged == 3
    first = digits.entries()[0].key
    assert first.startswith("d.jsonl:1:")
    assert len(first) == len("d.jsonl:1:") + 8


def test_line_ends_and_a_byte_order_mark_make_no_other_samples(
    digits: Dataset, tmp_path: Path
) -> None:
    lines = [json.dumps(digit(n)) for n in range(3)]
    path = tmp_path / "d.jsonl"
    insert_file(digits, write(path, "\n".join(lines)))
    lines.append(json.dumps(digit(3)))
    report = insert_file(digits, write(path, "\ufeff" + "\r\n".join(lines) + "\r\n"))
    assert (report.inserted, report.revised, report.unchanged) == (1, 0, 3)
    for ends in ("\n", "\r\n"):
        write(tmp_path / "d.csv", ends.join(["image,label", '"[[1,2],[3,4]]",1', ""]))
        report = insert_file(digits, tmp_path / "d.csv")
    assert report.unchanged == 1


def test_an_edited_line_makes_a_new_sample(digits: Dataset, tmp_path: Path) -> None:
    samples = [digit(n) for n in range(4)]
    path = tmp_path / "d.jsonl"
    insert_file(digits, write_lines(path, samples))
    samples[1] = digit(9)
    report = insert_file(digits, write_lines(path, samples))
    assert (report.inserted, report.revised, report.unchanged) == (1, 0, 3)


def test_a_bad_row_is_named_and_nothing_of_its_batch_is_stored(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.io.batching.PIECE_ROWS", 2)
    monkeypatch.setattr("registry.io.batching.BATCH_ROWS", 2)
    samples = [digit(n) for n in range(7)]
    samples[5]["label"] = 10
    path = write_lines(tmp_path / "d.jsonl", samples, between="\n\n")
    progress: list[int] = []
    with pytest.raises(ImportFileError) as caught:
        insert_file(digits, path, progress=lambda rows, _: progress.append(rows))
    error = caught.value
    assert str(error).startswith(f"{path}, line 11, key 'd.jsonl:11:")
    assert str(error).endswith("feature 'label': class index 10 is not in [0, 10)")
    assert (error.line, error.feature, error.stored) == (11, "label", 4)
    assert error.__notes__ == [
        (
            "the first 4 rows are stored; correct the file and import it again, which adds what is "
            "missing"
        )
    ]
    assert (len(digits), progress) == (4, [2, 4])


def test_the_corrected_file_completes_an_import(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.io.batching.PIECE_ROWS", 2)
    monkeypatch.setattr("registry.io.batching.BATCH_ROWS", 2)
    samples = [digit(n) for n in range(7)]
    samples[5]["label"] = 10
    path = tmp_path / "d.jsonl"
    with pytest.raises(ImportFileError):
        insert_file(digits, write_lines(path, samples))
    samples[5]["label"] = 0
    report = insert_file(digits, write_lines(path, samples))
    assert (report.inserted, report.unchanged) == (3, 4)


def test_batches_are_bounded_by_bytes(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = json.dumps(digit(1))
    monkeypatch.setattr("registry.io.batching.PIECE_BYTES", 2 * len(line))
    monkeypatch.setattr("registry.io.batching.BATCH_BYTES", 2 * len(line))
    path = write(tmp_path / "d.jsonl", f"{line}\n" * 5)
    progress: list[tuple[int, int]] = []
    insert_file(digits, path, progress=lambda *done: progress.append(done))
    assert [rows for rows, _ in progress] == [2, 4, 5]
    assert progress[-1][1] == path.stat().st_size


def test_an_error_before_the_first_row_has_no_note(
    reg: Registry, digits: Dataset, tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "d.jsonl", [digit(1)])
    frozen = reg.open(str(digits.version))
    with pytest.raises(VersionError, match="never changes") as caught:
        insert_file(frozen, path)
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_the_key_may_be_a_feature(tmp_path: Path, suffix: str) -> None:
    content = {"jsonl": '{"x": 5, "name": "n"}', "csv": "x,name\n5,n"}[suffix]
    path = write(tmp_path / f"d.{suffix}", content)
    features = Features({"x": Tensor("int8"), "name": Text()})
    (row,) = find_reader(path).read(path, features, "x", {})
    assert (row.key, row.values) == ("5", {"x": 5, "name": "n"})


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_the_key_need_not_be_a_feature(tmp_path: Path, suffix: str) -> None:
    content = {"jsonl": '{"x": 5, "name": "n"}', "csv": "x,name\n5,n"}[suffix]
    path = write(tmp_path / f"d.{suffix}", content)
    (row,) = find_reader(path).read(path, Features({"x": Tensor("int8")}), "name", {})
    assert (row.key, row.values) == ("n", {"x": 5})


def test_a_mapping_selects_properties_by_path(reg: Registry, tmp_path: Path) -> None:
    dataset = reg.create("xy", XY)
    record = {"meta": {"id": 7}, "a.b": {"c": 1}, "data": [{"x": [1, 2]}], "y": "no", "more": 1}
    path = write_lines(tmp_path / "d.jsonl", [record])
    insert_file(dataset, path, key="meta.id", mapping={"x": "data.0.x"})
    assert dataset.get("7")["x"].tolist() == [1, 2]


def test_a_mapping_renames_columns(reg: Registry, tmp_path: Path) -> None:
    dataset = reg.create("xy", XY)
    path = write(tmp_path / "d.csv", 'who,v,w,extra\nk,"[3, 4]",yes,?\n')
    insert_file(dataset, path, key="who", mapping={"x": "v", "y": "w"})
    assert (dataset.get("k")["x"].tolist(), dataset.get("k")["y"]) == ([3, 4], 1)


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        ({"x": "data.1.x"}, "line 1, key '7', feature 'x': there is no '1' on the way to"),
        ({"z": "data"}, "'z' is mapped and is no feature; the features are 'x', 'y'"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(
    reg: Registry, tmp_path: Path, mapping: dict[str, str], reason: str
) -> None:
    path = write_lines(tmp_path / "d.jsonl", [{"id": 7, "data": [{"x": [1, 2]}], "y": "no"}])
    with pytest.raises(ImportFileError, match=reason):
        insert_file(reg.create("xy", XY), path, key="id", mapping=mapping)


def test_a_key_that_is_there_twice_is_refused(digits: Dataset, tmp_path: Path) -> None:
    samples = [{"id": f"k{n % 2}", **digit(n)} for n in range(3)]
    path = write_lines(tmp_path / "d.jsonl", samples)
    with pytest.raises(ImportFileError, match="line 3, key 'k0': the key is that of line 1, too"):
        insert_file(digits, path, key="id")
    assert len(digits) == 0


def test_a_gzip_file_is_unpacked(digits: Dataset, tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl.gz", gzip.compress(json.dumps(digit(1)).encode()))
    assert insert_file(digits, path).inserted == 1


def test_a_damaged_gzip_file_is_refused(digits: Dataset, tmp_path: Path) -> None:
    packed = gzip.compress(json.dumps(digit(1)).encode())
    path = write(tmp_path / "d.jsonl.gz", packed[:-9])
    with pytest.raises(ImportFileError, match="line 1: the gzip data is damaged or ends too soon"):
        insert_file(digits, path)


def test_a_gzip_file_is_unpacked_line_by_line(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.io.files.lines.LONGEST_LINE", 1 << 16)
    path = write(tmp_path / "d.jsonl.gz", gzip.compress(b"[" * (64 << 20)))
    with pytest.raises(ImportFileError, match="line 1: over 65536 bytes without a line end"):
        insert_file(digits, path)


def test_a_suffix_of_no_format_is_refused(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ImportFileError, match=r"x.rar: suffix '.rar' names no known format; .*csv"):
        insert_file(digits, tmp_path / "x.rar")


def test_a_file_that_is_not_there_is_named(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ImportFileError, match=r"gone.jsonl: No such file"):
        insert_file(digits, tmp_path / "gone.jsonl")


def test_an_empty_file_has_no_samples(digits: Dataset, tmp_path: Path) -> None:
    assert insert_file(digits, write(tmp_path / "empty.jsonl", "")).inserted == 0
