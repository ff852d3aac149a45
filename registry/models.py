"""The tables. `migrations/` makes them; a test keeps the two alike."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
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
    false,
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
    Column("uid", String(32), nullable=False),
    Column("name", Text, nullable=False),
    Column("features", _json, nullable=False),
    Column("splits", _json, nullable=False),
    Column("description", Text, nullable=False, server_default=text("''")),
    _now(),
    Column("dropped_at", DateTime(timezone=True)),  # its rows may not all be removed yet
    # Rejected rows of the inbox are kept for so many seconds, and so many of them.
    Column("rejected_retention", BigInteger, nullable=False, server_default=str(30 * 24 * 3600)),
    Column("rejected_quota", BigInteger, nullable=False, server_default="100000"),
    sqlite_autoincrement=True,  # the id of a dropped dataset never names another
)
NOT_DROPPED = datasets.c.dropped_at.is_(None)
# Partial: to update a column of a plain unique index, as dropping does, PostgreSQL waits for each
# transaction that has inserted a row which refers to the dataset.
for _unique in (datasets.c.uid, datasets.c.name):
    Index(
        f"uq_datasets_{_unique.name}",
        _unique,
        unique=True,
        postgresql_where=text("dropped_at IS NULL"),
        sqlite_where=text("dropped_at IS NULL"),
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
    Column("erased", BigInteger, nullable=False, server_default="0"),
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

# Rows whose record was removed for good, in the order of their removal, from 0 on; `heads.erased`
# counts them. Such a row keeps its place, with an empty record: no stored record is empty.
erasures = Table(
    "erasures",
    metadata,
    _dataset(primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),
    Column("erased_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    UniqueConstraint("dataset_id", "position"),
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
    Column("rejected_at", DateTime(timezone=True)),
)
# Each look at a head asks whether rows wait, which is most often none.
Index(
    "ix_inbox_waiting",
    inbox.c.dataset_id,
    inbox.c.id,
    postgresql_where=text("error IS NULL"),
    sqlite_where=text("error IS NULL"),
)
# Those that stay there are listed by their ids, and removed by age.
Index(
    "ix_inbox_rejected",
    inbox.c.dataset_id,
    inbox.c.id,
    postgresql_where=text("error IS NOT NULL"),
    sqlite_where=text("error IS NOT NULL"),
)
Index(
    "ix_inbox_rejected_at",
    inbox.c.dataset_id,
    inbox.c.rejected_at,
    postgresql_where=text("error IS NOT NULL"),
    sqlite_where=text("error IS NOT NULL"),
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

# What is known of the annotations in other tools: events come late, twice and out of order, and a
# deleted annotation must not come back with them.
tool_annotations = Table(
    "tool_annotations",
    metadata,
    _dataset(),
    Column("tool", Text, nullable=False),
    Column("annotation", _key, nullable=False),
    Column("updated_at", DateTime(timezone=True)),
    Column("deleted", Boolean, nullable=False, server_default=false()),
    Column("key", _key),
    PrimaryKeyConstraint("dataset_id", "tool", "annotation"),
)

# How a tool's annotations become samples: by feature, the path of its value.
webhooks = Table(
    "webhooks",
    metadata,
    _dataset(),
    Column("tool", Text, nullable=False),
    Column("mapping", _json, nullable=False),
    _now(),
    PrimaryKeyConstraint("dataset_id", "tool"),
)

# Events that were received, each once; of their bodies, which may hold secrets, only a hash.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", _serial, primary_key=True),
    _dataset(),
    Column("tool", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    UniqueConstraint("dataset_id", "tool", "digest"),
)

# A token itself is never stored. It names its dataset by text, and may be made before it.
tokens = Table(
    "tokens",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("dataset", Text),
    Column("rights", Text, nullable=False),
    _now(),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
)
