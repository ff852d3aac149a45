"""Insertion of samples that are given as rows, as columns or as a table: the batches to append.

A table may be larger than the memory. It is encoded some MiB at a time, and appended when the
records of up to `AHEAD_BYTES` are ready.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from registry.errors import InvalidSampleError
from registry.samples.keys import Groups, Keys, as_text_list
from registry.samples.schema import Schema
from registry.samples.tables import Table, is_table, length_of, parts_of
from registry.storage.log.batch import Batch
from registry.storage.log.changes import insertion
from registry.storage.log.schemas import Schemas

AHEAD_BYTES = 256 << 20
"""Bytes of records that are encoded, and so checked, before any of them is appended."""
AHEAD_ROWS = 1 << 20
_PIECE_BYTES = 4 << 20
"""Bytes of records that are encoded together; their Python values take several times as much."""
_PIECE_ROWS = 4096
_FIRST_ROWS = 64
"""Rows of the first piece, from whose records the rows of the next are computed."""

Data = Mapping[str, Any] | Sequence[Mapping[str, Any]] | Table


def insertions(
    schemas: Schemas,
    data: Data,
    keys: Keys | None,
    source: str | None,
    groups: Groups | None = None,
) -> Iterator[Batch]:
    """Yield the batches that insert samples, one unless the data are a large table.

    Raises `InvalidSampleError`, with the row counted from the first of all.
    """
    if not is_table(data):
        yield schemas.encoded(
            lambda schema: insertion(schema, data, keys, source, groups)  # type: ignore[arg-type]
        )
        return
    pieces: list[Batch] = []
    first = rows = size = 0
    for piece in _pieces(schemas, data, keys, source, groups):
        pieces.append(piece)
        rows += len(piece.keys)
        size += _bytes_of(piece)
        if rows >= AHEAD_ROWS or size >= AHEAD_BYTES:
            yield _joined(pieces, first)
            pieces, first, rows, size = [], first + rows, 0, 0
    if pieces:
        yield _joined(pieces, first)


def _pieces(
    schemas: Schemas, table: Any, keys: Keys | None, source: str | None, groups: Groups | None
) -> Iterator[Batch]:
    count = length_of(table)
    listed, listed_groups = keys, groups
    if keys is not None and not isinstance(keys, str):
        listed = as_text_list(keys, count, "keys")
    if groups is not None and not isinstance(groups, str):
        listed_groups = as_text_list(groups, count, "groups")
    done, together = 0, _FIRST_ROWS
    for part in parts_of(table, schemas.newest.features):
        start = 0
        while start < part.rows:
            stop = min(part.rows, start + together)
            until = done + stop - start
            some = _between(listed, done, until, "keys")
            some_groups = _between(listed_groups, done, until, "groups")
            encode = partial(
                _encode,
                columns=part.slice(start, stop),
                keys=some,
                source=source,
                groups=some_groups,
                before=done,
            )
            piece = schemas.encoded(encode)
            yield piece
            done += stop - start
            start = stop
            width = max(1, _bytes_of(piece) // len(piece.keys))
            together = max(1, min(_PIECE_ROWS, _PIECE_BYTES // width))
    if not done:
        raise InvalidSampleError("the table is empty; insert at least one sample")
    for values, what in ((listed, "keys"), (listed_groups, "groups")):
        if isinstance(values, list) and len(values) != done:
            raise InvalidSampleError(f"{len(values)} {what} were given for {done} samples")


def _between(values: Any, start: int, stop: int, what: str) -> Any:
    if not isinstance(values, list):
        return values
    if len(values) < stop:
        raise InvalidSampleError(f"{len(values)} {what} were given for at least {stop} samples")
    return values[start:stop]


def _encode(
    schema: Schema,
    columns: Mapping[str, Any],
    keys: Keys | None,
    source: str | None,
    groups: Groups | None,
    before: int,
) -> Batch:
    """Return the batch of columns; an error counts ``before`` rows that precede them."""
    try:
        return insertion(schema, columns, keys, source, groups)
    except InvalidSampleError as error:
        row = None if error.row is None else error.row + before
        raise InvalidSampleError(
            error.reason, row=row, key=error.key, feature=error.feature
        ) from None


def _joined(batches: Sequence[Batch], first_row: int) -> Batch:
    # The last piece has the newest schema, if it changed meanwhile.
    schema = batches[-1].schema
    assert schema is not None
    batches = [batch.brought_to(schema) for batch in batches]
    return Batch(
        [key for batch in batches for key in batch.keys],
        [record for batch in batches for record in batch.records],
        [source for batch in batches for source in batch.sources],
        fresh=all(batch.fresh for batch in batches),
        groups=(
            None
            if batches[0].groups is None
            else [group for batch in batches for group in batch.groups or ()]
        ),
        first_row=first_row,
        schema=schema,
    )


def _bytes_of(batch: Batch) -> int:
    return sum(len(record) for record in batch.records if isinstance(record, bytes))
