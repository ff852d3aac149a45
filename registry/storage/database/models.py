"""The tables, as SQLAlchemy classes. `migrations/` creates them; a test compares the two.

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

# Must not change: the constraints of existing databases have these names.
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
    """A timezone-aware time in UTC, also from SQLite, which stores no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# Keys compare by their bytes, whatever the database's locale. Other collations are slower, and
# would sort keys differently on each database.
_KEY = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")

Key = Annotated[str, mapped_column(_KEY)]
OptionalKey = Annotated[str | None, mapped_column(_KEY)]
# SQLite generates row numbers only if the primary key's type is exactly INTEGER.
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
    """Declarative base of the tables."""

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
    """Random; a copy of the dataset has the same uid, a new dataset of its name another."""
    name: Mapped[str]
    features: Mapped[dict[str, Any]]
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

    __table_args__ = ({"postgresql_with": {"fillfactor": 10}},)


class SampleRow(Base):
    """A row of a log: a revision of a sample.

    Fixed-width columns come first, then the record, so that a record is read without skipping over
    the key. There is no foreign key to `DatasetRow`: rows are written under a lock on the dataset's
    head, which has one, and a check for each row would double the cost of an insert.
    """

    __tablename__ = "samples"

    position: Mapped[Position]
    dataset_id: Mapped[int]
    bucket: Mapped[int]
    record: Mapped[bytes | None]
    """The packed sample (see `samples/codec.py`), NULL for a retraction, empty if erased."""
    chain: Mapped[bytes]
    supersedes: Mapped[Position | None]
    """Position of the previous revision of the same key, NULL for the first."""
    source: Mapped[str | None]
    key: Mapped[Key]
    created_at: Mapped[Now]

    __table_args__ = (
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
    """The sample as JSON (see `samples/json_codec.py`)."""
    action: Mapped[str] = mapped_column(server_default="insert")
    source: Mapped[str | None]
    created_at: Mapped[Now]
    error: Mapped[str | None]
    """Why the row was rejected; NULL while it waits."""
    rejected_at: Mapped[datetime | None]

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
    )


class RunRow(Base):
    """A training run; ``consumed`` is the number of samples trained on so far."""

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
    """An epoch of a run, pinned to the rows of the log before ``watermark``.

    ``chain`` is the hash chain at the watermark: a different one there means that the log diverged.
    """

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

    __table_args__ = (PrimaryKeyConstraint("dataset_id", "tool", "annotation"),)


class WebhookRow(Base):
    """How a tool's annotations become samples: ``mapping`` has the path of each feature's value."""

    __tablename__ = "webhooks"

    dataset_id: Mapped[DatasetId]
    tool: Mapped[str]
    mapping: Mapped[dict[str, Any]]
    created_at: Mapped[Now]

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
