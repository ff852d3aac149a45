"""Quarantine: samples that do not fit are stored as rejected rows in the inbox, not in the log."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from sqlalchemy import Connection, insert

from registry.io.labeling.annotation_state import AnnotationState
from registry.storage.database.models import InboxRow

_DEEPEST = 32


def keep(
    connection: Connection, dataset_id: int, tool: str, rejected: Mapping[str, AnnotationState]
) -> None:
    """Insert rejected samples, given by their keys, into the inbox with the reason."""
    # In the transaction that retracts the old samples: a rejected one must not be lost.
    if rejected:
        connection.execute(
            insert(InboxRow),
            [
                {
                    "dataset_id": dataset_id,
                    "key": key,
                    "fields": storable(state.values or {}),
                    "action": "insert",
                    "source": tool,
                    "error": storable(str(state.error)),
                }
                for key, state in rejected.items()
            ],
        )


def storable(value: Any, depth: int = 0) -> Any:
    r"""Return the value as JSON that SQLite and PostgreSQL can store.

    Parts that they cannot store (``\x00``, lone surrogates, numbers that are not finite, deep
    nesting) are replaced, not left out, so that a person sees them.
    """
    # Without the limit, the recursion here or in the JSON encoder would fail.
    if isinstance(value, Mapping | list) and depth == _DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        return {storable(str(name)): storable(each, depth + 1) for name, each in value.items()}
    if isinstance(value, list):
        return [storable(each, depth + 1) for each in value]
    if isinstance(value, int):
        # A bool is an int, too, and is returned unchanged.
        return value if abs(value) < 1 << 64 else hex(value)
    if value is None or (isinstance(value, float) and isfinite(value)):
        return value
    return str(value).replace("\0", "\ufffd").encode(errors="replace").decode()
