"""JSON Lines: the fast parser agrees with the strict one, and a bad line is named."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest

from registry import Bytes, Features, Image, Ragged, Registry, Tensor, Text
from registry.errors import ImportFileError
from registry.io.files.jsonl import parse_block, parse_object, read
from registry.io.import_file import insert_file
from tests.support.file_rows import fitting


@pytest.mark.parametrize(
    "text", ['{"a": 1, "b": [2.5, -0.0]}', '{"a": "x:{y"}', '{"a": 18446744073709551615}']
)
def test_both_parsers_read_an_object_alike(text: str) -> None:
    assert repr(parse_object(text.encode())) == repr(json.loads(text))


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 1}',
        '{"a": {"b": 1, "b": 1}}',
        '{"a": ":", "a": 1}',
        '{"a": 1, "\\u0061": 1}',
        '{"a": [{"b": 1, "b": 2}], "c": ":"}',
        '{"a": 1e400}',
        '{"a": 123456789012345678901}',
        '{"a": NaN}',
        '{"a": 1} {"a": 2}',
        '[{"a": 1}]',
        '{"a": 1',
        "{\"a\": 'b'}",
        "1",
    ],
)
def test_what_the_strict_parser_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_object(text.encode())


@pytest.mark.parametrize(
    "lines",
    [
        ['{"a": 1', '"b": 2}', '{"a": 1}, {"b": 2}'],
        ['{"a": [{}', "{}]}, {}"],
        ['{"a": "}', '{"}'],
        ['{"a": [1', "2]}"],
        ['{"a": 1}', '{"a": 1}, {"a": 2}'],
        ['{"a": 1}', '{"a": 1, "a": 2}'],
        ['{"a": 1},', '{"a": 1}'],
        ['{"a": 1}', "[1]"],
    ],
)
def test_lines_that_are_objects_only_together_are_refused(lines: list[str]) -> None:
    assert parse_block([line.encode() for line in lines]) is None


def test_lines_are_parsed_together() -> None:
    assert parse_block([b'{"a": 1}', b'{"a": 2} ']) == [{"a": 1}, {"a": 2}]


def test_a_long_fraction_is_no_long_whole_number() -> None:
    small, large = "0.00012345678901234567", "1234567890123456789"
    assert parse_block([f'{{"a": {small}}}'.encode()]) == [{"a": float(small)}]
    assert parse_block([f'{{"a": [{small}, {large}]}}'.encode()]) is None


def test_rows_are_read_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"x": 1}\nnonsense')
    rows = read(path, Features({"x": Tensor("int8")}), None, {})
    assert next(rows).values == {"x": 1}
    assert "line 2" in str(next(rows).error)


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
def test_a_bad_line_is_named(tmp_path: Path, content: str | bytes, reason: str) -> None:
    raw = content.encode() if isinstance(content, str) else content
    if b'"b"' in raw:
        raw = raw.replace(b"{", b'{"id": "k", ')
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"id": 0}\n' + raw)
    with pytest.raises(ImportFileError) as caught:
        fitting(read(path, Features({"x": Tensor("float32"), "b": Ragged("uint8")}), "id", {}))
    assert str(caught.value).startswith(f"{path}, {reason}")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"t": "a\\u0000b", "r": []}', r"feature 't': text cannot hold \\x00"),
        ('{"t": "a\\ud800b", "r": []}', "feature 't': text cannot hold a lone surrogate"),
        ('{"t": "", "r": ' + "[" * 10_000 + "]" * 10_000 + "}", "nested too deeply"),
        ('{"t": "", "r": ' + "[" * 500 + "]" * 500 + "}", "feature 'r': "),
        ('{"t": "", "r": [1, [2]]}', "feature 'r': "),
        ('{"t": "", "r": {}}', "feature 'r': "),
        ('{"t": [], "r": []}', "feature 't': .* is not text"),
        ('{"t": "", "r": [300]}', "feature 'r': 300 does not fit int8"),
        ('{"t": "", "r": [1.5]}', "feature 'r': float64 does not fit int8"),
        ('{"t": ""}', "missing 'r'"),
        ('{"t": "", "r": [], "__proto__": 1}', "unknown '__proto__'"),
        ('{"t": "", "r": [NaN]}', "NaN is not JSON"),
        ('{\n"t": ""', "not JSON"),
        ("\x00", "not JSON"),
        ("null", "not a JSON object"),
    ],
)
def test_a_hostile_line_is_named_and_leaves_nothing(
    reg: Registry, tmp_path: Path, line: str, reason: str
) -> None:
    dataset = reg.create("texts", {"t": Text(), "r": Ragged("int8")})
    path = tmp_path / "d.jsonl"
    path.write_text('{"t": "good", "r": [1]}\n' + line)
    with pytest.raises(ImportFileError, match=f"line 2.*{reason}") as caught:
        insert_file(dataset, path)
    assert caught.value.stored == len(dataset) == 0


def test_a_list_is_no_bytes(reg: Registry, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"b": [1]}')
    with pytest.raises(ImportFileError, match=r"line 1, .*feature 'b': .* is not bytes"):
        insert_file(reg.create("blobs", {"b": Bytes()}), path)


def test_a_jpeg_that_claims_too_many_pixels_is_refused(reg: Registry, tmp_path: Path) -> None:
    dataset = reg.create("photos", {"photo": Image("jpeg")})
    frame = b"\xff\xe0\x00\x04ab\xff\xff\xc2\x00\x11\x08" + struct.pack(">HH", 65000, 65000)
    data = b"\xff\xd8" + frame + b"\x03" * 12
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"photo": "data:image/jpeg," + quote_from_bytes(data)}))
    with pytest.raises(ImportFileError, match=r"line 1, .*claims 65000 by 65000 pixels"):
        insert_file(dataset, path)
