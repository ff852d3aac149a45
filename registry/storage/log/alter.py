"""Changing a dataset's schema, under the lock on its head.

Rows before the change keep their records, and writers bring what they have encoded to the new
schema when they take the lock. A commit whose answer was lost is recognized by the schema itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from registry.samples.schema import Schema
from registry.storage.database.retry import PATIENCE, retrying
from registry.storage.database.transactions import writing
from registry.storage.log import divergence
from registry.storage.log.head import lock_head, store_schema
from registry.storage.log.notifications import notify
from registry.storage.log.schemas import Schemas, insert_schema


def alter(schemas: Schemas, change: Callable[[Schema], Schema]) -> Schema:
    """Put the schema that ``change`` makes of the one in force, in force; return it.

    Nothing is changed if ``change`` raises an error. It is called again after a lost connection.
    """
    engine, dataset_id = schemas.engine, schemas.dataset_id
    sent: Schema | None = None
    for attempt in retrying(PATIENCE, engine):
        with attempt, writing(engine) as connection:
            head = lock_head(connection, dataset_id)
            divergence.check(connection, dataset_id, head)
            present = schemas.in_force(connection, head)
            # An attempt before this one was committed, although its answer was lost.
            if sent is not None and schemas.has(sent):
                break
            sent = replace(change(present), number=present.number + 1, since=head.position)
            insert_schema(connection, dataset_id, sent)
            store_schema(connection, dataset_id, sent.number)
    assert sent is not None
    # After the commit: a schema that was rolled back must not be known.
    schemas.add(sent)
    notify(engine, dataset_id)
    return sent
