"""Statements for which SQLAlchemy has a different class in each dialect."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    SQLColumnExpression,
    Text,
    any_,
    column,
    func,
    literal,
    select,
)
from sqlalchemy.dialects import postgresql as postgresql_dialect
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.sql.dml import ReturningInsert

from registry.storage.database.models import Base

Insert = postgresql_dialect.Insert | sqlite_dialect.Insert


def insert_into(connection: Connection, table: type[Base]) -> Insert:
    """Return the dialect's INSERT, which has ON CONFLICT; SQLAlchemy's generic one does not."""
    return _insert_into(connection.dialect.name, table)


def _insert_into(dialect: str, table: type[Base]) -> Insert:
    if dialect == "postgresql":
        return postgresql_dialect.insert(table)
    return sqlite_dialect.insert(table)


def insert_if_new(connection: Connection, table: type[Base], values: Mapping[str, Any]) -> bool:
    """Insert a row unless a unique index has its key; return whether it was inserted."""
    statement = _insert_if_new(connection.dialect.name, table)
    return connection.execute(statement, dict(values)).first() is not None


@cache
def _insert_if_new(dialect: str, table: type[Base]) -> ReturningInsert[*tuple[Any, ...]]:
    # Cached, since SQLAlchemy needs as long to construct the statement as to execute it.
    # RETURNING, since ON CONFLICT DO NOTHING raises nothing and row counts differ between drivers.
    statement = _insert_into(dialect, table).on_conflict_do_nothing()
    return statement.returning(*table.__table__.primary_key)


def is_any_of(
    connection: Connection, expression: SQLColumnExpression[Any], values: Collection[int | str]
) -> ColumnElement[bool]:
    """Return the condition that an expression equals one of the integers or texts.

    They are one parameter: databases limit the number of a statement's parameters.
    """
    if connection.dialect.name == "postgresql":
        texts = any(isinstance(value, str) for value in values)
        array = literal([*values], ARRAY(Text() if texts else BigInteger()))
        return expression == any_(array)
    each = func.json_each(json.dumps([*values], ensure_ascii=False))
    return expression.in_(select(column("value")).select_from(each))
