"""Records of a log by position, and fingerprints by which records of one length are compared."""

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
"""Bytes up to which a record is its own fingerprint: sending it is faster than hashing it twice."""

_AT_POSTGRESQL = """
    SELECT {} FROM unnest(%s::bigint[]) WITH ORDINALITY AS wanted (position, rank)
    JOIN samples ON samples.dataset_id = %s AND samples.position = wanted.position ORDER BY rank
"""
# CROSS JOIN fixes the order of the tables: SQLite must not scan the log to find a few positions.
_AT_SQLITE = """
    SELECT {} FROM json_each(?) AS wanted
    CROSS JOIN samples ON samples.dataset_id = ? AND samples.position = wanted.value
    ORDER BY wanted.key
"""


def records_at(connection: Connection, dataset_id: int, positions: Sequence[int]) -> list[bytes]:
    """Return the records at these positions, in the order given; that of an erased row is empty.

    Raises the error that `missing_rows` returns where one is missing. A retraction, which has no
    record, counts as missing.
    """
    return _values_at(connection, dataset_id, positions, "record")


def fingerprints_at(
    connection: Connection, dataset_id: int, positions: Sequence[int]
) -> list[bytes]:
    """Return the `fingerprint` of each record, in the order that `records_at` has.

    The database hashes long records itself, so that it does not send them.
    """
    hashed = f"CASE WHEN length(record) <= {LONG} THEN record ELSE sha256(record) END"
    return _values_at(connection, dataset_id, positions, hashed)


def digests_at(connection: Connection, dataset_id: int, positions: Sequence[int]) -> list[bytes]:
    """Return the SHA-256 of each record, in the order that `records_at` has."""
    return _values_at(connection, dataset_id, positions, "sha256(record)")


def fingerprint(record: bytes) -> bytes:
    """Return bytes that, for two records of one length, are equal only where the records are.

    The lengths must be compared first: a short record may have the bytes of a long one's hash.
    """
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
        parameters = (json.dumps(list(positions)), dataset_id)
        rows = connection.exec_driver_sql(_AT_SQLITE.format(column), parameters).fetchall()
    # Positions that do not exist have no row here, and retractions no value: both would shift the
    # values that follow, so the lengths are compared.
    values = [value for (value,) in rows if value is not None]
    if len(values) != len(positions):
        after, until = min(positions), max(positions) + 1
        raise missing_rows(connection, dataset_id, after, until, len(values))
    return values


def dataset_name(connection: Connection, dataset_id: int) -> str:
    """Return the name of a dataset, which may have been dropped."""
    query = select(DatasetRow.name).where(DatasetRow.id == dataset_id)
    return str(connection.execute(query).scalar_one())


def sample_at(connection: Connection, dataset_id: int, position: int) -> tuple[str, str, bytes]:
    """Return the dataset's name, the key and the record at a position, which must have a record."""
    query = (
        select(DatasetRow.name, SampleRow.key, SampleRow.record)
        .join(DatasetRow, DatasetRow.id == SampleRow.dataset_id)
        .where(SampleRow.dataset_id == dataset_id, SampleRow.position == position)
    )
    row = connection.execute(query).one()
    return row.name, row.key, row.record
