"""Queries for `WatchedConnection.exchange`, which sends several to PostgreSQL in one round trip.

Values are in PostgreSQL's binary formats: those that COPY has, without their lengths.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

INT4, INT8, TEXT, BYTEA, JSON = 23, 20, 25, 17, 114
"""The object ids of PostgreSQL's types, which are the same in every database."""
_ARRAYS = {INT4: 1007, INT8: 1016, TEXT: 1009, BYTEA: 1001}


class Statement(NamedTuple):
    """SQL with parameters ``$1``, ``$2`` …, and the object ids of their types."""

    text: bytes
    types: tuple[int, ...] = ()


class Query(NamedTuple):
    """A statement and a value for each of its parameters, in binary format; None is NULL."""

    statement: Statement
    values: Sequence[bytes | None] = ()


BEGIN = Query(Statement(b"BEGIN ISOLATION LEVEL READ COMMITTED"))
COMMIT = Query(Statement(b"COMMIT"))


def int4(value: int) -> bytes:
    return value.to_bytes(4, "big", signed=True)


def int8(value: int) -> bytes:
    return value.to_bytes(8, "big", signed=True)


def array_of(item_type: int) -> int:
    """Return the object id of the arrays of a type."""
    return _ARRAYS[item_type]


def array(item_type: int, items: Sequence[bytes | None]) -> bytes:
    """Return an array of one dimension, of items in binary format; None is NULL."""
    # Dimensions, whether there are NULLs, type, and the dimension's length and lower bound.
    parts = [struct.pack(">iiiii", 1, None in items, item_type, len(items), 1)]
    for item in items:
        parts += (_NULL,) if item is None else (int4(len(item)), item)
    return b"".join(parts)


_NULL = int4(-1)
