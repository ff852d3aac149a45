"""Text that every database keeps exactly as it was given, and names as SQL takes them."""

from __future__ import annotations

import os
from pathlib import Path


def fault(value: object) -> str | None:
    """Say what is wrong with a value, after "a name …"; None where it is such text."""
    if not isinstance(value, str):
        return f"is text, not {type(value).__name__}"
    if "\0" in value:
        return r"cannot hold \x00"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "cannot hold a lone surrogate"
    return None


def quoted(name: str) -> str:
    """Quote an identifier for psql, too: SQLAlchemy would double percent signs for the driver."""
    return '"' + name.replace('"', '""') + '"'


def path_fault(path: Path) -> str | None:
    """Say what is wrong with a path that no file can have; None for any other."""
    try:
        return r"cannot hold \x00" if b"\0" in os.fsencode(path) else None
    except UnicodeEncodeError:
        return "cannot hold a lone surrogate"
