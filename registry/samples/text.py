"""Validation of text that every database stores unchanged, and quoting of SQL identifiers."""

from __future__ import annotations

import os
from pathlib import Path


def encode_text(value: object) -> bytes:
    """Return text in UTF-8; raises `ValueError` with a reason that can follow "a name"."""
    if not isinstance(value, str):
        raise ValueError(f"is text, not {type(value).__name__}")  # noqa: TRY004  # as for others
    # PostgreSQL's text has no U+0000; SQLite's functions end at it.
    if "\0" in value:
        raise ValueError(r"cannot hold \x00")
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise ValueError("cannot hold a lone surrogate") from None


def text_problem(value: object) -> str | None:
    """Return the reason why `encode_text` rejects a value; None for valid text."""
    try:
        encode_text(value)
    except ValueError as error:
        return str(error)
    return None


def name_problem(value: object) -> str | None:
    """Return the reason why a value cannot be a name, which must not be empty; None if it can."""
    return text_problem(value) or (None if value else "cannot be empty")


def quoted(name: str) -> str:
    """Quote an SQL identifier, also for psql: SQLAlchemy would double % for the driver."""
    return '"' + name.replace('"', '""') + '"'


def path_problem(path: Path) -> str | None:
    """Return why no file can have this path; None if one can."""
    try:
        return r"cannot hold \x00" if b"\0" in os.fsencode(path) else None
    except UnicodeEncodeError:
        return "cannot hold a lone surrogate"
