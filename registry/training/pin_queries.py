"""PostgreSQL's queries for the pins of epochs, each in one exchange with the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection

from registry.storage.database.exchange import BYTEA, INT4, INT8, Query, Statement, int4, int8
from registry.storage.database.transactions import driver

_FIELDS = {
    "number": INT8,
    "since": INT8,
    "watermark": INT8,
    "chain": BYTEA,
    "size": INT8,
    "start": INT8,
    "older": INT8,
    "schema": INT4,
}
"""The fields of a pin, in their order, which are columns of the table."""
_BINARY: dict[int, Callable[[Any], bytes]] = {INT4: int4, INT8: int8, BYTEA: bytes}
_NAMES = ", ".join(_FIELDS)
_INSERT = Statement(
    b"INSERT INTO epochs (run_id, number, since, watermark, chain, size, start, older, schema)"
    b" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
    (INT4, *_FIELDS.values()),
)
_FIND = Statement(
    f"SELECT {_NAMES} FROM epochs WHERE run_id = $1 AND number = $2".encode(),  # noqa: S608  # the names are our own
    (INT4, INT8),
)
# A subquery for the chain, as in `pin_store`.
_WITH_LOG = Statement(
    f"""
    SELECT {", ".join(f"epochs.{name}" for name in _FIELDS)}, (
        SELECT chain FROM samples
        WHERE dataset_id = runs.dataset_id AND position = epochs.watermark - 1
    ), heads.erased
    FROM epochs JOIN runs ON runs.id = epochs.run_id
        JOIN heads ON heads.dataset_id = runs.dataset_id
    WHERE epochs.run_id = $1 AND epochs.number IN ($2, $3)
    """.encode(),  # noqa: S608  # as above
    (INT4, INT8, INT8),
)


def insert_or_find(connection: Connection, run_id: int, pin: Mapping[str, Any]) -> tuple[Any, ...]:
    """Insert a pin's fields unless its epoch is pinned; return the fields that are stored."""
    values = [
        None if pin[name] is None else _BINARY[kind](pin[name]) for name, kind in _FIELDS.items()
    ]
    insert = Query(_INSERT, (int4(run_id), *values))
    # The INSERT has waited for another worker's commit, which this sees at READ COMMITTED.
    find = Query(_FIND, (int4(run_id), int8(pin["number"])))
    rows = driver(connection).exchange([insert, find])[1]
    return rows[0]


def with_log(connection: Connection, run_id: int, one: int, other: int) -> list[tuple[Any, ...]]:
    """Read the pins of two epochs; each is followed by the log's chain there and erased count."""
    query = Query(_WITH_LOG, (int4(run_id), int8(one), int8(other)))
    return driver(connection).exchange([query])[0]
