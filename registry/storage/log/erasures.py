"""The rows of a log that were erased, by number or by position."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, select

from registry.storage.database.models import ErasureRow, SampleRow


class Erased(NamedTuple):
    """A row without its record: its position, its key and the 16-byte chain value after it."""

    position: int
    key: str
    chain: bytes


def erased_from(connection: Connection, dataset_id: int, number: int) -> list[Erased]:
    """Return the erased rows from erasure ``number`` on, in the order of their erasure."""
    return _erased(connection, dataset_id, ErasureRow.number >= number)


def erased_between(connection: Connection, dataset_id: int, after: int, until: int) -> list[Erased]:
    """Return the erased rows at positions ``[after, until)``, in the order of their erasure."""
    inside = and_(ErasureRow.position >= after, ErasureRow.position < until)
    return _erased(connection, dataset_id, inside)


def erased_at(connection: Connection, dataset_id: int, positions: Collection[int]) -> list[Erased]:
    """Return which of the rows at these positions are erased, in the order of their erasure."""
    # By their range, not one by one: databases limit the number of a statement's parameters.
    rows = erased_between(connection, dataset_id, min(positions), max(positions) + 1)
    wanted = {*positions}
    return [row for row in rows if row.position in wanted]


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
    return [Erased(*row) for row in rows]
