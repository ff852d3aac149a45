"""How far the training runs of all datasets are, by one query."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, and_, func, select

from registry.catalog.registry import Registry
from registry.storage.database.models import NOT_DROPPED, DatasetRow, EpochRow, HeadRow, RunRow
from registry.storage.database.transactions import read


@dataclass(frozen=True)
class RunProgress:
    """A run, with what it has consumed of the samples of its ``epochs`` pinned epochs.

    ``lag`` is the number of rows that the log has got since the last epoch was pinned; 0 for a run
    on a version.
    """

    dataset: str
    name: str
    consumed: int
    pinned: int
    epochs: int
    lag: int


def run_progress(registry: Registry, most: int) -> tuple[list[RunProgress], int]:
    """Return the newest runs of all datasets, at most ``most``, and how many others there are."""
    return read(registry.engine, _run_progress, most)


def _run_progress(connection: Connection, most: int) -> tuple[list[RunProgress], int]:
    # A subquery for each run finds its last epoch by the primary key.
    last = (
        select(func.max(EpochRow.number))
        .where(EpochRow.run_id == RunRow.id)
        .correlate(RunRow)
        .scalar_subquery()
    )
    of_datasets = (
        select(RunRow.id).join(DatasetRow, DatasetRow.id == RunRow.dataset_id).where(NOT_DROPPED)
    )
    newest = of_datasets.order_by(RunRow.id.desc()).limit(most)
    query = (
        select(
            DatasetRow.name.label("dataset"),
            RunRow.name,
            RunRow.consumed,
            func.coalesce(EpochRow.start + EpochRow.size, 0).label("pinned"),
            func.coalesce(EpochRow.number + 1, 0).label("epochs"),
            (HeadRow.position - func.coalesce(EpochRow.watermark, 0)).label("lag"),
            RunRow.watermark,
        )
        .join(DatasetRow, DatasetRow.id == RunRow.dataset_id)
        .join(HeadRow, HeadRow.dataset_id == RunRow.dataset_id)
        .outerjoin(EpochRow, and_(EpochRow.run_id == RunRow.id, EpochRow.number == last))
        .where(RunRow.id.in_(newest))
        .order_by(DatasetRow.name, RunRow.name)
    )
    runs = [
        RunProgress(
            row.dataset,
            row.name,
            row.consumed,
            row.pinned,
            row.epochs,
            0 if row.watermark is not None else row.lag,
        )
        for row in connection.execute(query)
    ]
    total = connection.execute(
        select(func.count()).select_from(of_datasets.subquery())
    ).scalar_one()
    return runs, max(0, total - len(runs))
