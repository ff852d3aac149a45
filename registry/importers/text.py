"""What importers of text files share: rows, numbered lines, strict JSON and base64.

A helper that cannot read what it is given raises `ValueError` with the reason; the importer knows
the line and the feature.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from registry.errors import ImportFileError
from registry.features import LARGEST_RECORD

LONGEST_LINE = LARGEST_RECORD
"""Bytes that one line may have: a file without line ends must not be taken into memory whole."""
_SHOWN = 40
_BOM = b"\xef\xbb\xbf"


class Row(NamedTuple):
    """One sample of a file.

    ``line`` is where it begins, from 1; ``raw`` is what the file holds for it, without the line
    end, which says nothing about the sample and changes on the way from one system to another.
    """

    line: int
    values: dict[str, Any]
    key: str | None
    raw: bytes


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the file's lines with their ends, numbered from 1, without a byte-order mark."""
    number = 0
    with path.open("rb") as file:
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise ImportFileError(
                    f"over {LONGEST_LINE} bytes without a line end", file=str(path), line=number
                )
            yield number, line.removeprefix(_BOM) if number == 1 else line


def decode(raw: bytes) -> str:
    """Decode UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte {raw[error.start]:#04x} at column {error.start + 1} is not UTF-8; "
            "save the file as UTF-8"
        ) from None


def from_json(text: str) -> Any:
    """Read JSON, and nothing that JSON does not allow or that could be read in two ways."""
    try:
        return _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def from_base64(text: object) -> bytes:
    """Read base64 text."""
    if not isinstance(text, str):
        raise ValueError(f"bytes are written as base64 text, not {type(text).__name__}")  # noqa: TRY004
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"{shown(text)} is not base64 ({error})") from None


def shown(text: str) -> str:
    """Quote a value for a message, if need be its beginning only."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}…"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{shown(twice)} is there twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{shown(text)} is too large for a float")
    return number


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_constant=_constant
)
