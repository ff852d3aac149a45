"""The tables of datasets and of the ends of their logs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from registry.storage.database.models.base import (
    Base,
    Count,
    DatasetKey,
    Key,
    Now,
    Position,
)


class DatasetRow(Base):
    """A dataset: its name and splits; its features are in `SchemaRow`."""

    __tablename__ = "datasets"

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(String(32))
    """Random; a copy of the dataset has the same uid, a new dataset of its name another."""
    name: Mapped[str]
    splits: Mapped[dict[str, Any]]
    description: Mapped[str] = mapped_column(server_default=text("''"))
    created_at: Mapped[Now]
    dropped_at: Mapped[datetime | None]
    """When the dataset was dropped; some of its rows may not be deleted yet."""
    rejected_retention: Mapped[int] = mapped_column(BigInteger, server_default=str(30 * 24 * 3600))
    """Seconds for which rejected rows of the inbox are kept."""
    rejected_quota: Mapped[int] = mapped_column(BigInteger, server_default="100000")
    """Maximum number of rejected rows of the inbox that are kept."""

    # Without AUTOINCREMENT, SQLite would give a dropped dataset's id to a new dataset, and with it
    # the rows that are not deleted yet.
    __table_args__ = ({"sqlite_autoincrement": True},)


NOT_DROPPED = DatasetRow.dropped_at.is_(None)
# These indexes must be partial. Dropping updates the dataset's row. If a plain unique index had one
# of the updated columns, PostgreSQL would wait for every transaction that has inserted a row which
# refers to the dataset.
for _unique in ("uid", "name"):
    Index(
        f"uq_datasets_{_unique}",
        getattr(DatasetRow, _unique),
        unique=True,
        postgresql_where=text("dropped_at IS NULL"),
        sqlite_where=text("dropped_at IS NULL"),
    )


class HeadRow(Base):
    """The end of a dataset's log; each append locks this row.

    It is separate from `DatasetRow` so that the row locks of foreign keys never conflict with the
    lock on the head. The fill factor leaves most of each page free, so that updates, one per
    commit, stay on the page and need no new index entry (HOT).
    """

    __tablename__ = "heads"

    dataset_id: Mapped[DatasetKey]
    position: Mapped[Count]
    """Number of rows in the log, and so the position of the next one."""
    live: Mapped[Count]
    """Number of live samples."""
    chain: Mapped[bytes]
    """Hash chain over all rows of the log."""
    updated_at: Mapped[Now]
    erased: Mapped[Count]
    """Number of this dataset's rows in `ErasureRow`."""
    schema: Mapped[int] = mapped_column(server_default="0")
    """Number of the schema in force, one of the dataset's in `SchemaRow`."""

    __table_args__ = ({"postgresql_with": {"fillfactor": 10}},)


class SchemaRow(Base):
    """The features that a dataset has from position ``since`` on, until the next schema."""

    __tablename__ = "schemas"

    dataset_id: Mapped[DatasetKey]
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    since: Mapped[Position]
    features: Mapped[dict[str, Any]]
    """As JSON; a feature that was added has its default, too (see `samples/schema.py`)."""
    created_at: Mapped[Now]


class TagRow(Base):
    """A name for a version of a dataset."""

    __tablename__ = "tags"

    dataset_id: Mapped[DatasetKey]
    name: Mapped[Key] = mapped_column(primary_key=True)
    position: Mapped[Position]
    chain: Mapped[bytes]
    schema: Mapped[int]
    live: Mapped[Position]
    """Number of live samples of the version."""
    created_at: Mapped[Now]
    note: Mapped[str] = mapped_column(server_default=text("''"))
