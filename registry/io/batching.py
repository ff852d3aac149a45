"""A file's rows, packed into batches to append."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from registry.errors import ImportFileError, InvalidSampleError
from registry.io.row import Row
from registry.samples.codec import Codec
from registry.storage.log.batch import Batch
from registry.storage.log.changes import insertion

BATCH_ROWS = 4096
BATCH_BYTES = 16 << 20
"""Bytes of the file in a batch, about."""
PIECE_ROWS = 256
"""Rows that are packed together. Python's garbage collector looks at containers once there are
some 700 more of them, and goes through all there are now and then: it costs more than the packing
where whole batches of lists and dicts wait for it."""
PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Origin:
    """Where rows are from: the file, its name as text, and what its rows are counted in."""

    path: Path
    name: str
    unit: str


@dataclass(slots=True)
class _Piece:
    lines: list[int] = field(default_factory=list)
    values: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    size: int = 0


def batches(codec: Codec, rows: Iterable[Row], origin: Origin) -> Iterator[tuple[Batch, int]]:
    """Yield batches to append, each with the bytes of the file that it comes from.

    Raises `ImportFileError` for a row that does not fit, and for a key that a batch has twice.
    """
    lines: list[int] = []
    keys: list[str] = []
    records: list[Any] = []
    size = 0
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


def _pieces(rows: Iterable[Row], name: str) -> Iterator[_Piece]:
    piece = _Piece()
    count, size = 0, 0
    for line, values, key, raw in rows:
        if key is None:
            # The line tells apart rows that are alike, the hash a row that was edited.
            key = f"{name}:{line}:{hashlib.blake2b(raw, digest_size=4).hexdigest()}"  # noqa: PLW2901  # the key that it lacks
        piece.lines.append(line)
        piece.values.append(values)
        piece.keys.append(key)
        count += 1
        size += len(raw) + 1
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
        if error.row is None:
            reason = f"{reason} (in this {unit} or one after it, up to {unit} {piece.lines[-1]})"
        else:
            line, key = piece.lines[error.row], piece.keys[error.row]
        raise ImportFileError(
            reason, file=str(origin.path), line=line, key=key, feature=error.feature, unit=unit
        ) from error


def _batch(lines: list[int], keys: list[str], records: list[Any], origin: Origin) -> Batch:
    if len({*keys}) < len(keys):
        _refuse_twice(lines, keys, origin)
    return Batch(keys, records, [f"file:{origin.name}"] * len(keys))


def _refuse_twice(lines: list[int], keys: list[str], origin: Origin) -> NoReturn:
    """Refuse a key that comes twice: each import of the file would revise it to and fro."""
    first: dict[str, int] = {}
    for line, key in zip(lines, keys, strict=True):
        if first.setdefault(key, line) != line:
            unit = origin.unit
            reason = f"the key is that of {unit} {first[key]}, too; give each sample its own"
            raise ImportFileError(reason, file=str(origin.path), line=line, key=key, unit=unit)
    raise AssertionError
