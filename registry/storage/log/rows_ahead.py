"""The rows after a position, if they are few, read together with the head on PostgreSQL.

Whoever waits for rows usually gets few of them, and then needs no further exchange.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from registry.samples.schema import Schema
from registry.storage.database.exchange import INT4, INT8, Query, Statement, int4, int8
from registry.storage.log.page import Page
from registry.storage.log.page_queries import page_of

ROWS = 256
BYTES = 1 << 18
"""Rows, and bytes of their records, that are read at most."""

_COLUMNS = "position, record, bucket, supersedes"
# The server stops at the size, as in `page_queries`.
_ROWS = Statement(
    f"""
    SELECT {_COLUMNS} FROM (
        SELECT {_COLUMNS}, coalesce(sum(octet_length(record)) OVER (
            ORDER BY position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
        FROM samples WHERE dataset_id = $1 AND position >= $2 AND position < $3
    ) AS ranked WHERE before < {BYTES} ORDER BY position
    """.encode(),  # noqa: S608  # the names are our own
    (INT4, INT8, INT8),
)


def reading_rows(dataset_id: int, after: int) -> Query:
    """Return the query for the first rows from ``after`` on."""
    return Query(_ROWS, (int4(dataset_id), int8(after), int8(after + ROWS)))


def page_ahead(
    schema: Schema, after: int, until: int, rows: Sequence[tuple[Any, ...]]
) -> Page | None:
    """Return the page of positions ``[after, until)``, from the rows that the query has read.

    All are of this schema. None unless these are all of them.
    """
    # There may be more rows than a head had that was read before them.
    inside = rows[: until - after]
    # Positions are unique, and were read in order.
    if not inside or len(inside) < until - after or inside[-1][0] != until - 1:
        return None
    return page_of(schema, after, inside)
