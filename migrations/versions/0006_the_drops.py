"""Drops: a dropped dataset disappears at once, and its rows are removed later, in batches."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

UNIQUE = ("uid", "name")
PRESENT = sa.text("dropped_at IS NULL")
SQLITE_GUARD = """
    CREATE TRIGGER samples_never_leave BEFORE DELETE ON samples
    WHEN EXISTS (SELECT 1 FROM datasets WHERE id = OLD.dataset_id{unless})
    BEGIN SELECT RAISE(ABORT, 'samples are append-only: retract the key instead'); END
"""
POSTGRESQL_GUARD = """
    CREATE OR REPLACE FUNCTION samples_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE erased samples;
    BEGIN
        IF TG_OP = 'DELETE' AND NOT EXISTS (
            SELECT FROM datasets WHERE id = OLD.dataset_id{unless}
        ) THEN
            RETURN OLD;
        END IF;
        IF TG_OP = 'UPDATE' AND OLD.record IS NOT NULL THEN
            erased := OLD;
            erased.record := '';
            IF NEW IS NOT DISTINCT FROM erased THEN
                RETURN NEW;
            END IF;
        END IF;
        RAISE EXCEPTION USING
            MESSAGE = 'samples are append-only: ' || TG_OP || ' is refused',
            HINT = 'insert a new revision of the key, or retract it';
    END $$
"""
UNLESS = " AND dropped_at IS NULL"


def upgrade() -> None:
    op.add_column("datasets", sa.Column("dropped_at", sa.DateTime(timezone=True)))
    # On PostgreSQL, an update of a column in a plain unique index waits for all transactions that
    # have inserted a row with a foreign key to the dataset, as tools do into the inbox. With a
    # partial index it does not wait. SQLite has no row locks and cannot drop a constraint: it keeps
    # the constraint and gets the index as well.
    for column in UNIQUE:
        if op.get_context().dialect.name != "sqlite":
            op.drop_constraint(f"uq_datasets_{column}", "datasets")
        op.create_index(
            f"uq_datasets_{column}",
            "datasets",
            [column],
            unique=True,
            postgresql_where=PRESENT,
            sqlite_where=PRESENT,
        )
    guard(UNLESS)


def guard(unless: str) -> None:
    if op.get_context().dialect.name == "sqlite":
        # SQLite has no CREATE OR REPLACE TRIGGER.
        op.execute("DROP TRIGGER samples_never_leave")
        op.execute(SQLITE_GUARD.format(unless=unless))
    else:
        op.execute(POSTGRESQL_GUARD.format(unless=unless))


def downgrade() -> None:
    refuse_to_forget()
    guard("")
    for column in UNIQUE:
        op.drop_index(f"uq_datasets_{column}", "datasets")
        if op.get_context().dialect.name != "sqlite":
            op.create_unique_constraint(f"uq_datasets_{column}", "datasets", [column])
    op.drop_column("datasets", "dropped_at")


def refuse_to_forget() -> None:
    """Raise `CommandError` if a dropped dataset has rows left.

    Without ``dropped_at``, the dataset would exist again.
    """
    if op.get_context().as_sql:  # there is no connection to query
        return
    left = sa.text("SELECT count(*) FROM datasets WHERE dropped_at IS NOT NULL")
    if count := op.get_bind().scalar(left):
        raise CommandError(
            f"{count} dropped datasets have rows left; run `registry doctor --fix` before going "
            "below this revision"
        )
