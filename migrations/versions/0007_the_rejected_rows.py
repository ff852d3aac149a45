"""Rejected rows of the inbox: when each was rejected, the limits on age and number, two indexes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

REJECTED = sa.text("error IS NOT NULL")
INDEXES = {
    "ix_inbox_rejected": ["dataset_id", "id"],
    "ix_inbox_rejected_at": ["dataset_id", "rejected_at"],
}
MONTH = str(30 * 24 * 3600)
"""30 days in seconds, as SQL."""


def upgrade() -> None:
    # Concurrently, so that tools can insert during the build. An interrupted build leaves an
    # invalid index, which no query uses: the next attempt drops it first. Each column is added in
    # its own transaction: an insert into the inbox locks the inbox, then its foreign key locks
    # `datasets`, and a transaction that locks them in the other order would deadlock with it.
    # PostgreSQL rewrites no row for these columns.
    context = op.get_context()
    concurrently = context.dialect.name == "postgresql"
    with context.autocommit_block() if concurrently else nullcontext():
        for table, column in columns():
            # An earlier attempt may have committed some columns and failed afterwards.
            op.add_column(table, column, if_not_exists=concurrently or None)
        for name, indexed in INDEXES.items():
            op.drop_index(name, "inbox", if_exists=True, postgresql_concurrently=True)
            op.create_index(
                name,
                "inbox",
                indexed,
                postgresql_where=REJECTED,
                sqlite_where=REJECTED,
                postgresql_concurrently=True,
            )


def columns() -> Iterator[tuple[str, sa.Column[Any]]]:
    for name, default in (("rejected_retention", MONTH), ("rejected_quota", "100000")):
        yield (
            "datasets",
            sa.Column(name, sa.BigInteger(), nullable=False, server_default=default),
        )
    yield "inbox", sa.Column("rejected_at", sa.DateTime(timezone=True))


def downgrade() -> None:
    for name in INDEXES:
        op.drop_index(name, "inbox")
    op.drop_column("inbox", "rejected_at")
    op.drop_column("datasets", "rejected_quota")
    op.drop_column("datasets", "rejected_retention")
