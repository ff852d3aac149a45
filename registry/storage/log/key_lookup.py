"""Bounded reads for people who look through a log: keys by their beginning, and a key's revisions.

Each call reads a limited number of rows, however many the log has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from sqlalchemy import Connection, Integer, Select, bindparam, func, select, text, tuple_

from registry.storage.database.models import SampleRow
from registry.storage.log.entries import Entry, entries_among
from registry.storage.log.records import records_at

_STEPS = 200
"""Index entries that a search of keys visits, at most: other datasets may have the same keys."""
_LAST_DATASET = (1 << 31) - 1


@dataclass(frozen=True)
class StoredRevision:
    """A row of the log with its record, None if it has none or if it is too large to be read."""

    entry: Entry
    size: int
    record: bytes | None


# By the index of keys, each step to the first entry after the last one: revisions of a key are
# passed over, and so are the keys of datasets that this one does not have.
_NEXT = (
    select(SampleRow.key, SampleRow.dataset_id)
    .where(
        tuple_(SampleRow.key, SampleRow.dataset_id)
        > tuple_(bindparam("key", type_=SampleRow.key.type), bindparam("dataset", type_=Integer()))
    )
    .order_by(SampleRow.key, SampleRow.dataset_id, SampleRow.position.desc())
    .limit(1)
)


def keys_beginning(connection: Connection, dataset_id: int, start: str, limit: int) -> list[str]:
    """Return the first keys of a dataset that begin with a text, in their order, also retracted."""
    keys: list[str] = []
    parameters = {"key": start, "dataset": dataset_id - 1}
    for _ in range(_STEPS):
        row = connection.execute(_NEXT, parameters).one_or_none()
        if row is None or not row.key.startswith(start) or len(keys) == limit:
            break
        if row.dataset_id == dataset_id:
            keys.append(row.key)
        # To this dataset if the key is one of an earlier one, else to the next key.
        earlier = row.dataset_id < dataset_id
        parameters = {"key": row.key, "dataset": dataset_id - 1 if earlier else _LAST_DATASET}
    return keys


def newest_positions(
    connection: Connection, dataset_id: int, key: str, until: int, limit: int
) -> list[int]:
    """Return the positions of a key's newest revisions before a position, the newest first."""
    parameters = {"key": key, "dataset": dataset_id, "until": until, "most": limit}
    statement = _positions(connection.dialect.name)
    return [int(row[0]) for row in connection.execute(statement, parameters)]


def stored_revisions(
    connection: Connection, dataset_id: int, positions: Sequence[int], most_bytes: int
) -> list[StoredRevision]:
    """Return the rows at these positions, in the order given.

    Records are read in this order up to ``most_bytes`` together; longer ones are left out.
    """
    if not positions:
        return []
    wanted = np.array(positions, np.int64)
    entries = {each.position: each for each in entries_among(connection, dataset_id, wanted)}
    lengths = select(SampleRow.position, func.length(SampleRow.record)).where(
        SampleRow.dataset_id == dataset_id, SampleRow.position.in_(positions)
    )
    sizes = {row[0]: row[1] or 0 for row in connection.execute(lengths)}
    chosen, total = [], 0
    for position in positions:
        if sizes[position] and total + sizes[position] <= most_bytes:
            chosen.append(position)
            total += sizes[position]
    records = dict(zip(chosen, records_at(connection, dataset_id, chosen), strict=True))
    return [StoredRevision(entries[at], sizes[at], records.get(at)) for at in positions]


def chain_of_record(connection: Connection, dataset_id: int, position: int) -> bytes | None:
    """Return the chain of the row at a position, which says what it holds and all rows before.

    None if it holds nothing: if there is no such row, and for retractions and erased rows.
    """
    query = select(SampleRow.chain).where(
        SampleRow.dataset_id == dataset_id,
        SampleRow.position == position,
        func.length(SampleRow.record) > 0,
    )
    return connection.execute(query).scalar_one_or_none()


def superseded_at(connection: Connection, dataset_id: int, position: int) -> int | None:
    """Return the position of the row that supersedes the one at a position; None if none does."""
    query = select(SampleRow.position).where(
        SampleRow.supersedes == position, SampleRow.dataset_id == dataset_id
    )
    row = connection.execute(query).first()
    return None if row is None else int(row[0])


@cache
def _positions(dialect: str) -> Select[Any] | Any:
    if dialect == "sqlite":
        # INDEXED BY: SQLite would otherwise search the primary key, which has the same order.
        return text(
            "SELECT position FROM samples INDEXED BY ix_samples_key WHERE dataset_id = :dataset "
            "AND key = :key AND position < :until ORDER BY position DESC LIMIT :most"
        )
    # Pairs, and all three columns of the order: only ix_samples_key fits both.
    pair, same = (
        tuple_(SampleRow.key, SampleRow.dataset_id),
        tuple_(bindparam("key"), bindparam("dataset")),
    )
    return (
        select(SampleRow.position)
        .where(pair >= same, pair <= same, SampleRow.position < bindparam("until"))
        .order_by(SampleRow.key, SampleRow.dataset_id, SampleRow.position.desc())
        .limit(bindparam("most"))
    )
