"""Copying the rejected rows of the inbox, which have no key that both databases share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, func, insert, null, select
from sqlalchemy.exc import DataError, IntegrityError

from registry.catalog.copy.rows import Scope
from registry.storage.database.models import InboxRow
from registry.storage.log.raw_text import decode, raw, readable

_TEXTS = ("key", "fields", "action", "source", "error", "group_key")


def copy_rejected(source: Scope, target: Scope) -> tuple[int, int]:
    """Copy rejected inbox rows, each once; return how many the copy has and how many it lacks.

    Rows that still wait are not copied. Both databases would move them to their logs, and a sample
    whose key is generated then would exist twice. Nor are rows copied that only SQLite can store,
    or whose action is unknown.
    """
    connection, dataset_id = source
    waiting = select(func.count()).where(
        InboxRow.dataset_id == dataset_id, InboxRow.error.is_(None)
    )
    left: int = connection.execute(waiting).scalar_one()
    # Counted, not a set: rows that are equal are still several.
    known = Counter(map(_identity, _read_rejected(*target)))
    copied = known.total()
    for row in _read_rejected(*source):
        if known[_identity(row)]:
            known[_identity(row)] -= 1
        elif _insert_rejected(row, target):
            copied += 1
        else:
            left += 1
    return copied, left


def _insert_rejected(row: Mapping[str, Any], target: Scope) -> bool:
    """Store a rejected row; return False if the database cannot store it."""
    connection, dataset_id = target
    try:
        texts = {name: None if row[name] is None else decode(row[name], name) for name in _TEXTS}
        fields = null() if texts["fields"] is None else json.loads(texts["fields"])
        values = {**texts, "fields": fields, "dataset_id": dataset_id}
        # A savepoint: on PostgreSQL, an error would otherwise abort the whole transaction.
        with connection.begin_nested():
            connection.execute(insert(InboxRow).values(**values, created_at=row["created_at"]))
    # ValueError: a text is not UTF-8, or the fields are not JSON. DataError: only SQLite can store
    # the value, such as U+0000. IntegrityError: a row with an unknown action, which is older than
    # the trigger that refuses it.
    except (ValueError, DataError, IntegrityError):
        return False
    return True


def _read_rejected(connection: Connection, dataset_id: int) -> list[dict[str, Any]]:
    """Read the rejected rows, oldest first, with their texts as str or bytes.

    On SQLite a text may not be UTF-8, and ``fields`` may not be JSON.
    """
    dialect = connection.dialect.name
    query = (
        select(
            InboxRow.created_at,
            *(raw(getattr(InboxRow, name), dialect).label(name) for name in _TEXTS),
        )
        .where(InboxRow.dataset_id == dataset_id, InboxRow.error.is_not(None))
        .order_by(InboxRow.id)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what identifies a rejected row: all but its fields.

    PostgreSQL formats JSON in its own way, so equal fields can have different texts.
    """
    texts = (readable(row[name]) for name in _TEXTS if name != "fields")
    return (row["created_at"], *texts)
