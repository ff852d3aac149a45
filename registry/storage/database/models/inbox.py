"""The table of rows that tools insert by SQL."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Index,
    Text,
    text,
)

from registry.storage.database.models.base import (
    DOCUMENT,
    KEY,
    Base,
    UtcDateTime,
    inserted_at,
    of_dataset,
    serial,
)


class InboxRow(Base):
    """A row that a tool inserted by SQL, waiting to be moved to the log, or rejected."""

    __tablename__ = "inbox"

    id: ColumnElement[int] = serial()
    dataset_id: ColumnElement[int] = of_dataset()
    key: ColumnElement[str | None] = Column(KEY)
    fields: ColumnElement[dict[str, Any] | None] = Column(DOCUMENT)
    """The sample as JSON (see `samples/json_codec.py`)."""
    action: ColumnElement[str] = Column(Text, server_default="insert", nullable=False)
    """A trigger refuses an unknown one when the row is inserted."""
    source: ColumnElement[str | None] = Column(Text)
    created_at: ColumnElement[datetime] = inserted_at()
    error: ColumnElement[str | None] = Column(Text)
    """Why the row was rejected; NULL while it waits."""
    rejected_at: ColumnElement[datetime | None] = Column(UtcDateTime)
    group_key: ColumnElement[str | None] = Column(KEY)
    """The sample's group; NULL if the row names none."""

    __table_args__: tuple[Any, ...] = (
        # Every read of a head checks for waiting rows, and usually there are none. The partial
        # index is then empty, however many rejected rows are kept.
        Index(
            "ix_inbox_waiting",
            "dataset_id",
            "id",
            postgresql_where=text("error IS NULL"),
            sqlite_where=text("error IS NULL"),
        ),
        # Rejected rows are listed by id, and removed by age.
        Index(
            "ix_inbox_rejected",
            "dataset_id",
            "id",
            postgresql_where=text("error IS NOT NULL"),
            sqlite_where=text("error IS NOT NULL"),
        ),
        Index(
            "ix_inbox_rejected_at",
            "dataset_id",
            "rejected_at",
            postgresql_where=text("error IS NOT NULL"),
            sqlite_where=text("error IS NOT NULL"),
        ),
        # A change searches for the rejected rows of its key. Keys may be longer than an index of
        # PostgreSQL can hold, but these are the keys of no change.
        Index(
            "ix_inbox_rejected_key",
            "dataset_id",
            "key",
            postgresql_where=text("error IS NOT NULL AND length(key) <= 512"),
            sqlite_where=text("error IS NOT NULL AND length(key) <= 512"),
        ),
    )
