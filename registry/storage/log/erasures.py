"""The rows of a log that were erased, by number or by position."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from sqlalchemy import ColumnElement, Connection, and_, select

from registry.samples.arrays import Positions
from registry.storage.database.models import ErasureRow, SampleRow
from registry.storage.database.sql import is_any_of
from registry.storage.database.transactions import driver


class Erased(NamedTuple):
    """A row without its record: its position, its key and the 16-byte chain value after it."""

    position: int
    key: str
    chain: bytes


# One value, as a row for each position would take ten times as long.
_POSITIONS_POSTGRESQL = b"""
    SELECT coalesce(string_agg(int8send(position), ''), '') FROM erasures
    WHERE dataset_id = %s AND position >= %s AND position < %s
"""
_POSITIONS_SQLITE = """
    SELECT json_group_array(position) FROM erasures
    WHERE dataset_id = ? AND position >= ? AND position < ?
"""


def erased_positions(connection: Connection, dataset_id: int, after: int, until: int) -> Positions:
    """Return the positions of the erased rows at ``[after, until)``, in ascending order."""
    parameters = (dataset_id, after, until)
    if connection.dialect.name == "sqlite":
        document = connection.exec_driver_sql(_POSITIONS_SQLITE, parameters).scalar_one()
        return np.sort(np.array(json.loads(document), np.int64))
    with driver(connection).cursor(binary=True) as cursor:
        row = cursor.execute(_POSITIONS_POSTGRESQL, parameters).fetchone()
    assert row is not None
    return np.sort(np.frombuffer(row[0], ">i8").astype(np.int64))


def erased_from(connection: Connection, dataset_id: int, number: int) -> list[Erased]:
    """Return the erased rows from erasure ``number`` on, in the order of their erasure."""
    return _erased(connection, dataset_id, ErasureRow.number >= number)


def erased_between(connection: Connection, dataset_id: int, after: int, until: int) -> list[Erased]:
    """Return the erased rows at positions ``[after, until)``, in the order of their erasure."""
    inside = and_(ErasureRow.position >= after, ErasureRow.position < until)
    return _erased(connection, dataset_id, inside)


def erased_at(connection: Connection, dataset_id: int, positions: Collection[int]) -> list[Erased]:
    """Return which of the rows at these positions are erased, in the order of their erasure."""
    wanted = is_any_of(connection, ErasureRow.position, positions)
    return _erased(connection, dataset_id, wanted)


def _erased(
    connection: Connection, dataset_id: int, condition: ColumnElement[bool]
) -> list[Erased]:
    # Scalar subqueries fix the direction. The planner could start a join from the samples, and
    # would then read the whole log to find a few erasures.
    key_and_chain = [
        select(column)
        .where(
            SampleRow.dataset_id == ErasureRow.dataset_id,
            SampleRow.position == ErasureRow.position,
        )
        .scalar_subquery()
        for column in (SampleRow.key, SampleRow.chain)
    ]
    rows = connection.execute(
        select(ErasureRow.position, *key_and_chain)
        .where(ErasureRow.dataset_id == dataset_id, condition)
        .order_by(ErasureRow.number)
    )
    # All at once: SQLAlchemy takes three times as long to fetch row by row.
    return [Erased(*row) for row in rows.all()]
