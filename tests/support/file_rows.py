"""Rows of files, as an import that stops at the first fault reads them."""

from __future__ import annotations

from collections.abc import Iterable

from registry.io.row import FileRow


def fitting(rows: Iterable[FileRow]) -> list[FileRow]:
    """Return the rows; raises the error of the first one that cannot be read."""
    checked = []
    for row in rows:
        if row.error is not None:
            raise row.error
        checked.append(row)
    return checked
