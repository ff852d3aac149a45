"""Validation of text that every database stores unchanged, and quoting of SQL identifiers."""

from __future__ import annotations

import os
from pathlib import Path


def fault(value: object) -> str | None:
    """Return what is wrong with a value, to follow "a name" in a message; None for valid text."""
    if not isinstance(value, str):
        return f"is text, not {type(value).__name__}"
    # PostgreSQL's text has no U+0000; SQLite's functions end at it.
    if "\0" in value:
        return r"cannot hold \x00"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "cannot hold a lone surrogate"
    return None


def quoted(name: str) -> str:
    """Quote an SQL identifier, also for psql: SQLAlchemy would double % for the driver."""
    return '"' + name.replace('"', '""') + '"'


def path_fault(path: Path) -> str | None:
    """Return why no file can have this path; None if one can."""
    try:
        return r"cannot hold \x00" if b"\0" in os.fsencode(path) else None
    except UnicodeEncodeError:
        return "cannot hold a lone surrogate"
