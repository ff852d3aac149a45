"""Reading of CSV: a header row that names the features, then a row per sample."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from registry.errors import ImportFileError
from registry.io.files.lines import LONGEST_LINE, decode, lines
from registry.io.row import FieldMapping, FileRow, columns_of
from registry.samples.features import Bytes, ClassLabel, Feature, Features, Image, Tensor, Text
from registry.samples.json_codec import excerpt, parse_json

Convert = Callable[[str], Any]

_SHOWN_CELLS = 5
_OTHER_DELIMITERS = (";", "\t", "|")
_BOOLS = {"true": True, "1": True, "false": False, "0": False}


def read(
    path: Path,
    features: Features,
    key: str | None,
    mapping: FieldMapping,
    group: str | None = None,
) -> Iterator[FileRow]:
    """Yield the file's samples; ``key`` and ``group`` name the columns of their keys and groups.

    An empty cell is no group.

    A cell holds a number, ``true`` or ``false``, the name or index of a class, text, a text that
    `with_media` loads for bytes and images, or a JSON list for arrays. Raises `ImportFileError`
    with the line.
    """
    records = _Records(path)
    header = records.next()
    if header is None:
        raise ImportFileError("the file has no header row", file=str(path))
    _refuse_missing_header(
        path, records.line, header, [*(mapping.get(n, n) for n in features), key, group]
    )
    try:
        columns = columns_of(header, features, key, mapping, group)
    except ValueError as error:
        raise ImportFileError(str(error), file=str(path), line=records.line) from None
    converters = [(name, column, converter(features[name])) for name, column in columns.items()]
    while (cells := records.next()) is not None:
        if len(cells) != len(header):
            problem = records.error(f"{len(cells)} cells, where the header has {len(header)}")
            yield FileRow(records.line, {}, None, records.raw, problem)
            continue
        texts = dict(zip(header, cells, strict=True))
        row_key = texts[key] if key is not None else None
        values: dict[str, Any] = {}
        row_error = None
        for name, column, convert in converters:
            try:
                values[name] = convert(texts[column])
            except ValueError as error:
                values[name] = texts[column]
                row_error = row_error or records.error(str(error), key=row_key, feature=name)
        row_group = (texts[group] or None) if group is not None else None
        yield FileRow(records.line, values, row_key, records.raw, row_error, row_group)


def _refuse_missing_header(
    path: Path, line: int, cells: list[str], expected: list[str | None]
) -> None:
    """Raise `ImportFileError` if the first line names none of the columns, and may be a sample."""
    if {*cells}.isdisjoint(expected):
        columns = ", ".join(repr(name) for name in expected if name is not None)
        has = ", ".join(map(excerpt, cells[:_SHOWN_CELLS])) + ("…" if cells[_SHOWN_CELLS:] else "")
        reason = f"the first line must name the columns {columns}; it has {has}"
        delimiters = [each for each in _OTHER_DELIMITERS if each in cells[0]]
        if len(cells) == 1 and delimiters:
            reason += f"; columns are separated by commas, and not by {delimiters[0]!r}"
        raise ImportFileError(reason, file=str(path), line=line)


class _Records:
    """The file's rows of cells, with the first line and the bytes of the current one.

    A quoted cell may span lines, so a row may, too: ``line`` is its first line. The `csv` module
    pulls lines from `_decoded`, which records them as the bytes of the row.
    """

    def __init__(self, path: Path) -> None:
        # The csv module has one limit for the whole process, and its default is too low for
        # images. It is only raised: other code may have set a higher one.
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))
        self.line = 0
        self._path = path
        self._lines = lines(path)
        self._row_lines: list[bytes] = []
        # Unless strict, a quote that is never closed makes one cell of the rest of the file.
        self._reader = csv.reader(self._decoded(), strict=True)

    @property
    def raw(self) -> bytes:
        # Without the line end: a file copied to another system must keep its keys.
        return b"".join(self._row_lines).rstrip(b"\r\n")

    def next(self) -> list[str] | None:
        """Return the next row that is not blank, or None at the end of the file."""
        # The csv module returns an empty list for a blank line.
        cells: list[str] | None = []
        while cells == []:
            self._row_lines.clear()
            try:
                cells = next(self._reader, None)
            except csv.Error as error:
                raise self.error(f"not CSV: {error}") from None
        return cells

    def error(
        self, reason: str, *, key: str | None = None, feature: str | None = None
    ) -> ImportFileError:
        return ImportFileError(
            reason, file=str(self._path), line=self.line, key=key, feature=feature
        )

    def _decoded(self) -> Iterator[str]:
        for number, line in self._lines:
            # The first line of a row; further lines continue a quoted cell.
            if not self._row_lines:
                self.line = number
            self._row_lines.append(line)
            # Not decoded by `open`, whose errors have no line.
            try:
                text = decode(line)
            except ValueError as error:
                raise ImportFileError(str(error), file=str(self._path), line=number) from None
            yield text


def converter(feature: Feature) -> Convert:
    """Return a function that converts a cell to a value; it raises `ValueError`."""
    if isinstance(feature, Text | Bytes | Image):
        return str
    if isinstance(feature, ClassLabel):
        # Names first: a class may be named '3' and have another index.
        names = frozenset(feature.names or ())
        return lambda cell: cell if cell in names else _class(cell)
    if not isinstance(feature, Tensor) or feature.shape:
        return _list
    return {"b": _bool, "f": _float}.get(np.dtype(feature.dtype).kind, _int)


def _list(cell: str) -> list[Any]:
    parsed = parse_json(cell)
    if not isinstance(parsed, list):
        raise ValueError(f"{excerpt(cell)} is not a JSON list")  # noqa: TRY004
    return parsed


def _class(cell: str) -> int:
    try:
        return _int(cell)
    except ValueError:
        raise ValueError(f"{excerpt(cell)} is not a class") from None


def _bool(cell: str) -> bool:
    if cell.lower() not in _BOOLS:
        raise ValueError(f"{excerpt(cell)} is not true, false, 1 or 0")
    return _BOOLS[cell.lower()]


def _int(cell: str) -> int:
    try:
        # int() accepts 1_000 as a thousand; in a file it is a mistake. "?" makes it fail.
        return int(cell.replace("_", "?"))
    except ValueError:
        raise ValueError(f"{excerpt(cell)} is not a whole number") from None


def _float(cell: str) -> float:
    try:
        number = float(cell.replace("_", "?"))
    except ValueError:
        raise ValueError(f"{excerpt(cell)} is not a number") from None
    # float() returns infinity for 1e999 instead of raising.
    if math.isinf(number) and "inf" not in cell.lower():
        raise ValueError(f"{excerpt(cell)} is too large for a float")
    return number
