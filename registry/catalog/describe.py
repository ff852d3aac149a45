"""A dataset's description."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, update

from registry.errors import DatasetDroppedError, FeatureError
from registry.samples.text import text_problem
from registry.storage.database.models import NOT_DROPPED, DatasetRow
from registry.storage.database.transactions import write


def check_description(text: str) -> None:
    if problem := text_problem(text):
        raise FeatureError(f"a description {problem}")


def describe(engine: Engine, dataset_id: int, text: str) -> None:
    """Set a dataset's description. Raises `FeatureError` and `DatasetDroppedError`."""
    check_description(text)
    change = update(DatasetRow).where(DatasetRow.id == dataset_id, NOT_DROPPED)

    def work(connection: Connection) -> None:
        if not connection.execute(change.values(description=text)).rowcount:
            raise DatasetDroppedError

    write(engine, work)
