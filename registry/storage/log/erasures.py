"""The rows of a log that were erased, by number or by position."""

from __future__ import annotations

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
    place = and_(ErasureRow.position >= after, ErasureRow.position < until)
    return _erased(connection, dataset_id, place)


def _erased(connection: Connection, dataset_id: int, which: ColumnElement[bool]) -> list[Erased]:
    # Scalar subqueries fix the direction. The planner could start a join from the samples, and
    # would then read the whole log to find a few erasures.
    found = [
        select(column)
        .where(
            SampleRow.dataset_id == ErasureRow.dataset_id,
            SampleRow.position == ErasureRow.position,
        )
        .scalar_subquery()
        for column in (SampleRow.key, SampleRow.chain)
    ]
    rows = connection.execute(
        select(ErasureRow.position, *found)
        .where(ErasureRow.dataset_id == dataset_id, which)
        .order_by(ErasureRow.number)
    )
    return [Erased(*row) for row in rows]
