"""The tables, as SQLAlchemy classes. `migrations/` makes them; a test keeps the two alike.

Users may query them with a `sqlalchemy.orm.Session` on a registry's engine, read-only::

    from sqlalchemy import select
    from sqlalchemy.orm import Session
    from registry.storage.database.models import DatasetRow, RunRow

    with Session(reg.engine) as session:
        query = select(DatasetRow.name, RunRow.name, RunRow.consumed).join_from(DatasetRow, RunRow)
        for dataset, run, consumed in session.execute(query):
            print(dataset, run, consumed)

Writing goes through `registry.Dataset`: positions, chains and counts belong together, and triggers
refuse changes to `samples`. Times are aware and in UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    func,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time in UTC, also from SQLite, which keeps no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# Keys compare by their bytes, in any cluster's locale: faster, and the same order everywhere.
_KEY = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")

Key = Annotated[str, mapped_column(_KEY)]
OptionalKey = Annotated[str | None, mapped_column(_KEY)]
# SQLite numbers rows by itself only where the key's type is exactly INTEGER.
Serial = Annotated[
    int, mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
]
DatasetId = Annotated[
    int, mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), autoincrement=False)
]
DatasetKey = Annotated[
    int,
    mapped_column(
        ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    ),
]
Position = Annotated[int, mapped_column(BigInteger)]
Count = Annotated[int, mapped_column(BigInteger, server_default="0")]
Now = Annotated[datetime, mapped_column(server_default=func.now())]


class Base(DeclarativeBase):
    """The base of every table's class."""

    metadata = metadata
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy's own way
        str: Text,
        bytes: LargeBinary,
        datetime: UtcDateTime,
        dict[str, Any]: JSON().with_variant(postgresql.JSONB(), "postgresql"),
    }


class DatasetRow(Base):
    """A dataset: its name, features and splits."""

    __tablename__ = "datasets"

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(String(32))
    name: Mapped[str]
    features: Mapped[dict[str, Any]]
    splits: Mapped[dict[str, Any]]
    description: Mapped[str] = mapped_column(server_default=text("''"))
    created_at: Mapped[Now]
    dropped_at: Mapped[datetime | None]
    """When the dataset was dropped; its rows may not all be removed yet."""
    rejected_retention: Mapped[int] = mapped_column(BigInteger, server_default=str(30 * 24 * 3600))
    """For how many seconds rejected rows of the inbox are kept."""
    rejected_quota: Mapped[int] = mapped_column(BigInteger, server_default="100000")
    """How many rejected rows of the inbox are kept."""

    # The id of a dropped dataset never names another.
    __table_args__ = ({"sqlite_autoincrement": True},)


NOT_DROPPED = DatasetRow.dropped_at.is_(None)
# Partial: to update a column of a plain unique index, as dropping does, PostgreSQL waits for each
# transaction that has inserted a row which refers to the dataset.
for _unique in ("uid", "name"):
    Index(
        f"uq_datasets_{_unique}",
        getattr(DatasetRow, _unique),
        unique=True,
        postgresql_where=text("dropped_at IS NULL"),
        sqlite_where=text("dropped_at IS NULL"),
    )


class HeadRow(Base):
    """Where a dataset's log ends; locked by whoever appends to it.

    Apart from `DatasetRow`, so that the foreign keys' row locks never meet the head lock. Most of
    each page is left free so that updates, one a commit, stay on it and off the index (HOT).
    """

    __tablename__ = "heads"

    dataset_id: Mapped[DatasetKey]
    position: Mapped[Count]
    live: Mapped[Count]
    chain: Mapped[bytes]
    updated_at: Mapped[Now]
    erased: Mapped[Count]

    __table_args__ = ({"postgresql_with": {"fillfactor": 10}},)


class SampleRow(Base):
    """A row of a log.

    Fixed-width columns come first, then the record: a page of records is read without walking over
    keys. There is no foreign key to `DatasetRow`: rows are written under a lock on the dataset's
    head, which has one, and checking it again for each row would double the cost of an insert.
    """

    __tablename__ = "samples"

    position: Mapped[Position]
    dataset_id: Mapped[int]
    bucket: Mapped[int]
    record: Mapped[bytes | None]
    chain: Mapped[bytes]
    supersedes: Mapped[Position | None]
    source: Mapped[str | None]
    key: Mapped[Key]
    created_at: Mapped[Now]

    __table_args__ = (
        PrimaryKeyConstraint("dataset_id", "position"),
        # A revision is superseded once: a key's history can never fork.
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


# This and the index above do not begin with the dataset, since the primary key does. To PostgreSQL
# a dataset that is newer than its statistics holds no rows, so that any index which begins with it
# is as good as another: it would then walk through the whole log by the primary key for each key.
Index("ix_samples_key", SampleRow.key, SampleRow.dataset_id, SampleRow.position.desc())


class ErasureRow(Base):
    """A row of a log whose record was removed permanently; numbers count from 0.

    `HeadRow.erased` counts them. Such a row keeps its position, with an empty record: no stored
    record is empty.
    """

    __tablename__ = "erasures"

    dataset_id: Mapped[DatasetKey]
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    position: Mapped[Position]
    erased_at: Mapped[Now]

    __table_args__ = (UniqueConstraint("dataset_id", "position"),)


class InboxRow(Base):
    """A row that a tool inserted by SQL, waiting to be moved to the log, or rejected."""

    __tablename__ = "inbox"

    id: Mapped[Serial]
    dataset_id: Mapped[DatasetId]
    key: Mapped[OptionalKey]
    fields: Mapped[dict[str, Any] | None]
    action: Mapped[str] = mapped_column(server_default="insert")
    source: Mapped[str | None]
    created_at: Mapped[Now]
    error: Mapped[str | None]
    rejected_at: Mapped[datetime | None]

    __table_args__ = (
        # Whoever reads a head asks whether rows wait, and most often there are none.
        Index(
            "ix_inbox_waiting",
            "dataset_id",
            "id",
            postgresql_where=text("error IS NULL"),
            sqlite_where=text("error IS NULL"),
        ),
        # Rejected rows are listed by their ids, and removed by age.
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
    )


class RunRow(Base):
    """A training run and how many of its samples were trained on."""

    __tablename__ = "runs"

    id: Mapped[int] = mapped_column(primary_key=True)
    dataset_id: Mapped[DatasetId]
    name: Mapped[str]
    seed: Mapped[Position]
    split: Mapped[str | None]
    policy: Mapped[str]
    consumed: Mapped[Count]
    created_at: Mapped[Now]

    __table_args__ = (UniqueConstraint("dataset_id", "name"),)


class EpochRow(Base):
    """An epoch of a run, pinned to a prefix of the log."""

    __tablename__ = "epochs"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    number: Mapped[Position]
    since: Mapped[Position]
    watermark: Mapped[Position]
    chain: Mapped[bytes]
    size: Mapped[Position]
    start: Mapped[Position]
    pinned_at: Mapped[Now]

    __table_args__ = (PrimaryKeyConstraint("run_id", "number"),)


class ToolAnnotationRow(Base):
    """What is known of an annotation in a labeling tool.

    Events come late, twice and out of order, and a deleted annotation must not come back with them.
    """

    __tablename__ = "tool_annotations"

    dataset_id: Mapped[DatasetId]
    tool: Mapped[str]
    annotation: Mapped[Key]
    updated_at: Mapped[datetime | None]
    deleted: Mapped[bool] = mapped_column(server_default=false())
    key: Mapped[OptionalKey]

    __table_args__ = (PrimaryKeyConstraint("dataset_id", "tool", "annotation"),)


class WebhookRow(Base):
    """How a tool's annotations become samples: for each feature, the path of its value."""

    __tablename__ = "webhooks"

    dataset_id: Mapped[DatasetId]
    tool: Mapped[str]
    mapping: Mapped[dict[str, Any]]
    created_at: Mapped[Now]

    __table_args__ = (PrimaryKeyConstraint("dataset_id", "tool"),)


class DeliveryRow(Base):
    """A webhook event that was received; of its body, which may hold secrets, only a hash."""

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

    It names its dataset by text, and may be created before it.
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
