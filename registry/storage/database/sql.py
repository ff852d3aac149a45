"""Statements for which SQLAlchemy has a different class in each dialect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql as postgresql_dialect
from sqlalchemy.dialects import sqlite as sqlite_dialect

from registry.storage.database.models import Base

Insert = postgresql_dialect.Insert | sqlite_dialect.Insert


def insert_into(connection: Connection, table: type[Base]) -> Insert:
    """Return the dialect's INSERT, which has ON CONFLICT; SQLAlchemy's generic one does not."""
    if connection.dialect.name == "postgresql":
        return postgresql_dialect.insert(table)
    return sqlite_dialect.insert(table)


def insert_if_new(connection: Connection, table: type[Base], values: Mapping[str, Any]) -> bool:
    """Insert a row unless a unique index has its key; return whether it was inserted."""
    statement = insert_into(connection, table).values(values).on_conflict_do_nothing()
    # RETURNING, since ON CONFLICT DO NOTHING raises nothing and row counts differ between drivers.
    return connection.execute(statement.returning(*table.__table__.primary_key)).first() is not None
