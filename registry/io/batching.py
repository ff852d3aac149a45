"""Packing of a file's rows into batches to append.

Rows are collected into pieces of some hundred, each piece is packed into records, and pieces are
joined into batches. A batch is a transaction; a piece bounds the Python objects that exist at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from registry.errors import ImportFileError, InvalidSampleError
from registry.io.row import FileRow, export_hint, line_key
from registry.io.row_media import is_named
from registry.samples.keys import check_groups
from registry.samples.schema import Schema
from registry.storage.log.batch import Amend, Batch
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

Refuse = Callable[[ImportFileError, Mapping[str, Any] | None], None]
"""Called with the error of a row that does not fit, and what could be read of it."""


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
    groups: list[str | None] = field(default_factory=list)
    default_groups: list[str | None] = field(default_factory=list)
    size: int = 0
    """Bytes in the file."""
    weight: int = 0
    """Bytes in memory, about: more than in the file if rows name images by paths or URIs."""

    def remove(self, row: int) -> None:
        for column in (self.lines, self.values, self.keys, self.groups, self.default_groups):
            del column[row]


class PackedRows(NamedTuple):
    """A batch to append, the line of each of its rows, and their size in the file in bytes."""

    batch: Batch
    lines: Sequence[int]
    size: int

    def without(self, row: int) -> PackedRows:
        """Return the rows but one."""
        rows = [other for other in range(len(self.lines)) if other != row]
        return self._replace(batch=self.batch.only(rows), lines=[self.lines[n] for n in rows])


def batches(
    schema: Schema, rows: Iterable[FileRow], origin: Origin, refuse: Refuse | None = None
) -> Iterator[PackedRows]:
    """Yield batches to append, in the order of the rows.

    Calls ``refuse`` for each row that does not fit, and for a key that is in a batch again; without
    it, raises `ImportFileError` for the first.
    """
    packed = _Piece()
    records: list[Any] = []
    named = [name for name, feature in schema.features.items() if is_named(feature)]
    # Of a piece that is packed, only the records are kept: plain bytes, no Python objects.
    for piece in _pieces(rows, named, origin.name, refuse or _raise):
        # Before the keys: rows that do not fit are removed from the piece.
        records += _pack(schema, piece, origin, refuse)
        packed.lines += piece.lines
        packed.keys += piece.keys
        packed.groups += piece.groups
        packed.default_groups += piece.default_groups
        packed.size += piece.size
        packed.weight += piece.weight
        if len(packed.keys) >= BATCH_ROWS or packed.weight >= BATCH_BYTES:
            yield _packed_rows(schema, packed, records, origin, refuse or _raise)
            packed, records = _Piece(), []
    if packed.keys:
        yield _packed_rows(schema, packed, records, origin, refuse or _raise)


def _raise(error: ImportFileError, _: Mapping[str, Any] | None) -> NoReturn:
    raise error


def _pieces(
    rows: Iterable[FileRow], named: Sequence[str], name: str, refuse: Refuse
) -> Iterator[_Piece]:
    piece = _Piece()
    count, size, weight = 0, 0, 0
    for line, values, key, raw, error, group, default_group in rows:
        if error is not None:
            refuse(error, values)
            size += len(raw) + 1
            continue
        if key is None:
            key = line_key(name, line, raw)  # noqa: PLW2901  # the missing key
        piece.lines.append(line)
        piece.values.append(values)
        piece.keys.append(key)
        piece.groups.append(group)
        piece.default_groups.append(default_group)
        count += 1
        row_size = len(raw) + 1  # the line end, which ``raw`` lacks
        size += row_size
        weight += max(row_size, _named_bytes(values, named)) if named else row_size
        if count == PIECE_ROWS or weight >= PIECE_BYTES:
            piece.size, piece.weight = size, weight
            yield piece
            piece = _Piece()
            count, size, weight = 0, 0, 0
    if count:
        piece.size, piece.weight = size, weight
        yield piece


def _named_bytes(values: Mapping[str, Any], named: Sequence[str]) -> int:
    """Return the bytes of a row that may have been read from elsewhere than the file."""
    contents = (values.get(name) for name in named)
    return sum(len(content) for content in contents if isinstance(content, bytes))


def _pack(
    schema: Schema, piece: _Piece, origin: Origin, refuse: Refuse | None
) -> Iterable[bytes | Amend | None]:
    """Return the records of a piece, from which the rows that do not fit are removed."""
    while piece.keys:
        try:
            return _records(schema, piece)
        except InvalidSampleError as error:
            row, reason = error.row, error.reason
            # The codec checks whole columns, and cannot always say which row is wrong.
            if row is None and refuse is not None:
                row, reason = _first_unfit(schema, piece)
            key = error.key
            if row is None:
                unit, last = origin.unit, piece.lines[-1]
                reason = f"{reason} (in this {unit} or one after it, up to {unit} {last})"
            else:
                key = piece.keys[row]
                if error.feature is None:
                    reason += export_hint(piece.values[row], schema.features)
            problem = ImportFileError(
                reason,
                file=str(origin.path),
                line=piece.lines[row or 0],
                key=key,
                feature=error.feature,
                unit=origin.unit,
            )
            if row is None or refuse is None:
                raise problem from error
            refuse(problem, piece.values[row])
            piece.remove(row)
    return []


def _records(schema: Schema, piece: _Piece) -> Sequence[bytes | Amend | None]:
    """Return the records of a piece; raises `InvalidSampleError`."""
    if (defaults := _named(piece.default_groups)) is not None:
        check_groups(defaults, len(defaults), piece.keys)
    return insertion(schema, piece.values, piece.keys, None, _named(piece.groups)).records


def _named(groups: list[str | None]) -> list[str | None] | None:
    """Return groups, or None if none is named."""
    return groups if any(groups) else None


def _first_unfit(schema: Schema, piece: _Piece) -> tuple[int | None, str]:
    """Return the first row of a piece that does not fit, alone, and the reason."""
    groups_of_rows = zip(piece.groups, piece.default_groups, strict=True)
    columns = zip(piece.values, piece.keys, groups_of_rows, strict=True)
    for row, (values, key, groups) in enumerate(columns):
        try:
            alone = _Piece([0], [values], [key], [groups[0]], [groups[1]])
            _records(schema, alone)
        except InvalidSampleError as error:
            return row, error.reason
    return None, "rows that fit alone do not fit together"


def _packed_rows(
    schema: Schema, packed: _Piece, records: list[Any], origin: Origin, refuse: Refuse
) -> PackedRows:
    lines, keys = packed.lines, packed.keys
    batch = Batch(
        keys,
        records,
        [f"file:{origin.name}"] * len(keys),
        groups=_named(packed.groups),
        default_groups=_named(packed.default_groups),
        schema=schema,
    )
    # Within the batch only: the keys of a whole file may not fit into memory.
    if len({*keys}) < len(keys):
        first_rows: dict[str, int] = {}
        # Rows and not lines are compared: the elements of a JSON array may be on one line.
        for row, (line, key) in enumerate(zip(lines, keys, strict=True)):
            # Each import would revise it once and back again.
            if (first := first_rows.setdefault(key, row)) != row:
                unit = origin.unit
                reason = f"the key is that of {unit} {lines[first]}, too; give each sample its own"
                refuse(
                    ImportFileError(reason, file=str(origin.path), line=line, key=key, unit=unit),
                    None,
                )
        rows = [*first_rows.values()]
        batch, lines = batch.only(rows), [lines[row] for row in rows]
    return PackedRows(batch, lines, packed.size)
