"""The table of rows that tools insert by SQL."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from registry.storage.database.models.base import Base, DatasetId, Now, OptionalKey, Serial


class InboxRow(Base):
    """A row that a tool inserted by SQL, waiting to be moved to the log, or rejected."""

    __tablename__ = "inbox"

    id: Mapped[Serial]
    dataset_id: Mapped[DatasetId]
    key: Mapped[OptionalKey]
    fields: Mapped[dict[str, Any] | None]
    """The sample as JSON (see `samples/json_codec.py`)."""
    action: Mapped[str] = mapped_column(server_default="insert")
    """A trigger refuses an unknown one when the row is inserted."""
    source: Mapped[str | None]
    created_at: Mapped[Now]
    error: Mapped[str | None]
    """Why the row was rejected; NULL while it waits."""
    rejected_at: Mapped[datetime | None]
    group_key: Mapped[OptionalKey]
    """The sample's group; NULL if the row names none."""

    __table_args__ = (
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
