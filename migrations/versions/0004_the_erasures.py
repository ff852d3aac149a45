"""The erasures: the rows of the log whose records were removed permanently."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# A record may become empty, and no other column of a row may change. The row keeps its position.
SQLITE_GUARD = """
    CREATE TRIGGER samples_never_change BEFORE UPDATE ON samples {unless}
    BEGIN SELECT RAISE(ABORT, 'samples are append-only: insert a new revision of the key'); END
"""
SQLITE_KEPT = (
    "dataset_id",
    "position",
    "bucket",
    "chain",
    "supersedes",
    "source",
    "key",
    "created_at",
)
# IS rather than =, which is NULL if either value is: the guard would then miss a change of a column
# from or to NULL.
SQLITE_UNLESS = "WHEN NOT (OLD.record IS NOT NULL AND NEW.record IS x'' AND {kept})".format(
    kept=" AND ".join(f"NEW.{name} IS OLD.{name}" for name in SQLITE_KEPT)
)
POSTGRESQL_GUARD = """
    CREATE OR REPLACE FUNCTION samples_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
    {declared}
    BEGIN
        IF TG_OP = 'DELETE' AND NOT EXISTS (SELECT FROM datasets WHERE id = OLD.dataset_id) THEN
            RETURN OLD;
        END IF;
        {unless}
        RAISE EXCEPTION USING
            MESSAGE = 'samples are append-only: ' || TG_OP || ' is refused',
            HINT = 'insert a new revision of the key, or retract it';
    END $$
"""
POSTGRESQL_UNLESS = """
        IF TG_OP = 'UPDATE' AND OLD.record IS NOT NULL THEN
            erased := OLD;
            erased.record := '';
            IF NEW IS NOT DISTINCT FROM erased THEN
                RETURN NEW;
            END IF;
        END IF;
"""


def upgrade() -> None:
    op.add_column("heads", sa.Column("erased", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_table(
        "erasures",
        sa.Column("dataset_id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("number", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column(
            "erased_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.now(),
        ),
        sa.PrimaryKeyConstraint("dataset_id", "number", name="pk_erasures"),
        sa.UniqueConstraint("dataset_id", "position", name="uq_erasures_dataset_id_position"),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["datasets.id"],
            name="fk_erasures_dataset_id_datasets",
            ondelete="CASCADE",
        ),
    )
    if op.get_context().dialect.name == "sqlite":
        guard_sqlite(SQLITE_UNLESS)
    else:
        guard_postgresql("DECLARE erased samples;", POSTGRESQL_UNLESS)


def guard_sqlite(unless: str) -> None:
    # SQLite has no CREATE OR REPLACE TRIGGER.
    op.execute("DROP TRIGGER samples_never_change")
    op.execute(SQLITE_GUARD.format(unless=unless))


def guard_postgresql(declared: str, unless: str) -> None:
    op.execute(POSTGRESQL_GUARD.format(declared=declared, unless=unless))


def downgrade() -> None:
    refuse_to_forget()
    if op.get_context().dialect.name == "sqlite":
        guard_sqlite("")
    else:
        guard_postgresql("", "")
    op.drop_table("erasures")
    op.drop_column("heads", "erased")


def refuse_to_forget() -> None:
    """Raise `CommandError` if samples were erased.

    Without this table, an erased record cannot be distinguished from a damaged one.
    """
    if op.get_context().as_sql:  # there is no connection to query
        return
    if count := op.get_bind().scalar(sa.text("SELECT count(*) FROM erasures")):
        raise CommandError(
            f"{count} rows were erased, and without this revision their logs could not be proven; "
            "drop their datasets before going below it"
        )
