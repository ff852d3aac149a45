"""All datasets at a glance, by one query that reads no rows of their logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, ScalarSelect, and_, func, select

from registry.catalog.registry import Registry
from registry.storage.database.models import (
    NOT_DROPPED,
    DatasetRow,
    HeadRow,
    InboxRow,
    SampleRow,
)
from registry.storage.database.transactions import read

MOST_COUNTED = 1000
"""Rows of an inbox that are counted, at most: a dataset may have 100,000 rejected rows."""


@dataclass(frozen=True)
class DatasetOverview:
    """A dataset, its inbox and its last row. Times are in UTC.

    ``waiting`` and ``rejected`` are at most `MOST_COUNTED`. ``last_source`` is that of the last row
    of the log, None if it names none; ``last_at`` is None for an empty log.
    """

    id: int
    name: str
    description: str
    created_at: datetime
    position: int
    live: int
    waiting: int
    rejected: int
    last_source: str | None
    last_at: datetime | None


def overview(registry: Registry) -> list[DatasetOverview]:
    """Return every dataset, in the alphabetical order of their names.

    Rows that wait in an inbox stay there: `Dataset.head` moves them.
    """
    return read(registry.engine, _overview)


def _overview(connection: Connection) -> list[DatasetOverview]:
    query = (
        select(
            DatasetRow.id,
            DatasetRow.name,
            DatasetRow.description,
            DatasetRow.created_at,
            HeadRow.position,
            HeadRow.live,
            _count(InboxRow.error.is_(None)).label("waiting"),
            _count(InboxRow.error.is_not(None)).label("rejected"),
            SampleRow.source.label("last_source"),
            SampleRow.created_at.label("last_at"),
        )
        .join(HeadRow, HeadRow.dataset_id == DatasetRow.id)
        .outerjoin(
            SampleRow,
            and_(SampleRow.dataset_id == DatasetRow.id, SampleRow.position == HeadRow.position - 1),
        )
        .where(NOT_DROPPED)
        .order_by(DatasetRow.name)
    )
    rows: Sequence[tuple[object, ...]] = connection.execute(query).all()
    return [DatasetOverview(*row) for row in rows]  # type: ignore[arg-type]


def _count(kind: ColumnElement[bool]) -> ScalarSelect[int]:
    """Return the number of a dataset's inbox rows of a kind, up to `MOST_COUNTED`."""
    some = (
        select(InboxRow.id)
        .where(InboxRow.dataset_id == DatasetRow.id, kind)
        .limit(MOST_COUNTED)
        .correlate(DatasetRow)
        .subquery()
    )
    return select(func.count()).select_from(some).scalar_subquery()
