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

_COLUMNS = {
    "position": INT8,
    "bucket": INT4,
    "chain": BYTEA,
    "record": BYTEA,
    "source": TEXT,
    "supersedes": INT8,
    "live": INT8,
    "key": TEXT,
    "group_key": TEXT,
}
_INTO = f"INSERT INTO samples (dataset_id, {', '.join(_COLUMNS)})"
_VALUES = ", ".join(f"${number}" for number in range(2, 2 + len(_COLUMNS)))
_INSERT_ONE = Statement(f"{_INTO} VALUES ($1, {_VALUES})".encode(), (INT4, *_COLUMNS.values()))
# All rows in one statement: the trigger on the table runs once for each.
_INSERT = Statement(
    f"{_INTO} SELECT $1, * FROM unnest({_VALUES})".encode(),  # noqa: S608  # the names are our own
    (INT4, *map(array_of, _COLUMNS.values())),
)


def are_few(records: Sequence[bytes | None]) -> bool:
    """Return whether rows with these records should be inserted here."""
    return len(records) <= ROWS and sum([len(record or b"") for record in records]) <= BYTES


def insertion(dataset_id: int, rows: NewRows) -> Query:
    """Return the query that inserts rows, which have no times."""
    count = len(rows.keys)
    columns: tuple[Sequence[bytes | None], ...] = (
        [int8(position) for position in range(rows.position, rows.position + count)],
        [int4(bucket) for bucket in rows.buckets.tolist()],
        rows.chains,
        rows.records,
        [None if source is None else source.encode() for source in rows.sources],
        [None if old is None else int8(old) for old in rows.supersedes],
        [int8(rows.live[row]) if row in rows.live else None for row in range(count)],
        [key.encode() for key in rows.keys],
        [None if group is None else group.encode() for group in rows.groups or [None] * count],
    )
    if count == 1:
        return Query(_INSERT_ONE, (int4(dataset_id), *[column[0] for column in columns]))
    arrays = map(array, _COLUMNS.values(), columns)
    return Query(_INSERT, (int4(dataset_id), *arrays))
