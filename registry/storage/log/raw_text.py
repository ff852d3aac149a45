"""Texts of the inbox as they are stored, which need not be UTF-8.

SQLite stores any bytes as text, and its driver raises an error when it decodes a text that is not
UTF-8: then no row of the result could be read. The texts are therefore read as bytes. On PostgreSQL
they are UTF-8, and are cast so that the driver does not parse JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Cast, LargeBinary, SQLColumnExpression, Text, cast

_TYPES: Mapping[str, Text | LargeBinary] = {"postgresql": Text(), "sqlite": LargeBinary()}


RawText = str | bytes


def raw(column: SQLColumnExpression[Any], dialect: str) -> Cast[Any]:
    """Return the column as the driver is to read it: as str on PostgreSQL, as bytes on SQLite."""
    return cast(column, _TYPES[dialect])


def decode(text: RawText, name: str) -> str:
    """Return a text that was read raw; raises `ValueError`, which names it, unless it is UTF-8."""
    try:
        return text if isinstance(text, str) else text.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not UTF-8 text") from None


def readable(text: RawText | None) -> str | None:
    """Return a text that was read raw, with replacement characters where it is not UTF-8."""
    return text.decode(errors="replace") if isinstance(text, bytes) else text
