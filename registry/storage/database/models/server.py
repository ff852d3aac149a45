"""The tables of the HTTP server: webhooks of labeling tools, their events, and access tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    false,
    text,
)

from registry.storage.database.models.base import (
    DOCUMENT,
    KEY,
    OPTIONAL_DOCUMENT,
    Base,
    UtcDateTime,
    inserted_at,
    of_dataset,
    serial,
)


class ToolAnnotationRow(Base):
    """The last known state of an annotation in a labeling tool.

    Events arrive late, twice and out of order. The row of a deleted annotation is kept so that a
    late event cannot restore the annotation.
    """

    __tablename__ = "tool_annotations"

    dataset_id: ColumnElement[int] = of_dataset()
    tool: ColumnElement[str] = Column(Text, nullable=False)
    annotation: ColumnElement[str] = Column(KEY, nullable=False)
    updated_at: ColumnElement[datetime | None] = Column(UtcDateTime)
    deleted: ColumnElement[bool] = Column(Boolean, server_default=false(), nullable=False)
    key: ColumnElement[str | None] = Column(KEY)
    task: ColumnElement[str | None] = Column(KEY)
    """The group of the annotation's task; NULL if no event has named the task yet."""
    annotator: ColumnElement[str | None] = Column(Text)
    fields: ColumnElement[dict[str, Any] | None] = Column(OPTIONAL_DOCUMENT)
    """Values that one sample per task is decided from, as JSON (see `samples/json_codec.py`)."""

    __table_args__: tuple[Any, ...] = (
        PrimaryKeyConstraint("dataset_id", "tool", "annotation"),
        # Not beginning with dataset_id, as the primary key does, for the reason given at the
        # indexes of `samples`.
        Index(
            "ix_tool_annotations_task",
            "task",
            "dataset_id",
            postgresql_where=text("task IS NOT NULL"),
            sqlite_where=text("task IS NOT NULL"),
        ),
    )


class WebhookRow(Base):
    """How a tool's annotations become samples: ``mapping`` has the path of each feature's value."""

    __tablename__ = "webhooks"

    dataset_id: ColumnElement[int] = of_dataset()
    tool: ColumnElement[str] = Column(Text, nullable=False)
    mapping: ColumnElement[dict[str, Any]] = Column(DOCUMENT, nullable=False)
    created_at: ColumnElement[datetime] = inserted_at()
    options: ColumnElement[dict[str, Any]] = Column(
        DOCUMENT, server_default=text("'{}'"), nullable=False
    )

    __table_args__: tuple[Any, ...] = (PrimaryKeyConstraint("dataset_id", "tool"),)


class DeliveryRow(Base):
    """A webhook event that was received.

    Only a hash of the body is stored, since the body may contain secrets. The unique constraint on
    the hash detects an event that is delivered again.
    """

    __tablename__ = "deliveries"

    id: ColumnElement[int] = serial()
    dataset_id: ColumnElement[int] = of_dataset()
    tool: ColumnElement[str] = Column(Text, nullable=False)
    event: ColumnElement[str] = Column(Text, nullable=False)
    digest: ColumnElement[bytes] = Column(LargeBinary, nullable=False)
    received_at: ColumnElement[datetime] = inserted_at()

    __table_args__: tuple[Any, ...] = (UniqueConstraint("dataset_id", "tool", "digest"),)


class TokenRow(Base):
    """An access token, of which only a hash is stored.

    ``dataset`` is a name, not a foreign key: a token may be created before its dataset.
    """

    __tablename__ = "tokens"

    id: ColumnElement[int] = Column(Integer, primary_key=True)
    name: ColumnElement[str] = Column(Text, unique=True, nullable=False)
    digest: ColumnElement[bytes] = Column(LargeBinary, unique=True, nullable=False)
    dataset: ColumnElement[str | None] = Column(Text)
    rights: ColumnElement[str] = Column(Text, nullable=False)
    created_at: ColumnElement[datetime] = inserted_at()
    expires_at: ColumnElement[datetime | None] = Column(UtcDateTime)
    revoked_at: ColumnElement[datetime | None] = Column(UtcDateTime)
