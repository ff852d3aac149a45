"""Which of many keys a log has, and their revisions, without records: one statement for all."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from registry.storage.database.transactions import driver


class RevisionSize(NamedTuple):
    """A revision's position, its record's bytes (None for a retraction, 0 if erased), its group."""

    position: int
    size: int | None
    group: str | None


# Row comparisons, as in `lookup`: only ix_samples_key has their order, so that the planner has no
# other choice. With = and a dataset newer than the statistics, it could scan the log for each key.
_POSTGRESQL = """
    SELECT wanted.key, revision.* FROM json_array_elements_text(%(keys)s::json) AS wanted (key)
    CROSS JOIN LATERAL (
        SELECT position, octet_length(record), group_key FROM samples
        WHERE (key, dataset_id) >= (wanted.key COLLATE "C", %(dataset_id)s)
            AND (key, dataset_id) <= (wanted.key COLLATE "C", %(dataset_id)s)
            AND position >= %(since)s
        ORDER BY key, dataset_id, position DESC
    ) AS revision
"""
_SQLITE = """
    SELECT wanted.value, samples.position, length(samples.record), samples.group_key
    FROM json_each(:keys) AS wanted CROSS JOIN samples INDEXED BY ix_samples_key
    ON samples.key = wanted.value AND samples.dataset_id = :dataset_id
        AND samples.position >= :since
"""


# From the index alone: of a long record, SQLite would read all to find the row after it.
_STORED_POSTGRESQL = """
    SELECT wanted.key FROM json_array_elements_text(%(keys)s::json) AS wanted (key)
    CROSS JOIN LATERAL (
        SELECT FROM samples
        WHERE (key, dataset_id) >= (wanted.key COLLATE "C", %(dataset_id)s)
            AND (key, dataset_id) <= (wanted.key COLLATE "C", %(dataset_id)s)
        ORDER BY key, dataset_id, position DESC LIMIT 1
    ) AS revision
"""
_STORED_SQLITE = """
    SELECT wanted.value FROM json_each(:keys) AS wanted WHERE EXISTS (
        SELECT 1 FROM samples INDEXED BY ix_samples_key
        WHERE samples.key = wanted.value AND samples.dataset_id = :dataset_id
    )
"""


def stored_keys(connection: Connection, dataset_id: int, keys: Collection[str]) -> set[str]:
    """Return which of the keys a dataset ever had."""
    rows = _of_keys(connection, (_STORED_POSTGRESQL, _STORED_SQLITE), dataset_id, keys)
    return {key for (key,) in rows}


def revision_sizes(
    connection: Connection, dataset_id: int, keys: Collection[str], since: int = 0
) -> dict[str, list[RevisionSize]]:
    """Return the revisions of each key from position ``since`` on, oldest first.

    Keys without any are left out.
    """
    rows = _of_keys(connection, (_POSTGRESQL, _SQLITE), dataset_id, keys, since=since)
    revisions = defaultdict(list)
    for key, *revision in sorted(rows, key=lambda row: row[1]):
        revisions[key].append(RevisionSize(*revision))
    return dict(revisions)


def _of_keys(
    connection: Connection,
    statements: tuple[str, str],
    dataset_id: int,
    keys: Collection[str],
    **more: int,
) -> Sequence[Sequence[Any]]:
    """Execute the statement of this database, PostgreSQL's or SQLite's."""
    # In the order of the index, so that consecutive keys are found on the same page of it.
    document = json.dumps(sorted(keys), ensure_ascii=False)
    parameters = {"keys": document, "dataset_id": dataset_id, **more}
    if connection.dialect.name != "postgresql":
        return connection.exec_driver_sql(statements[1], parameters).fetchall()
    with driver(connection).cursor(binary=True) as cursor:
        return cursor.execute(statements[0], parameters).fetchall()
