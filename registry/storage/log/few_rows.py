"""Insertion of few rows into PostgreSQL, by one statement that can be sent with the commit.

COPY takes a round trip to begin and one to end, and none may be shared. The rows are arrays, one
for each column, so that the same statement inserts any number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from registry.storage.database.exchange import (
    BYTEA,
    INT4,
    INT8,
    TEXT,
    Query,
    Statement,
    array,
    array_of,
    int4,
    int8,
)
from registry.storage.log.bulk_insert import NewRows

ROWS = 256
BYTES = 1 << 18
"""Rows, and bytes of their records, up to which this is faster than COPY."""

_COLUMNS = (
    ("position", INT8),
    ("bucket", INT4),
    ("chain", BYTEA),
    ("record", BYTEA),
    ("source", TEXT),
    ("supersedes", INT8),
    ("live", INT8),
    ("key", TEXT),
    ("group_key", TEXT),
)
_NAMES = ", ".join(name for name, _ in _COLUMNS)
_ARRAYS = ", ".join(f"${number}" for number in range(2, 2 + len(_COLUMNS)))
_INSERT = Statement(
    # Rows are inserted in the order of the arrays' items, so that those of a log are on disk in
    # order; the trigger gets all of them at once.
    f"INSERT INTO samples (dataset_id, {_NAMES}) SELECT $1, * FROM unnest({_ARRAYS})".encode(),  # noqa: S608  # the names are our own
    (INT4, *(array_of(item_type) for _, item_type in _COLUMNS)),
)


def are_few(records: Sequence[bytes | None]) -> bool:
    """Return whether rows with these records should be inserted here."""
    return len(records) <= ROWS and sum(len(record or b"") for record in records) <= BYTES


def insertion(dataset_id: int, rows: NewRows) -> Query:
    """Return the query that inserts rows, which have no times."""
    count = len(rows.keys)
    columns: tuple[Sequence[bytes | None], ...] = (
        [int8(position) for position in range(rows.position, rows.position + count)],
        [int4(bucket) for bucket in rows.buckets.tolist()],
        rows.chains,
        rows.records,
        _texts(rows.sources),
        [None if old is None else int8(old) for old in rows.supersedes],
        [int8(rows.live[row]) if row in rows.live else None for row in range(count)],
        _texts(rows.keys),
        [None] * count if rows.groups is None else _texts(rows.groups),
    )
    arrays = (array(item, column) for (_, item), column in zip(_COLUMNS, columns, strict=True))
    return Query(_INSERT, (int4(dataset_id), *arrays))


def _texts(texts: Sequence[str | None]) -> Sequence[bytes | None]:
    return [None if text is None else text.encode() for text in texts]
