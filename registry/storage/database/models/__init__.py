"""The tables, as classes whose attributes are SQLAlchemy columns.

`migrations/` creates the tables; a test compares the two.

Users may query them with a `sqlalchemy.orm.Session` on a registry's engine, read-only::

    from sqlalchemy import select
    from sqlalchemy.orm import Session
    from registry.storage.database.models import DatasetRow, RunRow

    with Session(reg.engine) as session:
        query = select(DatasetRow.name, RunRow.name, RunRow.consumed).join_from(DatasetRow, RunRow)
        for dataset, run, consumed in session.execute(query):
            print(dataset, run, consumed)

Write through `registry.Dataset` only: positions, chains and counts must agree, and triggers reject
changes to `samples`. Times are timezone-aware, in UTC.
"""

from registry.storage.database.models.base import Base, UtcDateTime, metadata
from registry.storage.database.models.datasets import (
    NOT_DROPPED,
    DatasetRow,
    HeadRow,
    SchemaRow,
    TagRow,
)
from registry.storage.database.models.inbox import InboxRow
from registry.storage.database.models.runs import EpochRow, RemovedRunRow, RunRow
from registry.storage.database.models.samples import ErasureRow, SampleRow
from registry.storage.database.models.server import (
    DeliveryRow,
    TokenRow,
    ToolAnnotationRow,
    WebhookRow,
)

__all__ = [
    "NOT_DROPPED",
    "Base",
    "DatasetRow",
    "DeliveryRow",
    "EpochRow",
    "ErasureRow",
    "HeadRow",
    "InboxRow",
    "RemovedRunRow",
    "RunRow",
    "SampleRow",
    "SchemaRow",
    "TagRow",
    "TokenRow",
    "ToolAnnotationRow",
    "UtcDateTime",
    "WebhookRow",
    "metadata",
]
