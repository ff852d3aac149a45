"""The keys, groups and sources of rows, as columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import orjson
from sqlalchemy import Connection

from registry.storage.database.transactions import driver
from registry.storage.log.standby import missing_rows

RowText: TypeAlias = Literal["key", "group_key", "source"]
"""A column of `samples` that holds text; all but keys may be NULL."""

# One value for each column, as a row for each position would take several times as long.
_POSTGRESQL = """
    SELECT {arrays} FROM samples WHERE dataset_id = %s AND position >= %s AND position < %s
"""
_SQLITE = """
    SELECT {arrays} FROM (
        SELECT {names} FROM samples
        WHERE dataset_id = ? AND position >= ? AND position < ? ORDER BY position
    )
"""


def row_texts(
    connection: Connection, dataset_id: int, columns: Sequence[RowText], after: int, until: int
) -> list[list[str | None]]:
    """Return columns of the rows at positions ``[after, until)``, in order.

    Raises the error that `missing_rows` returns where a row is missing.
    """
    parameters = (dataset_id, after, until)
    row: Sequence[Any] | None
    if connection.dialect.name == "sqlite":
        arrays = ", ".join(f"json_group_array({column})" for column in columns)
        query = _SQLITE.format(arrays=arrays, names=", ".join(columns))
        row = connection.exec_driver_sql(query, parameters).one()
    else:
        arrays = ", ".join(f"json_agg({column} ORDER BY position)::text" for column in columns)
        with driver(connection).cursor(binary=True) as cursor:
            row = cursor.execute(_POSTGRESQL.format(arrays=arrays).encode(), parameters).fetchone()
    # PostgreSQL aggregates no rows to NULL.
    texts = [orjson.loads(array or b"[]") for array in row or ()]
    for column in texts:
        if len(column) != until - after:
            raise missing_rows(connection, dataset_id, after, until, len(column))
    return texts
