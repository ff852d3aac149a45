"""Erasure: a sample's content is removed permanently, while its rows keep their positions.

The rows' records become empty, which no stored record is. Positions, keys, buckets and chain values
stay, so that the rest of the log can be verified as before. A retraction is appended for each key,
so that the log records every erasure. Mirrors overwrite the rows in their next update.

An erasure has these steps:

1. All keys are looked up. One that is unknown is refused before anything is changed.
2. Rows of the inbox are deleted, except those of keys that the log does not have.
3. The log's records are emptied under the lock on the head, some rows in each transaction, so that
   other writers get the lock in between.
4. The other keys' rows in the inbox are deleted, and what reached the log meanwhile is emptied.
5. The database is made to release the bytes from its files.

If it is interrupted, the same erasure, run again, completes it: until the fourth step, all keys
are known, and rows that are empty already are left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    LargeBinary,
    cast,
    column,
    delete,
    func,
    select,
    update,
)

from registry.errors import SampleNotFoundError
from registry.samples.keys import check_key
from registry.storage.database.models import InboxRow, SampleRow, ToolAnnotationRow
from registry.storage.database.sql import is_any_of
from registry.storage.database.transactions import driver, read, write
from registry.storage.log.batch import Plan
from registry.storage.log.head import read_head, store_erased_count
from registry.storage.log.raw_text import decode, raw
from registry.storage.log.revision_sizes import RevisionSize, revision_sizes, stored_keys
from registry.storage.log.vacuum import vacuum
from registry.storage.log.writer import Writer, transact

SOURCE = "erase"
"""The source that the appended retractions carry."""
_KEYS = 1000
"""Keys that are looked up at a time."""
_ROWS = 1000
_BYTES = 16 << 20
"""Rows that are emptied in one transaction, and bytes of their records, unless one has more."""


@dataclass(frozen=True)
class Erasure:
    """What was erased: rows of the log, and waiting or rejected rows of the inbox.

    ``remains`` says where the database's own files may still contain the bytes and what to do about
    it; None where they do not.
    """

    rows: int
    inbox_rows: int
    remains: str | None


def erase(engine: Engine, dataset_id: int, keys: Sequence[str], *, full: bool) -> Erasure:
    """Erase all content that a dataset ever had under some keys.

    The log is changed in transactions of some rows each; an erasure that was interrupted is
    completed by the same call. With ``full``, PostgreSQL rewrites its tables. Raises
    `SampleNotFoundError`, before anything is changed, for a key that the dataset never had.
    """
    for key in keys:
        check_key(key)
    distinct = list(dict.fromkeys(keys))
    # In this order: a row that leaves the inbox in between is in the log when that is searched.
    waiting = read(engine, _in_inbox, dataset_id, distinct)
    stored = _in_log(engine, dataset_id, distinct)
    for key in distinct:
        if key not in stored and key not in waiting:
            raise SampleNotFoundError(key)
    rows = inbox_rows = 0
    # The keys of the inbox alone come last: without its rows, they are unknown, and an erasure that
    # is run again would be refused.
    for some in ([*stored], [key for key in distinct if key not in stored]):
        # Before the head is locked: a tool's transaction may hold these rows for any time, and
        # every writer of the dataset would wait for it.
        inbox_rows += write(engine, _empty_inbox, dataset_id, some)
        rows += _empty_log(engine, dataset_id, some)
    return Erasure(rows, inbox_rows, vacuum(engine, full=full))


def _in_inbox(connection: Connection, dataset_id: int, keys: Sequence[str]) -> set[str]:
    """Return which of the keys have rows in the inbox."""
    if not keys:  # PostgreSQL knows no type for an array of nothing
        return set()
    rows = select(raw(InboxRow.key, connection.dialect.name)).distinct()
    stored = connection.execute(rows.where(*_of_keys(connection, dataset_id, keys))).scalars()
    return {decode(key, "the key") for key in stored}


def _empty_inbox(connection: Connection, dataset_id: int, keys: Sequence[str]) -> int:
    """Delete the inbox's rows of the keys; return their number."""
    if not keys:
        return 0
    rows = delete(InboxRow).where(*_of_keys(connection, dataset_id, keys))
    return connection.execute(rows).rowcount


def _in_log(engine: Engine, dataset_id: int, keys: Sequence[str]) -> dict[str, None]:
    """Return which of the keys the log has, in their order."""
    stored: dict[str, None] = {}
    for some in _slices(keys, _KEYS):
        known = read(engine, stored_keys, dataset_id, some)
        stored |= dict.fromkeys(key for key in some if key in known)
    return stored


def _of_keys(
    connection: Connection, dataset_id: int, keys: Collection[str]
) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for the inbox's rows of some keys."""
    stored_key = raw(InboxRow.key, connection.dialect.name)
    if connection.dialect.name == "postgresql":
        return InboxRow.dataset_id == dataset_id, is_any_of(connection, stored_key, keys)
    # SQLite may hold a key as a blob, which equals no text. Compared as bytes, it is found, too.
    each = func.json_each(json.dumps([*keys], ensure_ascii=False))
    wanted = select(cast(column("value"), LargeBinary)).select_from(each)
    return InboxRow.dataset_id == dataset_id, stored_key.in_(wanted)


def _slices(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (keys[start : start + size] for start in range(0, len(keys), size))


def _empty_log(engine: Engine, dataset_id: int, keys: Sequence[str]) -> int:
    """Empty the records of keys in short transactions; return how many rows lost theirs."""
    return sum(
        _empty(engine, dataset_id, part)
        for some in _slices(keys, _KEYS)
        for part in read(engine, _parts, dataset_id, some)
    )


@dataclass
class _Part:
    """Rows that are emptied together: the positions of each key's records, and its last revision.

    ``since`` is where the log ended when they were read.
    """

    since: int
    last: dict[str, RevisionSize] = field(default_factory=dict)
    positions: dict[str, list[int]] = field(default_factory=dict)
    rows: int = 0
    size: int = 0


def _parts(connection: Connection, dataset_id: int, keys: Sequence[str]) -> list[_Part]:
    """Read the revisions of keys, and divide those that have records; without the lock."""
    # First: a revision that is appended meanwhile is then read again, and not missed.
    since = read_head(connection, dataset_id)[0].position
    part = _Part(since)
    parts = [part]
    for key, revisions in revision_sizes(connection, dataset_id, keys).items():
        for position, size, _ in revisions:
            # A size of 0 is a row that was erased before, None a retraction: neither has a record.
            if not size:
                continue
            if part.rows and (part.rows == _ROWS or part.size + size > _BYTES):
                parts.append(part := _Part(since))
            part.last[key] = revisions[-1]
            part.positions.setdefault(key, []).append(position)
            part.rows += 1
            part.size += size
    return [part for part in parts if part.rows]


def _empty(engine: Engine, dataset_id: int, part: _Part) -> int:
    """Empty a part's records in a transaction; return how many rows lost theirs."""
    locked = 0.0

    def work(writer: Writer) -> int:
        nonlocal locked
        locked = time.monotonic()
        return _erase(writer, part)

    count = transact(engine, dataset_id, work)
    # PostgreSQL's writers queue for the lock. Those of SQLite ask again after a pause, and would
    # find it taken each time: it is left free for as long as it was held.
    if engine.dialect.name == "sqlite":
        time.sleep(time.monotonic() - locked)
    return count


def _erase(writer: Writer, part: _Part) -> int:
    """Empty a part's records under the lock on the head; return how many rows lost theirs."""
    connection, dataset_id = writer.connection, writer.dataset_id
    last, positions = dict(part.last), dict(part.positions)
    if writer.head.position > part.since:
        for key, newer in revision_sizes(connection, dataset_id, last, part.since).items():
            last[key] = newer[-1]
            positions[key] = [*positions[key], *(row.position for row in newer if row.size)]
    # Another process may have erased some of them since they were read.
    stored = _with_records(connection, dataset_id, [p for each in positions.values() for p in each])
    keys = [key for key, each in positions.items() if not stored.isdisjoint(each)]
    if not keys:
        return 0
    # A key that is already retracted gets another retraction, which does not change the live count.
    groups = [last[key].group for key in keys]
    retracted = [last[key].size is not None for key in keys]
    writer.write(
        [
            Plan(
                keys,
                [None] * len(keys),
                [last[key].position for key in keys],
                [SOURCE] * len(keys),
                inserted=0,
                retracted=sum(retracted),
                groups=groups if any(groups) else None,
                gains=[-each for each in retracted],
            )
        ]
    )
    _blank(writer, sorted(stored))
    forget_answers(connection, dataset_id, keys)
    return len(stored)


def _with_records(connection: Connection, dataset_id: int, positions: Sequence[int]) -> set[int]:
    """Return which of the rows at these positions have records."""
    rows = select(SampleRow.position).where(
        SampleRow.dataset_id == dataset_id,
        is_any_of(connection, SampleRow.position, positions),
        func.length(SampleRow.record) > 0,
    )
    return {*connection.execute(rows).scalars()}


def forget_answers(connection: Connection, dataset_id: int, tasks: Sequence[str]) -> None:
    """Remove the annotators' answers of tasks that have one sample each, and the tasks' data."""
    connection.execute(
        update(ToolAnnotationRow)
        .where(
            ToolAnnotationRow.dataset_id == dataset_id,
            is_any_of(connection, ToolAnnotationRow.task, tasks),
        )
        .values(fields=None)
    )


# One statement for all rows of a part: one for each would keep the lock ten times as long.
_NUMBER_POSTGRESQL = b"""
    INSERT INTO erasures (dataset_id, number, position)
    SELECT %s, %s + rank - 1, position
    FROM unnest(%s::bigint[]) WITH ORDINALITY AS erased (position, rank)
"""
_NUMBER_SQLITE = """
    INSERT INTO erasures (dataset_id, number, position)
    SELECT ?, ? + key, value FROM json_each(?)
"""


def _blank(writer: Writer, positions: Sequence[int]) -> None:
    """Empty the rows' records, and number the rows among the dataset's erasures.

    The numbers continue those of earlier erasures. A mirror asks for the ones after its last.
    """
    connection, dataset_id, first = writer.connection, writer.dataset_id, writer.head.erased
    connection.execute(
        update(SampleRow)
        .where(
            SampleRow.dataset_id == dataset_id,
            is_any_of(connection, SampleRow.position, positions),
        )
        .values(record=b"")
    )
    if connection.dialect.name == "postgresql":
        driver(connection).execute(_NUMBER_POSTGRESQL, (dataset_id, first, positions))
    else:
        document = json.dumps(positions)
        connection.exec_driver_sql(_NUMBER_SQLITE, (dataset_id, first, document))
    store_erased_count(connection, dataset_id, first + len(positions))
