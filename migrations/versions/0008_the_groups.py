"""Groups: samples that stay in one split, annotations by task, and a check of the inbox's actions.

An index finds the rejected rows of a key, which a change of that key corrects.

The check is a trigger. A CHECK constraint, also one that is NOT VALID, is checked whenever a row is
updated: an older row with an unknown action could then be neither rejected nor tried again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
# Collation C, as for keys: groups compare by their bytes in any locale of the cluster.
group = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")

INDEX = "ix_inbox_rejected_key"
# PostgreSQL refuses to index texts of over some 2,700 bytes. No key of a sample has more than 512.
REJECTED = sa.text("error IS NOT NULL AND length(key) <= 512")
FUNCTION = """
    CREATE OR REPLACE FUNCTION inbox_known_action() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.action IN ('insert', 'update', 'retract') THEN
            RETURN NEW;
        END IF;
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation',
            TABLE = 'inbox', COLUMN = 'action', CONSTRAINT = 'ck_inbox_action',
            MESSAGE = 'inbox: unknown action ' || coalesce(quote_literal(NEW.action), 'NULL'),
            HINT = 'the actions are insert, update and retract';
    END $$
"""
TRIGGER = """
    CREATE OR REPLACE TRIGGER inbox_known_action BEFORE INSERT OR UPDATE OF action ON inbox
    FOR EACH ROW EXECUTE FUNCTION inbox_known_action()
"""
SQLITE_EVENTS = {
    "inbox_known_action": "INSERT",
    "inbox_known_new_action": "UPDATE OF action",
}
SQLITE_TRIGGER = """
    CREATE TRIGGER {name} BEFORE {event} ON inbox
    WHEN NEW.action NOT IN ('insert', 'update', 'retract')
    BEGIN SELECT RAISE(ABORT, 'inbox: the actions are insert, update and retract'); END
"""


def upgrade() -> None:
    # Each table in its own transaction, as in 0007: writers lock several of these tables, in other
    # orders, and would deadlock with a transaction that locks two of them. PostgreSQL rewrites no
    # row for these columns.
    context = op.get_context()
    on_server = context.dialect.name == "postgresql"
    with context.autocommit_block() if on_server else nullcontext():
        for table, column in columns():
            # An earlier attempt may have committed some columns and failed afterwards.
            op.add_column(table, column, if_not_exists=on_server or None)
        op.create_index(
            "ix_tool_annotations_task",
            "tool_annotations",
            ["task", "dataset_id"],
            postgresql_where=sa.text("task IS NOT NULL"),
            sqlite_where=sa.text("task IS NOT NULL"),
            if_not_exists=on_server or None,
        )
        if on_server:
            op.execute(FUNCTION)
            op.execute(TRIGGER)
        else:
            for name, event in SQLITE_EVENTS.items():
                op.execute(SQLITE_TRIGGER.format(name=name, event=event))
        # Concurrently, so that tools can insert during the build. An interrupted build leaves an
        # invalid index, which no query uses: the next attempt drops it first.
        op.drop_index(INDEX, "inbox", if_exists=True, postgresql_concurrently=True)
        op.create_index(
            INDEX,
            "inbox",
            ["dataset_id", "key"],
            postgresql_where=REJECTED,
            sqlite_where=REJECTED,
            postgresql_concurrently=True,
        )


def columns() -> Iterator[tuple[str, sa.Column[Any]]]:
    yield "samples", sa.Column("group_key", group)
    yield "inbox", sa.Column("group_key", group)
    yield "tool_annotations", sa.Column("task", group)
    yield "tool_annotations", sa.Column("annotator", sa.Text())
    yield "tool_annotations", sa.Column("fields", json)
    yield "webhooks", sa.Column("options", json, nullable=False, server_default=sa.text("'{}'"))


def downgrade() -> None:
    refuse_to_forget()
    op.drop_index(INDEX, "inbox")
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP TRIGGER inbox_known_action ON inbox")
        op.execute("DROP FUNCTION inbox_known_action()")
    else:
        for name in SQLITE_EVENTS:
            op.execute(f"DROP TRIGGER {name}")
    op.drop_index("ix_tool_annotations_task", "tool_annotations")
    for table, column in columns():
        op.drop_column(table, column.name)


def refuse_to_forget() -> None:
    """Raise `CommandError` if a sample has a group.

    Its next revision would get another split, which follows from its key.
    """
    if op.get_context().as_sql:  # there is no connection to query
        return
    grouped = sa.text("SELECT EXISTS (SELECT 1 FROM samples WHERE group_key IS NOT NULL)")
    if op.get_bind().scalar(grouped):
        raise CommandError(
            "there are samples with groups, whose splits would change below this revision; "
            "restore a backup from before the upgrade instead"
        )
