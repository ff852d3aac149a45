"""CSV: a bad line is named, and text is read unchanged."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from registry import ClassLabel, Features, Ragged, Tensor, Text
from registry.errors import ImportFileError
from registry.io.files.csv import read
from registry.samples.features import Feature
from tests.support.file_rows import fitting


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
def test_a_bad_line_is_named(tmp_path: Path, content: str | bytes, reason: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    features: dict[str, Feature] = {
        "n": Tensor("int8"),
        "b": Tensor("bool"),
        "c": ClassLabel(["cat"]),
        "l": Ragged("int8"),
    }
    with pytest.raises(ImportFileError) as caught:
        fitting(read(path, Features(features), None, {}))
    assert str(caught.value).startswith(f"{path}{reason}")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(texts=st.lists(st.tuples(st.text(), st.text()), max_size=5))
@example(texts=[("x" * 200_000, "")])
def test_text_is_read_unchanged(tmp_path: Path, texts: list[tuple[str, str]]) -> None:
    path = tmp_path / "texts.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("a", "b"), *texts])
    rows = read(path, Features({"a": Text(), "b": Text()}), None, {})
    assert [tuple(row.values.values()) for row in rows] == texts


def test_a_file_without_a_header_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("0.5,cat\n0.7,dog\n")
    with pytest.raises(ImportFileError) as caught:
        fitting(read(path, Features({"x": Tensor("float32"), "label": Text()}), "id", {}))
    assert str(caught.value) == (
        f"{path}, line 1: the first line must name the columns 'x', 'label', 'id'; it has '0.5', "
        "'cat'"
    )
