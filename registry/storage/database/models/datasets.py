"""The tables of datasets and of the ends of their logs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    text,
)

from registry.storage.database.models.base import (
    DOCUMENT,
    KEY,
    Base,
    UtcDateTime,
    bigint,
    counter,
    inserted_at,
    of_dataset,
)


class DatasetRow(Base):
    """A dataset: its name and splits; its features are in `SchemaRow`."""

    __tablename__ = "datasets"

    id: ColumnElement[int] = Column(Integer, primary_key=True)
    uid: ColumnElement[str] = Column(String(32), nullable=False)
    """Random; a copy of the dataset has the same uid, a new dataset of its name another."""
    name: ColumnElement[str] = Column(Text, nullable=False)
    splits: ColumnElement[dict[str, Any]] = Column(DOCUMENT, nullable=False)
    description: ColumnElement[str] = Column(Text, server_default=text("''"), nullable=False)
    created_at: ColumnElement[datetime] = inserted_at()
    dropped_at: ColumnElement[datetime | None] = Column(UtcDateTime)
    """When the dataset was dropped; some of its rows may not be deleted yet."""
    rejected_retention: ColumnElement[int] = Column(
        BigInteger, server_default=str(30 * 24 * 3600), nullable=False
    )
    """Seconds for which rejected rows of the inbox are kept."""
    rejected_quota: ColumnElement[int] = Column(BigInteger, server_default="100000", nullable=False)
    """Maximum number of rejected rows of the inbox that are kept."""

    # Without AUTOINCREMENT, SQLite would give a dropped dataset's id to a new dataset, and with it
    # the rows that are not deleted yet.
    __table_args__: tuple[Any, ...] = ({"sqlite_autoincrement": True},)


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

    dataset_id: ColumnElement[int] = of_dataset(primary_key=True)
    position: ColumnElement[int] = counter()
    """Number of rows in the log, and so the position of the next one."""
    live: ColumnElement[int] = counter()
    """Number of live samples."""
    chain: ColumnElement[bytes] = Column(LargeBinary, nullable=False)
    """Hash chain over all rows of the log."""
    updated_at: ColumnElement[datetime] = inserted_at()
    erased: ColumnElement[int] = counter()
    """Number of this dataset's rows in `ErasureRow`."""
    schema: ColumnElement[int] = Column(Integer, server_default="0", nullable=False)
    """Number of the schema in force, one of the dataset's in `SchemaRow`."""

    __table_args__: tuple[Any, ...] = ({"postgresql_with": {"fillfactor": 10}},)


class SchemaRow(Base):
    """The features that a dataset has from position ``since`` on, until the next schema."""

    __tablename__ = "schemas"

    dataset_id: ColumnElement[int] = of_dataset(primary_key=True)
    number: ColumnElement[int] = Column(Integer, primary_key=True, autoincrement=False)
    since: ColumnElement[int] = bigint()
    features: ColumnElement[dict[str, Any]] = Column(DOCUMENT, nullable=False)
    """As JSON; a feature that was added has its default, too (see `samples/schema.py`)."""
    created_at: ColumnElement[datetime] = inserted_at()


class TagRow(Base):
    """A name for a version of a dataset."""

    __tablename__ = "tags"

    dataset_id: ColumnElement[int] = of_dataset(primary_key=True)
    name: ColumnElement[str] = Column(KEY, primary_key=True)
    position: ColumnElement[int] = bigint()
    chain: ColumnElement[bytes] = Column(LargeBinary, nullable=False)
    schema: ColumnElement[int] = Column(Integer, nullable=False)
    live: ColumnElement[int] = bigint()
    """Number of live samples of the version."""
    created_at: ColumnElement[datetime] = inserted_at()
    note: ColumnElement[str] = Column(Text, server_default=text("''"), nullable=False)
