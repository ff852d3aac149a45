"""Storage of mappings: one for each dataset and labeling tool."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, Engine, delete, insert, select

from registry.storage.database.models import WebhookRow
from registry.storage.database.transactions import read, write


def mapping_of(engine: Engine, dataset_id: int, tool: str) -> dict[str, str] | None:
    """Return the path of each feature's value, or None if no mapping was set."""
    query = select(WebhookRow.mapping).where(
        WebhookRow.dataset_id == dataset_id, WebhookRow.tool == tool
    )
    mapping: dict[str, str] | None = read(engine, lambda c: c.execute(query).scalar_one_or_none())
    return mapping


def set_mapping(engine: Engine, dataset_id: int, tool: str, mapping: Mapping[str, str]) -> None:
    """Store a mapping; it replaces an earlier one."""
    primary_key = {"dataset_id": dataset_id, "tool": tool}

    def replace(connection: Connection) -> None:
        # Not an upsert: both statements are the same on every database, and the transaction is one.
        connection.execute(delete(WebhookRow).filter_by(**primary_key))
        connection.execute(insert(WebhookRow).values(**primary_key, mapping=dict(mapping)))

    write(engine, replace)
