"""The latest revision of each key, read without its record wherever the length is enough.

The length of a record is enough to retract it, and most often to replace it: a record of another
length differs. Only a record of the same length as its successor is compared with it, by a hash if
it is long, and some MiB at a time. So a batch takes no memory for the records that it replaces.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from sqlalchemy import Connection, Integer, bindparam, select, tuple_

from registry.samples.projection import Projection
from registry.storage.database.exchange import INT4, JSON, Query, Statement, int4
from registry.storage.database.models import SampleRow
from registry.storage.database.transactions import driver
from registry.storage.log.records import LONG, fingerprint, fingerprints_at, records_at

Item = TypeVar("Item")
Row = Any
"""A key, the position of its latest revision, the length of its record, the record, its group."""

# Kept: `json.dumps` would make an encoder for each call.
_ENCODER = json.JSONEncoder(ensure_ascii=False)

_SHORT = 2048
"""Bytes up to which a record is read with its key, even if all of them exceed `_GROUP`."""
_GROUP = 16 << 20
"""Bytes of records that are read together, unless a single one is larger."""


class Older(Protocol):
    """The rows of a log that were written in an older layout than the one in force."""

    def projection(self, position: int) -> Projection | None:
        """Return how the record at a position is brought to the layout; None if it has it."""


class Stored(NamedTuple):
    """The size in bytes of a record that was not read and differs from all it was compared with."""

    size: int


class Latest(NamedTuple):
    """The latest revision of a key: its position, its record (None for a retraction), its group."""

    position: int
    record: bytes | Stored | None
    group: str | None = None


NEVER = Latest(-1, None)
"""Stands for the latest revision of a key that the dataset never had."""

# Keys are sent as JSON: for psycopg, converting a list to an array costs more than the search.
# Each key is searched as the first entry at or after it: only ix_samples_key has this order, so the
# planner has no other choice. The length of a record that is stored out of line (TOAST) is in the
# row itself, so that no long record is read.
_POSTGRESQL = Statement(
    b"""
    SELECT wanted.key, revision.position, octet_length(revision.record),
        CASE WHEN octet_length(revision.record) <= $3 THEN revision.record END,
        revision.group_key
    FROM json_array_elements_text($1) AS wanted (key)
    CROSS JOIN LATERAL (
        SELECT dataset_id, key, position, record, group_key FROM samples
        WHERE (key, dataset_id) >= (wanted.key COLLATE "C", $2)
        ORDER BY key, dataset_id, position DESC LIMIT 1
    ) AS revision
    WHERE revision.dataset_id = $2 AND revision.key = wanted.key
    """,
    (JSON, INT4, INT4),
)
# Without both hints, SQLite scans the whole log for every batch: CROSS JOIN fixes the order of the
# tables, INDEXED BY the index that finds the maximum.
_SQLITE = """
    SELECT samples.key, samples.position, length(samples.record),
        CASE WHEN length(samples.record) <= ? THEN samples.record END, samples.group_key
    FROM json_each(?) AS wanted
    CROSS JOIN samples ON samples.dataset_id = ? AND samples.position = (
        SELECT max(position) FROM samples INDEXED BY ix_samples_key
        WHERE dataset_id = ? AND key = wanted.value
    )
"""

# Built once: SQLAlchemy needs as long to construct such a statement as SQLite to execute it.
_FIRST_FROM = (
    select(SampleRow.key)
    .where(
        tuple_(SampleRow.key, SampleRow.dataset_id)
        >= tuple_(bindparam("low", type_=SampleRow.key.type), bindparam("dataset", type_=Integer()))
    )
    .order_by(SampleRow.key, SampleRow.dataset_id, SampleRow.position.desc())
    .limit(1)
)


def latest(
    connection: Connection,
    dataset_id: int,
    keys: Collection[str],
    compared: Iterable[tuple[str, bytes | None]] = (),
    older: Older | None = None,
    rows: Sequence[Row] | None = None,
) -> dict[str, Latest]:
    """Return the latest revision of each key that the dataset has ever had, by key.

    A record is included where it equals one that ``compared`` gives for its key; others may be
    `Stored`. ``older`` has the rows that were written in an older layout than that of the compared
    records: theirs are brought to it. ``rows`` are those of `lookup`, if it has been run.
    """
    if rows is None:
        if not keys or not _any_between(connection, dataset_id, min(keys), max(keys)):
            return {}
        # In the order of the index, so that consecutive keys are found on the same page of it.
        rows = _rows(connection, dataset_id, sorted({*keys}))
    revisions: dict[str, Latest] = {}
    unread = False
    for key, position, size, record, group in rows:
        if record is None and size is not None:
            revisions[key] = Latest(position, Stored(size), group)
            unread = True
        else:
            projection = older and older.projection(position)
            brought = projection.forward(record) if projection and record else record
            revisions[key] = Latest(position, brought, group)
    if unread:
        _compare(connection, dataset_id, revisions, compared, older)
    return revisions


def _compare(
    connection: Connection,
    dataset_id: int,
    revisions: dict[str, Latest],
    compared: Iterable[tuple[str, bytes | None]],
    older: Older | None,
) -> None:
    """Put the record into each one of the revisions whose record equals a compared one."""
    # By key, each record as it was stored, and as it is compared.
    candidates: dict[str, list[tuple[bytes, bytes]]] = {}
    for key, record in compared:
        if record is None or key not in revisions:
            continue
        revision = revisions[key]
        projection = older and older.projection(revision.position)
        original = projection.original(record) if projection else record
        if original is not None and revision.record == Stored(len(original)):
            candidates.setdefault(key, []).append((original, record))
    # A long record is sent as a hash, so that it counts no more than `LONG` bytes.
    sizes = ((key, min(len(records[0][0]), LONG)) for key, records in candidates.items())
    for keys in _groups(sizes):
        positions = [revisions[key].position for key in keys]
        stored = fingerprints_at(connection, dataset_id, positions)
        for key, proof in zip(keys, stored, strict=True):
            for original, record in candidates[key]:
                if fingerprint(original) == proof:
                    revisions[key] = revisions[key]._replace(record=record)


def record_of(
    connection: Connection, dataset_id: int, revision: Latest, older: Older | None = None
) -> bytes | None:
    """Return a revision's record, which is read from the database if it was not yet.

    ``older`` is as for `latest`.
    """
    if not isinstance(revision.record, Stored):
        return revision.record
    (record,) = records_at(connection, dataset_id, [revision.position])
    projection = older and older.projection(revision.position)
    return projection.forward(record) if projection else record


def size_of(revision: Latest) -> int:
    """Return the size of a revision's record in bytes; 0 for a retraction."""
    record = revision.record
    return record.size if isinstance(record, Stored) else len(record or b"")


class RecordReader:
    """Reads records by position, ahead of the requests and some MiB at a time.

    ``order`` has the revisions in the order in which their records will be requested; some may not
    be. ``older`` has the rows whose records are brought to a newer layout. Not thread-safe.
    """

    def __init__(
        self,
        connection: Connection,
        dataset_id: int,
        order: Iterable[Latest],
        older: Older | None = None,
    ) -> None:
        self._connection = connection
        self._dataset_id = dataset_id
        self._older = older
        self._groups = _groups(
            (each.position, each.record.size) for each in order if isinstance(each.record, Stored)
        )
        self._read: dict[int, bytes] = {}

    def __call__(self, position: int) -> bytes:
        """Return the record at a position."""
        while position not in self._read:
            group = next(self._groups)
            # Freed first: otherwise two groups of records would be in memory at once.
            self._read = {}
            records = records_at(self._connection, self._dataset_id, group)
            self._read = dict(zip(group, records, strict=True))
        projection = self._older and self._older.projection(position)
        record = self._read[position]
        return projection.forward(record) if projection else record


def _groups(sized: Iterable[tuple[Item, int]]) -> Iterator[list[Item]]:
    """Yield lists of consecutive items that are at most `_GROUP` bytes together, or one larger."""
    group: list[Item] = []
    total = 0
    for item, size in sized:
        total += size
        if group and total > _GROUP:
            yield group
            group, total = [], size
        group.append(item)
    if group:
        yield group


def lookup(dataset_id: int, keys: Collection[str]) -> Query:
    """Return PostgreSQL's query of the latest revisions of some keys, for `latest`."""
    values = (_json(keys), int4(dataset_id), int4(_short(keys)))
    return Query(_POSTGRESQL, values)


def _rows(connection: Connection, dataset_id: int, keys: Collection[str]) -> Sequence[Row]:
    if connection.dialect.name == "postgresql":
        (rows,) = driver(connection).exchange([lookup(dataset_id, keys)])
        return rows
    parameters = (_short(keys), _json(keys).decode(), dataset_id, dataset_id)
    return connection.exec_driver_sql(_SQLITE, parameters).fetchall()


def _json(keys: Collection[str]) -> bytes:
    return _ENCODER.encode([*keys]).encode()


def _short(keys: Collection[str]) -> int:
    """Return up to how many bytes a record is read with its key."""
    return max(_SHORT, min(LONG, _GROUP // len(keys)))


def _any_between(connection: Connection, dataset_id: int, low: str, high: str) -> bool:
    """Return whether the dataset may have any key from ``low`` to ``high``, both included.

    A bulk load often inserts keys in their order: then this one search replaces thousands. Keys
    compare by bytes in both databases, which for UTF-8 is the order of Python's strings. In another
    order, existing keys would be treated as new.
    """
    parameters = {"low": low, "dataset": dataset_id}
    first = connection.execute(_FIRST_FROM, parameters).scalar_one_or_none()
    return first is not None and first <= high
