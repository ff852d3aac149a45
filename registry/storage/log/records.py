"""Records of a log by position, and their fingerprints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, select

from registry.storage.database.models import DatasetRow, SampleRow
from registry.storage.database.transactions import driver
from registry.storage.log.standby import missing_rows

LONG = 1 << 16
"""Bytes up to which a record is its own fingerprint: to send it is faster than to hash it twice."""


_AT_POSTGRESQL = """
    SELECT {} FROM unnest(%s::bigint[]) WITH ORDINALITY AS asked (position, rank)
    JOIN samples ON samples.dataset_id = %s AND samples.position = asked.position ORDER BY rank
"""


_AT_SQLITE = """
    SELECT {} FROM json_each(?) AS asked
    CROSS JOIN samples ON samples.dataset_id = ? AND samples.position = asked.value
    ORDER BY asked.key
"""


def records_at(connection: Connection, dataset_id: int, positions: Sequence[int]) -> list[bytes]:
    """Return the records at these positions, in the order asked for; an erased row's is empty.

    Raises as `missing_rows` where one is missing.
    """
    return _values_at(connection, dataset_id, positions, "record")


def fingerprints_at(
    connection: Connection, dataset_id: int, positions: Sequence[int]
) -> list[bytes]:
    """Return the `fingerprint` of records as `records_at` returns them.

    The database computes those of long records, which it need not send then.
    """
    hashed = f"CASE WHEN length(record) <= {LONG} THEN record ELSE sha256(record) END"
    return _values_at(connection, dataset_id, positions, hashed)


def fingerprint(record: bytes) -> bytes:
    """Return bytes that are equal, of records of one length, only where the records are."""
    return record if len(record) <= LONG else sha256(record).digest()


def _values_at(
    connection: Connection, dataset_id: int, positions: Sequence[int], column: str
) -> list[bytes]:
    if connection.dialect.name == "postgresql":
        with driver(connection).cursor(binary=True) as cursor:
            rows: Sequence[Any] = cursor.execute(
                _AT_POSTGRESQL.format(column).encode(), (list(positions), dataset_id)
            ).fetchall()
    else:
        place = (json.dumps(list(positions)), dataset_id)
        rows = connection.exec_driver_sql(_AT_SQLITE.format(column), place).fetchall()
    values = [value for (value,) in rows if value is not None]
    if len(values) != len(positions):
        after, until = min(positions), max(positions) + 1
        raise missing_rows(connection, dataset_id, after, until, len(values))
    return values


def sample_at(connection: Connection, dataset_id: int, position: int) -> tuple[str, str, bytes]:
    """Return the name of a position's dataset, its key, and its record, which must be there."""
    wanted = (
        select(DatasetRow.name, SampleRow.key, SampleRow.record)
        .join(DatasetRow, DatasetRow.id == SampleRow.dataset_id)
        .where(SampleRow.dataset_id == dataset_id, SampleRow.position == position)
    )
    row = connection.execute(wanted).one()
    return row.name, row.key, row.record
