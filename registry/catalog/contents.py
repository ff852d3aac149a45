"""How much a dataset holds: what dropping it would remove."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine, func, select

from registry.errors import DatasetDroppedError
from registry.storage.database.models import (
    EpochRow,
    HeadRow,
    InboxRow,
    RunRow,
    TagRow,
)
from registry.storage.database.transactions import read


@dataclass(frozen=True)
class Contents:
    """The numbers of what belongs to a dataset; ``inbox`` counts rows that are not in its log."""

    rows: int
    samples: int
    runs: int
    epochs: int
    tags: int
    inbox: int


def contents_of(engine: Engine, dataset_id: int) -> Contents:
    """Count what belongs to a dataset. Raises `DatasetDroppedError`."""
    epochs = select(func.count()).select_from(EpochRow).join(RunRow)
    counts = [
        select(func.count()).where(table.dataset_id == dataset_id)
        for table in (RunRow, TagRow, InboxRow)
    ]
    runs, tags, inbox = [count.scalar_subquery() for count in counts]
    query = select(
        HeadRow.position,
        HeadRow.live,
        runs,
        epochs.where(RunRow.dataset_id == dataset_id).scalar_subquery(),
        tags,
        inbox,
    ).where(HeadRow.dataset_id == dataset_id)
    row = read(engine, lambda connection: connection.execute(query).one_or_none())
    if row is None:
        raise DatasetDroppedError
    return Contents(*row)
