"""Which rows of a log were erased."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, select

from registry.storage.database.models import ErasureRow, SampleRow


class Erased(NamedTuple):
    """A row that has lost its record for good: its place, its key and the chain after it."""

    position: int
    key: str
    chain: bytes


def erased_from(connection: Connection, dataset_id: int, number: int) -> list[Erased]:
    """Return the rows that were erased, in the order of that, from the one of this number on."""
    return _erased(connection, dataset_id, ErasureRow.number >= number)


def erased_between(connection: Connection, dataset_id: int, after: int, until: int) -> list[Erased]:
    """Return the rows at positions ``[after, until)`` that were erased."""
    place = and_(ErasureRow.position >= after, ErasureRow.position < until)
    return _erased(connection, dataset_id, place)


def _erased(connection: Connection, dataset_id: int, which: ColumnElement[bool]) -> list[Erased]:
    # A subquery for each: a join could be made the other way round, through the whole log.
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
