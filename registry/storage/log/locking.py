"""Locks a dataset's head and, in the same round trip, reads what a writer is known to need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from registry.errors import RegistryError
from registry.storage.database.transactions import driver
from registry.storage.log import few_rows
from registry.storage.log.batch import Batch
from registry.storage.log.head import Head, lock, lock_head, locked
from registry.storage.log.lookup import Row, lookup


class LookedUp(NamedTuple):
    """Keys, and the rows of `lookup` for them, as of when the head was locked."""

    keys: frozenset[str]
    rows: Sequence[Row]


def few_keys(batches: Sequence[Batch | RegistryError]) -> frozenset[str]:
    """Return the keys that must be looked up before batches are appended; none if they are many."""
    keys: set[str] = set()
    for batch in batches:
        if isinstance(batch, Batch) and not batch.fresh:
            if len(keys) + len(batch.keys) > few_rows.ROWS:
                return frozenset()
            keys.update(batch.keys)
    return frozenset(keys)


def lock_and_look_up(
    connection: Connection, dataset_id: int, keys: frozenset[str]
) -> tuple[Head, LookedUp | None]:
    """Lock the head as `lock_head` does; on PostgreSQL, also look keys up."""
    if connection.dialect.name != "postgresql":
        return lock_head(connection, dataset_id), None
    queries = [lock(dataset_id)]
    if keys:
        # It runs when the lock is taken, and with a new snapshot: it has what others committed
        # meanwhile, and stays true until this transaction ends.
        queries.append(lookup(dataset_id, keys))
    head, *rows = driver(connection).exchange(queries)
    return locked(head), LookedUp(keys, rows[0]) if rows else None
