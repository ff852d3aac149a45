"""Labeling tools: annotations, webhooks, their deliveries, and access tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
# As in 0001: a migration repeats what it needs, so that no later change of another affects it.
key = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    create_annotations()
    create_webhooks()
    create_tokens()


def create_annotations() -> None:
    op.create_table(
        "tool_annotations",
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("tool", sa.Text(), nullable=False),
        sa.Column("annotation", key, nullable=False),
        sa.Column("updated_at", moment),
        sa.Column("deleted", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("key", key),
        sa.PrimaryKeyConstraint("dataset_id", "tool", "annotation", name="pk_tool_annotations"),
        of_dataset("tool_annotations"),
    )


def create_webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("tool", sa.Text(), nullable=False),
        sa.Column("mapping", json, nullable=False),
        sa.Column("created_at", moment, nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("dataset_id", "tool", name="pk_webhooks"),
        of_dataset("webhooks"),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", serial, nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("tool", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", moment, nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        # A delivery is inserted if it is new, without a SELECT first: this decides which one is.
        sa.UniqueConstraint(
            "dataset_id", "tool", "digest", name="uq_deliveries_dataset_id_tool_digest"
        ),
        of_dataset("deliveries"),
    )


def create_tokens() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("dataset", sa.Text()),
        sa.Column("rights", sa.Text(), nullable=False),
        sa.Column("created_at", moment, nullable=False, server_default=sa.func.now()),
        sa.Column("expires_at", moment),
        sa.Column("revoked_at", moment),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("name", name="uq_tokens_name"),
        sa.UniqueConstraint("digest", name="uq_tokens_digest"),
    )


def of_dataset(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["dataset_id"],
        ["datasets.id"],
        name=f"fk_{table}_dataset_id_datasets",
        ondelete="CASCADE",
    )


def downgrade() -> None:
    for table in ("tokens", "deliveries", "webhooks", "tool_annotations"):
        op.drop_table(table)
