"""The tables of the rows of logs, and of those that were erased."""

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
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    text,
)

from registry.storage.database.models.base import (
    KEY,
    Base,
    bigint,
    inserted_at,
    of_dataset,
)


class SampleRow(Base):
    """A row of a log: a revision of a sample.

    Fixed-width columns come first, then the record, so that a record is read without skipping over
    the key. There is no foreign key to `DatasetRow`: rows are written under a lock on the dataset's
    head, which has one, and a check for each row would double the cost of an insert.
    """

    __tablename__ = "samples"

    position: ColumnElement[int] = bigint()
    dataset_id: ColumnElement[int] = Column(Integer, nullable=False)
    bucket: ColumnElement[int] = Column(Integer, nullable=False)
    record: ColumnElement[bytes | None] = Column(LargeBinary)
    """The sample (see `samples/record_layout.py`), NULL for a retraction, empty if erased."""
    chain: ColumnElement[bytes] = Column(LargeBinary, nullable=False)
    supersedes: ColumnElement[int | None] = Column(BigInteger)
    """Position of the previous revision of the same key, NULL for the first."""
    source: ColumnElement[str | None] = Column(Text)
    key: ColumnElement[str] = Column(KEY, nullable=False)
    created_at: ColumnElement[datetime] = inserted_at()
    group_key: ColumnElement[str | None] = Column(KEY)
    """What the key belongs to, such as a task or a patient; NULL if nothing.

    It determines the bucket in place of the key, and all revisions of a key have the same one.
    """
    live: ColumnElement[int | None] = Column(BigInteger)
    """Number of live samples after this row, in the last row of a commit, and in some before."""

    __table_args__: tuple[Any, ...] = (
        PrimaryKeyConstraint("dataset_id", "position"),
        # A revision is superseded at most once, so that a key's history cannot fork.
        Index(
            "uq_samples_supersedes",
            "supersedes",
            "dataset_id",
            unique=True,
            postgresql_where=text("supersedes IS NOT NULL"),
            sqlite_where=text("supersedes IS NOT NULL"),
        ),
        {"sqlite_with_rowid": False},
    )


# This index and the one above must not begin with dataset_id, as the primary key does. According to
# PostgreSQL's statistics, a dataset newer than them has no rows, so that all indexes which begin
# with dataset_id cost the same: it could choose the primary key, and scan the whole log per key.
Index("ix_samples_key", SampleRow.key, SampleRow.dataset_id, SampleRow.position.desc())


class ErasureRow(Base):
    """An erasure: a row of a log whose record was removed permanently.

    ``number`` counts from 0 in each dataset; `HeadRow.erased` is the number of erasures. The row
    keeps its position and has an empty record, which no other row has.
    """

    __tablename__ = "erasures"

    dataset_id: ColumnElement[int] = of_dataset(primary_key=True)
    number: ColumnElement[int] = Column(BigInteger, primary_key=True, autoincrement=False)
    position: ColumnElement[int] = bigint()
    erased_at: ColumnElement[datetime] = inserted_at()

    __table_args__: tuple[Any, ...] = (UniqueConstraint("dataset_id", "position"),)
