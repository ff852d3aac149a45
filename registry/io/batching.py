"""Packing of a file's rows into batches to append.

Rows are collected into pieces of some hundred, each piece is packed into records, and pieces are
joined into batches. A batch is a transaction; a piece bounds the Python objects that exist at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from registry.errors import ImportFileError, InvalidSampleError
from registry.io.row import FileRow, line_key
from registry.samples.codec import Codec
from registry.storage.log.batch import Batch
from registry.storage.log.changes import insertion

BATCH_ROWS = 4096
BATCH_BYTES = 16 << 20
"""Bytes of the file in a batch, at which it is appended; the last piece may exceed them."""
PIECE_ROWS = 256
"""Rows that are packed together.

Python's garbage collector examines new containers after some 700 allocations, and at times all
containers that are alive. With the lists and dicts of a whole batch alive, it takes more time than
the packing.
"""
PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Origin:
    """The origin of rows: the file, its name as text, and the word for one row in messages."""

    path: Path
    name: str
    unit: str


@dataclass(slots=True)
class _Piece:
    lines: list[int] = field(default_factory=list)
    values: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    size: int = 0


def batches(codec: Codec, rows: Iterable[FileRow], origin: Origin) -> Iterator[tuple[Batch, int]]:
    """Yield batches to append, in the order of the rows, each with its size in the file in bytes.

    Raises `ImportFileError` for a row that does not fit, and for a key that is in a batch twice.
    """
    lines: list[int] = []
    keys: list[str] = []
    records: list[Any] = []
    size = 0
    # Of a piece that is packed, only the records are kept: plain bytes, no Python objects.
    for piece in _pieces(rows, origin.name):
        lines += piece.lines
        keys += piece.keys
        records += _pack(codec, piece, origin)
        size += piece.size
        if len(keys) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield _batch(lines, keys, records, origin), size
            lines, keys, records, size = [], [], [], 0
    if keys:
        yield _batch(lines, keys, records, origin), size


def _pieces(rows: Iterable[FileRow], name: str) -> Iterator[_Piece]:
    piece = _Piece()
    count, size = 0, 0
    for line, values, key, raw in rows:
        if key is None:
            key = line_key(name, line, raw)  # noqa: PLW2901  # the missing key
        piece.lines.append(line)
        piece.values.append(values)
        piece.keys.append(key)
        count += 1
        size += len(raw) + 1  # the line end, which ``raw`` lacks
        if count == PIECE_ROWS or size >= PIECE_BYTES:
            piece.size = size
            yield piece
            piece = _Piece()
            count, size = 0, 0
    if count:
        piece.size = size
        yield piece


def _pack(codec: Codec, piece: _Piece, origin: Origin) -> Iterable[Any]:
    try:
        return insertion(codec, piece.values, piece.keys, f"file:{origin.name}").records
    except InvalidSampleError as error:
        reason, line, key, unit = error.reason, piece.lines[0], error.key, origin.unit
        # The codec checks whole columns, and cannot always say which row is wrong.
        if error.row is None:
            reason = f"{reason} (in this {unit} or one after it, up to {unit} {piece.lines[-1]})"
        else:
            line, key = piece.lines[error.row], piece.keys[error.row]
        raise ImportFileError(
            reason, file=str(origin.path), line=line, key=key, feature=error.feature, unit=unit
        ) from error


def _batch(lines: list[int], keys: list[str], records: list[Any], origin: Origin) -> Batch:
    # Within the batch only: the keys of a whole file may not fit into memory.
    if len({*keys}) < len(keys):
        _refuse_repeated_key(lines, keys, origin)
    return Batch(keys, records, [f"file:{origin.name}"] * len(keys))


def _refuse_repeated_key(lines: list[int], keys: list[str], origin: Origin) -> NoReturn:
    """Raise for a key that is there twice: each import would revise it once and back again."""
    first_rows: dict[str, int] = {}
    # Rows and not lines are compared: the elements of a JSON array may be on one line.
    for row, (line, key) in enumerate(zip(lines, keys, strict=True)):
        if (first := first_rows.setdefault(key, row)) != row:
            unit = origin.unit
            reason = f"the key is that of {unit} {lines[first]}, too; give each sample its own"
            raise ImportFileError(reason, file=str(origin.path), line=line, key=key, unit=unit)
    # Not reached: the caller has compared the numbers of keys and rows.
    raise AssertionError
