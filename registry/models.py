"""The tables. `migrations/` makes them; a test keeps the two alike."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects import postgresql

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_json = JSON().with_variant(postgresql.JSONB(), "postgresql")
# SQLite numbers rows by itself only where the key's type is exactly INTEGER.
_serial = BigInteger().with_variant(Integer(), "sqlite")
# Keys compare by their bytes, in any cluster's locale: faster, and the same order everywhere.
_key = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def _now() -> Column[object]:
    return Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now())


def _dataset(*, primary_key: bool = False) -> Column[int]:
    return Column(
        "dataset_id",
        ForeignKey("datasets.id", ondelete="CASCADE"),
        nullable=False,
        primary_key=primary_key,
        autoincrement=False,
    )


datasets = Table(
    "datasets",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("uid", String(32), nullable=False, unique=True),
    Column("name", Text, nullable=False, unique=True),
    Column("features", _json, nullable=False),
    Column("splits", _json, nullable=False),
    Column("description", Text, nullable=False, server_default=text("''")),
    _now(),
    sqlite_autoincrement=True,  # the id of a dropped dataset never names another
)

# Apart from `datasets`, so that the foreign keys' row locks never meet the head lock. Most of
# each page is left free so that updates, one a commit, stay on it and off the index (HOT).
heads = Table(
    "heads",
    metadata,
    _dataset(primary_key=True),
    Column("position", BigInteger, nullable=False, server_default="0"),
    Column("live", BigInteger, nullable=False, server_default="0"),
    Column("chain", LargeBinary, nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    postgresql_with={"fillfactor": 10},
)

# Fixed-width columns come first, then the record: a page of records is read without walking over
# keys. There is no foreign key to `datasets`: rows are written under a lock on the dataset's head,
# which has one, and checking it again for each row would double the cost of an insert.
samples = Table(
    "samples",
    metadata,
    Column("position", BigInteger, nullable=False),
    Column("dataset_id", Integer, nullable=False),
    Column("bucket", Integer, nullable=False),
    Column("record", LargeBinary),
    Column("chain", LargeBinary, nullable=False),
    Column("supersedes", BigInteger),
    Column("source", Text),
    Column("key", _key, nullable=False),
    _now(),
    PrimaryKeyConstraint("dataset_id", "position"),
    sqlite_with_rowid=False,
)
# These two do not begin with the dataset, since the primary key does. To PostgreSQL a dataset that
# is newer than its statistics holds no rows, so that any index which begins with it is as good as
# another: it then walks through the whole log along the primary key for every key that is sought.
Index("ix_samples_key", samples.c.key, samples.c.dataset_id, samples.c.position.desc())
# A revision is superseded once: a key's history can never fork.
Index(
    "uq_samples_supersedes",
    samples.c.supersedes,
    samples.c.dataset_id,
    unique=True,
    postgresql_where=text("supersedes IS NOT NULL"),
    sqlite_where=text("supersedes IS NOT NULL"),
)

inbox = Table(
    "inbox",
    metadata,
    Column("id", _serial, primary_key=True),
    _dataset(),
    Column("key", _key),
    Column("fields", _json),
    Column("action", Text, nullable=False, server_default="insert"),
    Column("source", Text),
    _now(),
    Column("error", Text),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True),
    _dataset(),
    Column("name", Text, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("split", Text),
    Column("policy", Text, nullable=False),
    Column("consumed", BigInteger, nullable=False, server_default="0"),
    _now(),
    UniqueConstraint("dataset_id", "name"),
)

epochs = Table(
    "epochs",
    metadata,
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("watermark", BigInteger, nullable=False),
    Column("chain", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("pinned_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("run_id", "number"),
)
