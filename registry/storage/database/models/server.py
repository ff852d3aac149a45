"""The tables of the HTTP server: webhooks of labeling tools, their events, and access tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Index, PrimaryKeyConstraint, UniqueConstraint, false, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Mapped, mapped_column

from registry.storage.database.models.base import Base, DatasetId, Key, Now, OptionalKey, Serial


class ToolAnnotationRow(Base):
    """The last known state of an annotation in a labeling tool.

    Events arrive late, twice and out of order. The row of a deleted annotation is kept so that a
    late event cannot restore the annotation.
    """

    __tablename__ = "tool_annotations"

    dataset_id: Mapped[DatasetId]
    tool: Mapped[str]
    annotation: Mapped[Key]
    updated_at: Mapped[datetime | None]
    deleted: Mapped[bool] = mapped_column(server_default=false())
    key: Mapped[OptionalKey]
    task: Mapped[OptionalKey]
    """The group of the annotation's task; NULL if no event has named the task yet."""
    annotator: Mapped[str | None]
    fields: Mapped[dict[str, Any] | None] = mapped_column(
        JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
    )
    """Values that one sample per task is decided from, as JSON (see `samples/json_codec.py`)."""

    __table_args__ = (
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

    dataset_id: Mapped[DatasetId]
    tool: Mapped[str]
    mapping: Mapped[dict[str, Any]]
    created_at: Mapped[Now]
    options: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))

    __table_args__ = (PrimaryKeyConstraint("dataset_id", "tool"),)


class DeliveryRow(Base):
    """A webhook event that was received.

    Only a hash of the body is stored, since the body may contain secrets. The unique constraint on
    the hash detects an event that is delivered again.
    """

    __tablename__ = "deliveries"

    id: Mapped[Serial]
    dataset_id: Mapped[DatasetId]
    tool: Mapped[str]
    event: Mapped[str]
    digest: Mapped[bytes]
    received_at: Mapped[Now]

    __table_args__ = (UniqueConstraint("dataset_id", "tool", "digest"),)


class TokenRow(Base):
    """An access token, of which only a hash is stored.

    ``dataset`` is a name, not a foreign key: a token may be created before its dataset.
    """

    __tablename__ = "tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    digest: Mapped[bytes] = mapped_column(unique=True)
    dataset: Mapped[str | None]
    rights: Mapped[str]
    created_at: Mapped[Now]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
