"""Streamed JSON arrays: each element is found, wherever the file is cut into chunks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.errors import ImportFileError
from registry.io.files.json_array import Element, Member, elements, members

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.sampled_from('ab"\\[]{},:\n \u20ac')),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('k"[,', max_size=2), inner),
    max_leaves=10,
)
no_fixture_check = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


def read(path: Path, text: str, chunk: int) -> list[Element]:
    path.write_text(text, encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("registry.io.files.json_array._CHUNK", chunk)
        return list(elements(path))


@no_fixture_check
@given(
    listed=st.lists(JSON, max_size=5),
    indent=st.sampled_from([None, 0, 3]),
    chunk=st.integers(1, 40),
    before=st.sampled_from(["", "\ufeff", "\ufeff \n\t "]),
)
def test_elements_are_found_at_every_chunk_size(
    tmp_path: Path, listed: list[Any], indent: int | None, chunk: int, before: str
) -> None:
    text = before + json.dumps(listed, indent=indent, ensure_ascii=chunk % 2 == 0) + "\n"
    elements = read(tmp_path / "array.json", text, chunk)
    assert [each.value for each in elements] == listed
    lines = text.split("\n")
    for each in elements:
        whole = "\n".join(lines[each.line - 1 :])
        assert json.dumps(each.value, ensure_ascii=chunk % 2 == 0)[:1] in whole


@no_fixture_check
@given(listed=st.lists(JSON, max_size=3), chunk=st.integers(1, 40), data=st.data())
def test_a_file_that_was_cut_off_is_refused(
    tmp_path: Path, listed: list[Any], chunk: int, data: st.DataObject
) -> None:
    text = json.dumps(listed)
    cut = text[: data.draw(st.integers(1, len(text) - 1))]
    with pytest.raises(ImportFileError, match="the file ends within its array: was it cut off"):
        read(tmp_path / "array.json", cut, chunk)


def test_a_single_object_counts_as_one_element(tmp_path: Path) -> None:
    (element,) = read(tmp_path / "object.json", '\n{"a": [1, 2]}\n', chunk=3)
    assert element == Element(2, {"a": [1, 2]}, 13)


@pytest.mark.parametrize("chunk", [1, 1 << 20])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1,\n2 3]", "line 2: not JSON: Extra data at column 3 of the element that begins here"),
        ("[1,]", "line 1: not JSON: Expecting value at column 1 of the element"),
        ("[1,,2]", "line 1: not JSON: Expecting value at column 1 of the element"),
        ('[1,\n {"a": tru, "b": 1}]', "line 2: not JSON: Expecting value at column 7"),
        ('{"a": 1} []', "line 1: not JSON: Extra data at column 10"),
        ("[1e999, 2]", "line 1: '1e999' is too large for a float"),
        ("[1]\n2", "line 2: there is more after the array's end"),
    ],
)
def test_an_element_that_is_wrong_is_named(
    tmp_path: Path, text: str, reason: str, chunk: int
) -> None:
    with pytest.raises(ImportFileError) as caught:
        read(tmp_path / "array.json", text, chunk)
    assert reason in str(caught.value)


def test_an_element_that_never_ends_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.io.files.json_array.LARGEST_RECORD", 100)
    with pytest.raises(ImportFileError, match="line 2: one element has over 100 characters"):
        read(tmp_path / "array.json", '["short",\n"' + "x" * 1000 + '"]', chunk=7)


@no_fixture_check
@given(
    given=st.dictionaries(st.text('k"[,', max_size=2), st.lists(JSON, max_size=3) | JSON),
    indent=st.sampled_from([None, 2]),
    chunk=st.integers(1, 40),
)
def test_the_arrays_of_an_object_are_read_at_every_chunk_size(
    tmp_path: Path, given: dict[str, Any], indent: int | None, chunk: int
) -> None:
    arrays = [name for name, value in given.items() if isinstance(value, list)]
    path = tmp_path / "object.json"
    path.write_text(json.dumps(given, indent=indent), encoding="utf-8", newline="")
    read = members_of(path, arrays, chunk)
    by_name = {name: [e.value for n, e in read if n == name and e] for name in arrays}
    assert by_name == {name: given[name] for name in arrays}
    assert [name for name, element in read if element is None] == arrays


def members_of(path: Path, names: list[str], chunk: int) -> list[Member]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("registry.io.files.json_array._CHUNK", chunk)
        return list(members(path, names))


@pytest.mark.parametrize("chunk", [1, 1 << 20])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "line 1: no JSON object"),
        ('{"a": [1],\n"a": [2]}', "line 2: 'a' is there twice"),
        ('{"a": {}}', "line 1: 'a' is not a list of objects"),
        ('{"a": [1] 2', "line 1: not JSON: Expecting ',' delimiter"),
        ('{"a": [1]', "line 1: the file ends within its object: was it cut off?"),
        ('{"a": [1', "line 1: the file ends within its array: was it cut off?"),
        ('{"a": [1],}', "line 1: not JSON: Expecting value"),
        ("{5", "line 1: not JSON: Expecting property name"),
        ('{"a" 5}', "line 1: not JSON: Extra data"),
        ('{"a": [1], "b": 1 2}', "line 1: not JSON: Extra data"),
        ('{"a": [1]} 5', "line 1: there is more after the object's end"),
    ],
)
def test_an_object_that_is_wrong_is_refused(
    tmp_path: Path, text: str, reason: str, chunk: int
) -> None:
    path = tmp_path / "object.json"
    path.write_text(text, encoding="utf-8", newline="")
    with pytest.raises(ImportFileError) as caught:
        members_of(path, ["a"], chunk)
    assert reason in str(caught.value)
