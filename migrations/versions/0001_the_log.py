"""The log: datasets, heads, samples, inbox, runs and epochs.

The reasons for the columns, their order and the indexes are in `registry.storage.database.models`.
A migration does not import the models: they change later, and it must not.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
# Collation C: keys have the same order in any locale of the cluster, by bytes.
key = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
# SQLite assigns ids by itself only to a column whose type is exactly INTEGER.
serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    create_datasets()
    create_samples()
    create_inbox()
    create_runs()
    create_guards()


def create_datasets() -> None:
    op.create_table(
        "datasets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("features", json, nullable=False),
        sa.Column("splits", json, nullable=False),
        sa.Column("description", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("created_at", moment, nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("id", name="pk_datasets"),
        sa.UniqueConstraint("uid", name="uq_datasets_uid"),
        sa.UniqueConstraint("name", name="uq_datasets_name"),
        # Otherwise SQLite would give the id of a dropped dataset to a new one.
        sqlite_autoincrement=True,
    )
    op.create_table(
        "heads",
        sa.Column("dataset_id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("position", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("live", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("chain", sa.LargeBinary(), nullable=False),
        sa.Column("updated_at", moment, nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("dataset_id", name="pk_heads"),
        of_dataset("heads"),
        # Each commit updates a head. On a full page, the update could not be HOT, and would add an
        # index entry each time.
        postgresql_with={"fillfactor": 10},
    )


def create_samples() -> None:
    op.create_table(
        "samples",
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("bucket", sa.Integer(), nullable=False),
        sa.Column("record", sa.LargeBinary()),
        sa.Column("chain", sa.LargeBinary(), nullable=False),
        sa.Column("supersedes", sa.BigInteger()),
        sa.Column("source", sa.Text()),
        sa.Column("key", key, nullable=False),
        sa.Column("created_at", moment, nullable=False, server_default=sa.func.now()),
        # No foreign key to datasets: checking it for each row would double the cost of an insert.
        # Rows are written under the lock on the head, which has one.
        sa.PrimaryKeyConstraint("dataset_id", "position", name="pk_samples"),
        sqlite_with_rowid=False,
    )
    # The indexes do not begin with the dataset, as the primary key does: with statistics that are
    # older than the dataset, PostgreSQL would use the primary key and scan the whole log.
    op.create_index("ix_samples_key", "samples", ["key", "dataset_id", sa.text("position DESC")])
    op.create_index(
        "uq_samples_supersedes",
        "samples",
        ["supersedes", "dataset_id"],
        unique=True,
        postgresql_where=sa.text("supersedes IS NOT NULL"),
        sqlite_where=sa.text("supersedes IS NOT NULL"),
    )


def create_inbox() -> None:
    op.create_table(
        "inbox",
        sa.Column("id", serial, nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("key", key),
        sa.Column("fields", json),
        sa.Column("action", sa.Text(), nullable=False, server_default="insert"),
        sa.Column("source", sa.Text()),
        sa.Column("created_at", moment, nullable=False, server_default=sa.func.now()),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_inbox"),
        of_dataset("inbox"),
    )


def create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("split", sa.Text()),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("consumed", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("created_at", moment, nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.UniqueConstraint("dataset_id", "name", name="uq_runs_dataset_id_name"),
        of_dataset("runs"),
    )
    op.create_table(
        "epochs",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("watermark", sa.BigInteger(), nullable=False),
        sa.Column("chain", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("pinned_at", moment, nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("run_id", "number", name="pk_epochs"),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name="fk_epochs_run_id_runs", ondelete="CASCADE"
        ),
    )


def of_dataset(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["dataset_id"],
        ["datasets.id"],
        name=f"fk_{table}_dataset_id_datasets",
        ondelete="CASCADE",
    )


# A row of the log never changes, so that any past watermark can be replayed. Only the rows of a
# dataset that was itself deleted may be removed.
SQLITE_GUARDS = [
    """
    CREATE TRIGGER samples_never_change BEFORE UPDATE ON samples
    BEGIN SELECT RAISE(ABORT, 'samples are append-only: insert a new revision of the key'); END
    """,
    """
    CREATE TRIGGER samples_never_leave BEFORE DELETE ON samples
    WHEN EXISTS (SELECT 1 FROM datasets WHERE id = OLD.dataset_id)
    BEGIN SELECT RAISE(ABORT, 'samples are append-only: retract the key instead'); END
    """,
]
POSTGRESQL_GUARDS = [
    # A record is read far more often than written, and most are floats or image files, which do
    # not compress. EXTERNAL avoids the attempt to compress, and the decompression.
    "ALTER TABLE samples ALTER COLUMN record SET STORAGE EXTERNAL",
    """
    CREATE FUNCTION samples_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'DELETE' AND NOT EXISTS (SELECT FROM datasets WHERE id = OLD.dataset_id) THEN
            RETURN OLD;
        END IF;
        RAISE EXCEPTION USING
            MESSAGE = 'samples are append-only: ' || TG_OP || ' is refused',
            HINT = 'insert a new revision of the key, or retract it';
    END $$
    """,
    """
    CREATE TRIGGER samples_append_only BEFORE UPDATE OR DELETE ON samples
    FOR EACH ROW EXECUTE FUNCTION samples_append_only()
    """,
    """
    CREATE TRIGGER samples_never_emptied BEFORE TRUNCATE ON samples
    FOR EACH STATEMENT EXECUTE FUNCTION samples_append_only()
    """,
]


def create_guards() -> None:
    sqlite = op.get_context().dialect.name == "sqlite"
    for statement in SQLITE_GUARDS if sqlite else POSTGRESQL_GUARDS:
        op.execute(statement)


def downgrade() -> None:
    # Tables with a foreign key come before those that they refer to.
    for table in ("epochs", "runs", "inbox", "samples", "heads", "datasets"):
        op.drop_table(table)
    if op.get_context().dialect.name == "postgresql":
        # After the table, whose triggers depend on the function.
        op.execute("DROP FUNCTION samples_append_only()")
