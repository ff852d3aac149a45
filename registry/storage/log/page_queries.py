"""The queries that read a page of the log, for each database and record layout.

On PostgreSQL, records of fixed width are concatenated by the server, a group of rows to one value
(`_GROUPED`). Where records differ in length, rows are sent singly and the page ends at the row that
fills it (`rows_within`). SQLite runs in this process, so that its rows are read one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import chain as concatenate
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Connection

from registry.samples.codec import Codec
from registry.samples.schema import Schema
from registry.storage.database.transactions import driver
from registry.storage.log.page import Page, Positions
from registry.storage.log.standby import missing_rows

if TYPE_CHECKING:
    from psycopg.abc import Buffer
    from psycopg.adapt import Loader

PAGE_BYTES = 1 << 23
"""Bytes of records in a page, approximately. Smaller pages cost more exchanges between threads."""
MOST_ROWS = 1 << 16
FIRST_ROWS = 64
"""Rows in the first page of a log whose records differ in length."""
GROUP_BYTES = 1 << 18
"""Bytes of records that PostgreSQL concatenates to one value. For each larger one it would
allocate new memory."""


def first_rows(codec: Codec) -> int:
    """Return how many rows the first page asks for; with records of fixed width, every page."""
    if not codec.fixed_width:
        return FIRST_ROWS
    return max(1, min(MOST_ROWS, PAGE_BYTES // codec.header.itemsize))


def fetch(connection: Connection, dataset_id: int, schema: Schema, after: int, until: int) -> Page:
    """Read the rows at positions ``[after, until)``, or the first of them where that fills a page.

    ``schema`` is in force at all of them. A page ends early only where records differ in length.
    Raises `LogGapError` where a position is missing, `ReplicaBehindError` where a standby has not
    received it yet, and `DivergenceError` where the log ends before ``until``.
    """
    if schema.codec.fixed_width and connection.dialect.name == "postgresql":
        return _grouped(connection, dataset_id, schema, after, until)
    return _row_by_row(connection, dataset_id, schema, after, until)


# The server concatenates the records of a group to one value, and sends the few positions that
# revise or retract separately: the work per row is then done by the server and not in Python.
# Each group is its own range of the primary key, so that it is sent while the next one is read.
# Buckets are sent as int16, the narrowest integer that PostgreSQL can send. They are unsigned and
# so are shifted by 32768, which `_grouped` undoes. string_agg skips NULL, as of retractions.
_GROUPED = """
    SELECT part.* FROM generate_series(%(after)s::bigint, %(until)s::bigint - 1, %(rows)s::bigint)
        AS edge CROSS JOIN LATERAL (
            SELECT count(*), string_agg(record, '' ORDER BY position),
                string_agg(int2send((bucket - 32768)::int2), '' ORDER BY position),
                array_agg(position ORDER BY position) FILTER (WHERE supersedes IS NOT NULL),
                array_agg(supersedes ORDER BY position) FILTER (WHERE supersedes IS NOT NULL),
                array_agg(position ORDER BY position) FILTER (WHERE record IS NULL)
            FROM samples WHERE dataset_id = %(dataset_id)s AND position >= edge
                AND position < least(edge + %(rows)s::bigint, %(until)s::bigint)
        ) AS part
"""


def _grouped(
    connection: Connection, dataset_id: int, schema: Schema, after: int, until: int
) -> Page:
    width = schema.codec.header.itemsize
    rows = max(1, GROUP_BYTES // width)
    parameters = {"dataset_id": dataset_id, "after": after, "until": until, "rows": rows}
    with driver(connection).cursor(binary=True) as cursor:
        cursor.adapters.register_loader("bytea", _borrowing_loader())
        groups = cursor.execute(_GROUPED, parameters, prepare=True).fetchall()
    counts, data, buckets, superseding, supersedes, retracted = zip(*groups, strict=True)
    _check_dense(connection, dataset_id, after, until, sum(counts))
    retractions = _joined(retracted)
    # string_agg returns NULL for a group that has retractions only.
    records = b"".join(part or b"" for part in data)
    if len(records) != width * (until - after - len(retractions)):
        # Some rows were erased, and their empty records do not show in the concatenation. A query
        # for the erased positions could see a later state of the log, so the rows are read again.
        return _row_by_row(connection, dataset_id, schema, after, until)
    # Widened before 32768 is added, which would overflow an int16.
    shifted = np.frombuffer(b"".join(buckets), ">i2").astype(np.int32) + 32768
    return Page(
        start=after,
        stop=until,
        data=records,
        buckets=shifted.astype(np.uint16),
        superseding=_joined(superseding),
        supersedes=_joined(supersedes),
        retracted=retractions,
        schema=schema,
    )


@cache
def _borrowing_loader() -> type[Loader]:
    """Return a loader that yields values as buffers in libpq's memory, without a copy.

    `_grouped` copies them once, when it joins them.
    """
    from psycopg.adapt import Loader  # noqa: PLC0415  # not needed on SQLite
    from psycopg.pq import Format  # noqa: PLC0415

    class BorrowingLoader(Loader):
        format = Format.BINARY

        def load(self, data: Buffer) -> Buffer:
            return data

    return BorrowingLoader


def _joined(parts: Sequence[list[int] | None]) -> Positions:
    return np.array(list(concatenate.from_iterable(part or () for part in parts)), np.int64)


_COLUMNS = ("position", "record", "bucket", "supersedes")
_ROWS = """
    SELECT {} FROM samples
    WHERE dataset_id = %s AND position >= %s AND position < %s ORDER BY position
"""
# ``before`` is the size of all rows before this one: the window adds up lengths, so that the server
# stops at the size. It knows the length of a record without reading one stored out of line.
_WINDOW = """
    SELECT {0} FROM (
        SELECT {0}, coalesce(sum(octet_length(record)) OVER (
            ORDER BY position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
        FROM samples WHERE dataset_id = %s AND position >= %s AND position < %s
    ) AS ranked WHERE before < %s ORDER BY position
"""


def _row_by_row(
    connection: Connection, dataset_id: int, schema: Schema, after: int, until: int
) -> Page:
    # A page of records of fixed width is limited by its number of rows alone.
    size = None if schema.codec.fixed_width else PAGE_BYTES
    rows = rows_within(connection, dataset_id, _COLUMNS, after, until, size)
    return _from_rows(connection, dataset_id, schema, after, until, rows)


def rows_within(
    connection: Connection,
    dataset_id: int,
    columns: tuple[str, ...],
    after: int,
    until: int,
    size: int | None,
) -> list[tuple[Any, ...]]:
    """Read the rows at ``[after, until)``, in order, or the first of them that fill ``size`` bytes.

    The row that reaches this size of records is included. ``columns`` must have "record" and
    "position". Whether rows are missing is not checked.
    """
    names = ", ".join(columns)
    if connection.dialect.name == "postgresql":
        query = (_ROWS if size is None else _WINDOW).format(names).encode()
        limit = () if size is None else (size,)
        with driver(connection).cursor(binary=True) as binary:
            values = (dataset_id, after, until, *limit)
            return binary.execute(query, values, prepare=True).fetchall()
    statement = _ROWS.format(names).replace("%s", "?")
    cursor: Any = connection.exec_driver_sql(statement, (dataset_id, after, until)).cursor
    if size is None:
        return list(cursor.fetchall())
    record = columns.index("record")
    rows: list[tuple[Any, ...]] = []
    total = 0
    while total < size and (row := cursor.fetchone()):
        rows.append(row)
        total += len(row[record] or b"")
    return rows


def _from_rows(
    connection: Connection,
    dataset_id: int,
    schema: Schema,
    after: int,
    until: int,
    rows: Sequence[tuple[Any, ...]],
) -> Page:
    """Return the page of (position, record, bucket, supersedes) rows from ``after`` on."""
    stop = until
    # Only a full page may end early. Fewer rows in one that is not full are a gap in the log, which
    # `_check_dense` reports.
    full = not schema.codec.fixed_width and sum(len(row[1] or b"") for row in rows) >= PAGE_BYTES
    if full:
        stop = rows[-1][0] + 1
    _check_dense(connection, dataset_id, after, stop, len(rows))
    return page_of(schema, after, rows)


def page_of(schema: Schema, after: int, rows: Sequence[tuple[Any, ...]]) -> Page:
    """Return the page of (position, record, bucket, supersedes) rows, which are without gaps."""
    codec = schema.codec
    revised = [(position, old) for position, _, _, old in rows if old is not None]
    records = [record for _, record, _, _ in rows if record is not None]
    data = b"".join(records)
    sizes = None if codec.fixed_width else np.array([len(r) for r in records], np.int64)
    # Most pages have no erased rows. The sizes show that without a comparison for each record.
    whole = sizes.all() if sizes is not None else len(data) == codec.header.itemsize * len(records)
    erased = [] if whole else [position for position, record, _, _ in rows if record == b""]
    return Page(
        start=after,
        stop=after + len(rows),
        data=data,
        buckets=np.array([bucket for _, _, bucket, _ in rows], np.uint16),
        superseding=np.array([position for position, _ in revised], np.int64),
        supersedes=np.array([old for _, old in revised], np.int64),
        retracted=np.array([p for p, record, _, _ in rows if record is None], np.int64),
        schema=schema,
        sizes=sizes if sizes is None else sizes[sizes > 0],
        erased=np.array(erased, np.int64),
    )


def _check_dense(
    connection: Connection, dataset_id: int, after: int, until: int, count: int
) -> None:
    """Raise the error of `missing_rows` unless each position in ``[after, until)`` has its row.

    Positions are unique, so that an equal number of rows and positions is enough.
    """
    if count != until - after:
        raise missing_rows(connection, dataset_id, after, until, count)
