"""Datasets that change: their schemas, tags of their versions, and runs on a version or a part.

A dataset's features move from its row to `schemas`, a row for each set of features that it had. The
last row of a commit carries the number of live samples after it, so that the size of a version is
read and not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
name = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
time = sa.DateTime(timezone=True)

# As in 0004, with the columns that were added since: erasing a record must change no other.
SQLITE_KEPT = (
    *("dataset_id", "position", "bucket", "chain", "supersedes", "source", "key", "created_at"),
    *("group_key", "live"),
)
SQLITE_GUARD = """
    CREATE TRIGGER samples_never_change BEFORE UPDATE ON samples
    WHEN NOT (OLD.record IS NOT NULL AND NEW.record IS x'' AND {kept})
    BEGIN SELECT RAISE(ABORT, 'samples are append-only: insert a new revision of the key'); END
"""


def upgrade() -> None:
    # Each table in its own transaction, as in 0007 and 0008. PostgreSQL rewrites no row for these
    # columns.
    context = op.get_context()
    on_server = context.dialect.name == "postgresql"
    with context.autocommit_block() if on_server else nullcontext():
        for table, column in columns():
            # An earlier attempt may have committed some columns and failed afterwards.
            op.add_column(table, column, if_not_exists=on_server or None)
        create_schemas(on_server)
        create_tags(on_server)
        create_removed_runs(on_server)
        if not on_server:
            guard_sqlite(SQLITE_KEPT)
    move_features(on_server)


def move_features(on_server: bool) -> None:
    """Move each dataset's features to its first schema, in one transaction."""
    # Locked first: a dataset that is created between the two statements would lose its features.
    if on_server:
        op.execute("LOCK TABLE datasets IN ACCESS EXCLUSIVE MODE")
    op.execute(
        "INSERT INTO schemas (dataset_id, number, since, features, created_at) "
        "SELECT id, 0, 0, features, created_at FROM datasets"
    )
    op.drop_column("datasets", "features")


def columns() -> Iterator[tuple[str, sa.Column[Any]]]:
    yield "samples", sa.Column("live", sa.BigInteger())
    yield "heads", sa.Column("schema", sa.Integer(), nullable=False, server_default="0")
    yield "epochs", sa.Column("schema", sa.Integer(), nullable=False, server_default="0")
    yield "epochs", sa.Column("older", sa.BigInteger())
    yield "runs", sa.Column("conditions", json)
    yield "runs", sa.Column("watermark", sa.BigInteger())
    yield "runs", sa.Column("chain", sa.LargeBinary())
    yield "runs", sa.Column("schema", sa.Integer())


def create_schemas(on_server: bool) -> None:
    op.create_table(
        "schemas",
        sa.Column("dataset_id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("number", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("features", json, nullable=False),
        sa.Column("created_at", time, nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("dataset_id", "number", name="pk_schemas"),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["datasets.id"],
            name="fk_schemas_dataset_id_datasets",
            ondelete="CASCADE",
        ),
        if_not_exists=on_server or None,
    )


def create_tags(on_server: bool) -> None:
    op.create_table(
        "tags",
        sa.Column("dataset_id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("name", name, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("chain", sa.LargeBinary(), nullable=False),
        sa.Column("schema", sa.Integer(), nullable=False),
        sa.Column("live", sa.BigInteger(), nullable=False),
        sa.Column("created_at", time, nullable=False, server_default=sa.func.now()),
        sa.Column("note", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.PrimaryKeyConstraint("dataset_id", "name", name="pk_tags"),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["datasets.id"],
            name="fk_tags_dataset_id_datasets",
            ondelete="CASCADE",
        ),
        if_not_exists=on_server or None,
    )


def create_removed_runs(on_server: bool) -> None:
    op.create_table(
        "removed_runs",
        sa.Column("dataset_id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", time, nullable=False),
        sa.Column("removed_at", time, nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("dataset_id", "name", "created_at", name="pk_removed_runs"),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["datasets.id"],
            name="fk_removed_runs_dataset_id_datasets",
            ondelete="CASCADE",
        ),
        if_not_exists=on_server or None,
    )


def guard_sqlite(kept: tuple[str, ...]) -> None:
    same = " AND ".join(f"NEW.{column} IS OLD.{column}" for column in kept)
    op.execute("DROP TRIGGER samples_never_change")
    op.execute(SQLITE_GUARD.format(kept=same))


def downgrade() -> None:
    refuse_to_forget()
    if op.get_context().dialect.name == "sqlite":
        guard_sqlite(SQLITE_KEPT[:-2])
    restore_features()
    op.drop_table("removed_runs")
    op.drop_table("tags")
    op.drop_table("schemas")
    for table, column in columns():
        op.drop_column(table, column.name)


def restore_features() -> None:
    # SQLite adds a column without NULL only with a default.
    form = sa.Column("features", json, nullable=False, server_default=sa.text("'[]'"))
    op.add_column("datasets", form)
    # A dataset that was dropped may have lost its schema already, and its row not yet.
    op.execute(
        "UPDATE datasets SET features = coalesce("
        "(SELECT features FROM schemas WHERE dataset_id = datasets.id AND number = 0), '[]')"
    )
    if op.get_context().dialect.name == "postgresql":
        op.alter_column("datasets", "features", server_default=None)


def refuse_to_forget() -> None:
    """Raise `CommandError` if a schema was changed, a version tagged or a run limited."""
    if op.get_context().as_sql:  # there is no connection to query
        return
    for what, query in (
        ("datasets whose features were changed", "SELECT 1 FROM schemas WHERE number > 0"),
        ("tags of versions", "SELECT 1 FROM tags"),
        (
            "runs on a version or with conditions",
            "SELECT 1 FROM runs WHERE conditions IS NOT NULL OR watermark IS NOT NULL",
        ),
    ):
        if op.get_bind().scalar(sa.text(f"SELECT EXISTS ({query})")):
            raise CommandError(
                f"there are {what}, which would be lost below this revision; restore a backup "
                "from before the upgrade instead"
            )
