"""The keys, groups and sources of rows, as columns."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import orjson
from sqlalchemy import Connection, select

from registry.errors import FeatureError
from registry.samples.arrays import Positions
from registry.storage.database.models import SampleRow
from registry.storage.database.sql import is_any_of
from registry.storage.database.transactions import driver
from registry.storage.log.standby import missing_rows

RowText: TypeAlias = Literal["key", "group_key", "source"]
"""A column of `samples` that holds text; all but keys may be NULL."""

WORDS: Final[Mapping[RowText, str]] = {
    "key": "keys",
    "group_key": "groups",
    "source": "sources",
}

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


def texts_at(
    connection: Connection, dataset_id: int, columns: Sequence[RowText], positions: Positions
) -> list[list[str | None]]:
    """Return columns of the rows at these positions, in their order.

    Each row is looked up by itself, which takes several times as long as `row_texts` of a range.
    """
    wanted = positions.tolist()
    rows = connection.execute(
        select(SampleRow.position, *(getattr(SampleRow, column) for column in columns)).where(
            SampleRow.dataset_id == dataset_id, is_any_of(connection, SampleRow.position, wanted)
        )
    )
    at = {row[0]: row for row in rows.all()}
    if len(at) < len({*wanted}):
        missing = min({*wanted} - {*at})
        raise missing_rows(connection, dataset_id, missing, missing + 1, 0)
    return [[at[each][number] for each in wanted] for number in range(1, len(columns) + 1)]


def named_texts(
    features: Container[str], names: Mapping[RowText, str | None]
) -> dict[RowText, str]:
    """Return the names of columns that take the keys, groups or sources, without those of None.

    Raises `FeatureError` for a name that a feature or another of them has.
    """
    named: dict[RowText, str] = {}
    for text, name in names.items():
        if name is None:
            continue
        if not isinstance(name, str) or not name:
            raise FeatureError(
                f"the {WORDS[text]} need the name of a column, such as 'id', not {name!r:.140}"
            )
        other = next((each for each in named if named[each] == name), None)
        if name in features or other is not None:
            taken = "a feature" if other is None else f"the column of the {WORDS[other]}"
            raise FeatureError(f"{name!r} is {taken}; choose another name for the {WORDS[text]}")
        named[text] = name
    return named
