"""Checking runs: that the conditions of each are ones that this version of the package reads."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Engine, select

from registry.catalog.doctor.finding import Finding, ask
from registry.errors import FeatureError
from registry.storage.database.models import NOT_DROPPED, DatasetRow, RunRow
from registry.training.conditions import Conditions


def check_conditions(engine: Engine) -> Iterator[Finding]:
    """Find runs whose conditions cannot be read, so that no run of their dataset can be listed."""
    query = (
        select(RunRow.id, DatasetRow.name, RunRow.name.label("run"), RunRow.conditions)
        .join(DatasetRow, DatasetRow.id == RunRow.dataset_id)
        .where(NOT_DROPPED, RunRow.conditions.is_not(None))
        .order_by(DatasetRow.name, RunRow.name)
    )
    for row in ask(engine, query):
        try:
            Conditions.from_json(row.conditions)
        except FeatureError as error:
            yield Finding(
                "error",
                f"run {row.run} of {row.name}",
                f"its conditions cannot be read: {error}; install the version that created it, or "
                "remove it",
                f"DELETE FROM runs WHERE id = {row.id}",  # noqa: S608  # it is shown
            )
