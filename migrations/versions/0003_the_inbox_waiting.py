"""The inbox: an index of the waiting rows, which are queried each time a head is read."""

from __future__ import annotations

from contextlib import nullcontext

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

WAITING = sa.text("error IS NULL")


def upgrade() -> None:
    # Concurrently, so that tools can insert during the build. An interrupted build leaves an
    # invalid index, which no query uses: the next attempt drops it first.
    context = op.get_context()
    concurrently = context.dialect.name == "postgresql"
    # CREATE INDEX CONCURRENTLY raises an error within a transaction.
    with context.autocommit_block() if concurrently else nullcontext():
        op.drop_index("ix_inbox_waiting", "inbox", if_exists=True, postgresql_concurrently=True)
        op.create_index(
            "ix_inbox_waiting",
            "inbox",
            ["dataset_id", "id"],
            postgresql_where=WAITING,
            sqlite_where=WAITING,
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    op.drop_index("ix_inbox_waiting", "inbox")
