"""Files become samples, or an error that names the line; never anything in between."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from registry import Bytes, ClassLabel, Dataset, Features, Image, Ragged, Registry, Tensor, Text
from registry.errors import ImportFileError, VersionError
from registry.io.formats import find_reader
from registry.io.import_file import insert_file
from registry.io.row import FileRow
from registry.samples.features import Feature
from tests.support.datasets import digit
from tests.support.image_files import PNG

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
}
PHOTO = base64.b64encode(PNG).decode()
JSONL = f"""\
\ufeff{{"count": 9007199254740993, "score": 0.5, "good": true, "grid": [[0, 1], [2, 255]],\
 "animal": "dog", "note": "one\\ntwo, \\"three\\" \u00e9", "blob": "AAE=",\
 "photo": "{PHOTO}", "tokens": [1, -2, 3], "id": "a"}}\r
\r
{{"id": 7, "tokens": [], "photo": "{PHOTO}", "blob": "", "note": "", "animal": 0,\
 "grid": [[0, 0], [0, 0]], "good": false, "score": -1, "count": -1}}"""
CSV = f"""\
\ufeffid,count,score,good,grid,animal,note,blob,photo,tokens\r
a,9007199254740993,0.5,true,"[[0, 1], [2, 255]]",dog,"one
two, ""three"" \u00e9",AAE=,{PHOTO},"[1, -2, 3]"\r
\r
7,-1,-1,0,"[[0,0],[0,0]]",0,,,{PHOTO},[]"""


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(
    path: Path, features: dict[str, Feature], key: str | None = None, **mapped: str
) -> list[FileRow]:
    return list(find_reader(path).read(path, Features(features), key, mapped))


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
    assert (second["count"], second["animal"], second["good"]) == (-1, 0, False)
    assert (second["note"], second["blob"], second["tokens"].tolist()) == ("", b"", [])
    assert {entry.source for entry in dataset.entries()} == {f"file:{name}"}


def test_importing_again_changes_nothing_and_an_edited_line_overwrites_nothing(
    digits: Dataset, tmp_path: Path
) -> None:
    lines = [json.dumps(digit(n)) for n in range(3)]
    path = write(tmp_path / "d.jsonl", "\n".join(lines))
    assert insert_file(digits, path).inserted == len(lines)
    # Another system's line ends, a byte-order mark and a line more do not make other samples.
    lines.append(json.dumps(digit(3)))
    write(path, "\ufeff" + "\r\n".join(lines) + "\r\n")
    report = insert_file(digits, path)
    assert (report.inserted, report.revised, report.unchanged) == (1, 0, 3)
    lines[1] = json.dumps(digit(9))
    report = insert_file(digits, write(path, "\n".join(lines)))
    assert (report.inserted, report.revised, report.unchanged) == (1, 0, 3)
    for ends in ("\n", "\r\n"):
        write(tmp_path / "d.csv", ends.join(["image,label", '"[[1,2],[3,4]]",1', ""]))
        report = insert_file(digits, tmp_path / "d.csv")
    assert report.unchanged == 1
    first = digits.entries()[0].key
    assert first.startswith("d.jsonl:1:")
    assert len(first) == len("d.jsonl:1:") + 8


def test_a_bad_row_leaves_nothing_of_its_batch_and_mending_it_completes_the_import(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.io.batching.PIECE_ROWS", 2)
    monkeypatch.setattr("registry.io.batching.BATCH_ROWS", 2)
    samples = [digit(n) for n in range(7)]
    samples[5]["label"] = 10
    path = write(tmp_path / "d.jsonl", "\n\n".join(map(json.dumps, samples)))
    seen: list[int] = []
    with pytest.raises(ImportFileError) as caught:
        insert_file(digits, path, progress=lambda rows, _: seen.append(rows))
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
    assert (len(digits), seen) == (4, [2, 4])
    samples[5]["label"] = 0
    report = insert_file(digits, write(path, "\n\n".join(map(json.dumps, samples))))
    assert (report.inserted, report.unchanged) == (3, 4)


def test_batches_are_bounded_by_bytes_too(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = json.dumps(digit(1))
    monkeypatch.setattr("registry.io.batching.PIECE_BYTES", 2 * len(line))
    monkeypatch.setattr("registry.io.batching.BATCH_BYTES", 2 * len(line))
    path = write(tmp_path / "d.jsonl", f"{line}\n" * 5)
    seen: list[tuple[int, int]] = []
    insert_file(digits, path, progress=lambda *done: seen.append(done))
    assert [rows for rows, _ in seen] == [2, 4, 5]
    assert seen[-1][1] == path.stat().st_size


def test_a_failure_of_the_database_tells_what_is_stored(
    reg: Registry, digits: Dataset, tmp_path: Path
) -> None:
    path = write(tmp_path / "d.jsonl", json.dumps(digit(1)))
    frozen = reg.open(str(digits.version))
    with pytest.raises(VersionError, match="never changes") as caught:
        insert_file(frozen, path)
    assert not hasattr(caught.value, "__notes__")


def test_rows_are_read_one_at_a_time(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", '{"x": 1}\nnonsense')
    found = find_reader(path).read(path, Features({"x": Tensor("int8")}), None, {})
    assert next(found).values == {"x": 1}
    with pytest.raises(ImportFileError, match="line 2"):
        next(found)


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_the_key_may_be_a_feature_as_well(tmp_path: Path, suffix: str) -> None:
    content = {"jsonl": '{"x": 5, "name": "n"}', "csv": "x,name\n5,n"}[suffix]
    path = write(tmp_path / f"d.{suffix}", content)
    x, name = Tensor("int8"), Text()
    (row,) = rows(path, {"x": x, "name": name}, key="x")
    assert (row.key, row.values) == ("5", {"x": 5, "name": "n"})
    (row,) = rows(path, {"x": x}, key="name")
    assert (row.key, row.values) == ("n", {"x": 5})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"x": 1', "line 2: not JSON: Expecting ',' delimiter at column 8"),
        ('{\n  "x": 1\n}', "line 2: not JSON: Expecting property name"),
        ("[1, 2]", "line 2: not a JSON object; each line holds one whole object"),
        ('{"x": NaN}', "line 2: NaN is not JSON"),
        ('{"x": -Infinity}', "line 2: -Infinity is not JSON"),
        ('{"x": 1e999}', "line 2: '1e999' is too large for a float"),
        ('{"x": 1, "x": 2}', "line 2: 'x' is there twice"),
        ('{"x": ' + "[" * 100_000, "line 2: the JSON is nested too deeply"),
        ('{"x": ' + "9" * 5000 + "}", f"line 2: '{'9' * 40}'… is too large"),
        (b'{"x": "\xff"}', "line 2: byte 0xff at column 8 is not UTF-8"),
        ('{"b": "YQ"}', "line 2, key 'k', feature 'b': 'YQ' is not base64"),
        ('{"b": "Y Q=="}', "line 2, key 'k', feature 'b': 'Y Q==' is not base64"),
        ('{"id": true}', "line 2: the key in 'id' is neither text nor a whole number"),
        ("{}", "line 2: there is no 'id'"),
    ],
)
def test_a_bad_line_of_jsonl_is_named(tmp_path: Path, content: str | bytes, reason: str) -> None:
    raw = content.encode() if isinstance(content, str) else content
    if b'"b"' in raw:
        raw = raw.replace(b"{", b'{"id": "k", ')
    path = write(tmp_path / "bad.jsonl", b'{"id": 0}\n' + raw)
    with pytest.raises(ImportFileError) as caught:
        rows(path, {"x": Tensor("float32"), "b": Bytes()}, key="id")
    assert str(caught.value).startswith(f"{path}, {reason}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", ": the file has no header row"),
        ("n,x,c\n", ", line 1: header: missing 'b', missing 'l', unknown 'x'; the features are"),
        ("n,n,b,c,l\n", ", line 1: header: 'n' twice"),
        ("n,b,c,l\n1,1,0\n", ", line 2: 3 cells, where the header has 4"),
        ("n,b,c,l\n\n1,1,0,[],\n", ", line 3: 5 cells, where the header has 4"),
        ("n,b,c,l\n1.5,1,0,[]\n", ", line 2, feature 'n': '1.5' is not a whole number"),
        ("n,b,c,l\n1_0,1,0,[]\n", ", line 2, feature 'n': '1_0' is not a whole number"),
        ("n,b,c,l\n,1,0,[]\n", ", line 2, feature 'n': '' is not a whole number"),
        ("n,b,c,l\n1,yes,0,[]\n", ", line 2, feature 'b': 'yes' is not true, false, 1 or 0"),
        ("n,b,c,l\n1,1,cow,[]\n", ", line 2, feature 'c': 'cow' is not a class"),
        ("n,b,c,l\n1,1,0,3\n", ", line 2, feature 'l': '3' is not a JSON list"),
        ("n,b,c,l\n1,1,0,[\n", ", line 2, feature 'l': not JSON: Expecting value at column 2"),
        ('n,b,c,l\n1,1,0,[]\n1,1,0,"[\n\n', ", line 3: not CSV: unexpected end of data"),
        ('n,b,c,l\n1,"1"x,0,[]\n', ", line 2: not CSV: ',' expected after '\"'"),
        (b"n,b,c,l\n\xfe,1,0,[]\n", ", line 2: byte 0xfe at column 1 is not UTF-8"),
    ],
)
def test_a_bad_line_of_csv_is_named(tmp_path: Path, content: str | bytes, reason: str) -> None:
    path = write(tmp_path / "bad.csv", content)
    features: dict[str, Feature] = {
        "n": Tensor("int8"),
        "b": Tensor("bool"),
        "c": ClassLabel(["cat"]),
        "l": Ragged("int8"),
    }
    with pytest.raises(ImportFileError) as caught:
        rows(path, features)
    assert str(caught.value).startswith(f"{path}{reason}")


def test_a_file_of_no_known_format_or_that_cannot_be_read_is_named(
    digits: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(ImportFileError, match=r"x.tar: suffix '.tar' names no known format; .*csv"):
        insert_file(digits, tmp_path / "x.tar")
    with pytest.raises(ImportFileError, match=r"gone.jsonl: No such file"):
        insert_file(digits, tmp_path / "gone.jsonl")
    assert insert_file(digits, write(tmp_path / "empty.jsonl", "")).inserted == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(texts=st.lists(st.tuples(st.text(), st.text()), max_size=5))
@example(texts=[("x" * 200_000, "")])
def test_text_comes_through_csv_as_it_is(tmp_path: Path, texts: list[tuple[str, str]]) -> None:
    path = tmp_path / "texts.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("a", "b"), *texts])
    found = rows(path, {"a": Text(), "b": Text()})
    assert [tuple(row.values.values()) for row in found] == texts
