"""What is counted of each row of a log, as arrays, and how it is read from the database.

Of a record only the bytes of its class labels are read, so that large samples cost no more than
small ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import ColumnElement, Connection, select

from registry.samples.arrays import Positions
from registry.samples.features import ClassLabel
from registry.samples.schema import Schema
from registry.storage.database.models import SampleRow
from registry.storage.database.sql import is_any_of
from registry.storage.database.transactions import driver
from registry.storage.log.head import chain_at
from registry.storage.log.standby import missing_rows
from registry.training.value_columns import source_changes, text_hash

ROW = np.dtype(
    [
        ("supersedes", "<i8"),
        ("source", "<u8"),
        ("day", "<i4"),
        ("size", "<i4"),
        ("bucket", "<u2"),
        ("grouped", "u1"),
        ("unused", "u1"),
    ]
)
"""A row: the position that it supersedes or -1, the hash of its source, its day as the number of
days since 1970 in UTC, the bytes of its record, its bucket, and whether it has a group.

The size of a retraction is `RETRACTED`, that of an erased row `ERASED`."""
RETRACTED, ERASED = -1, 0
NO_CLASS = -1
"""The class of a row without a record."""
_GROUP_ROWS = 1 << 13
"""Rows that PostgreSQL concatenates to one value."""

Labels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class RowFacts:
    """Consecutive rows: ``rows`` of dtype `ROW`, and ``labels`` of shape ``(count, features)``."""

    rows: npt.NDArray[Any]
    labels: Labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | npt.NDArray[Any]) -> RowFacts:
        return RowFacts(self.rows[rows], self.labels[rows])

    @property
    def held(self) -> npt.NDArray[np.bool_]:
        """Which rows have a record."""
        held: npt.NDArray[np.bool_] = self.rows["size"] > 0
        return held

    @classmethod
    def empty(cls, count: int, labels: int) -> RowFacts:
        return cls(np.zeros(count, ROW), np.full((count, labels), NO_CLASS, np.int32))


@dataclass(frozen=True)
class CountedLabel:
    """A `ClassLabel`: its name, and its class in the rows from before it was added, if it was."""

    name: str
    default: int | None


@dataclass(frozen=True)
class ReadRows:
    """Rows that were read, with the chains before and after them.

    ``sources`` has the text by its hash, ``groups`` the hashes of the groups that begin here.
    """

    facts: RowFacts
    sources: dict[int, str | None]
    groups: npt.NDArray[np.uint64]
    chain_before: bytes | None
    chain: bytes | None


def counted_labels(schema: Schema) -> list[CountedLabel]:
    """Return the class labels of a schema, in order."""
    return [
        CountedLabel(name, _default(schema, name))
        for name, feature in schema.features.items()
        if isinstance(feature, ClassLabel)
    ]


def _default(schema: Schema, name: str) -> int | None:
    if name not in schema.defaults:
        return None
    return int(np.frombuffer(schema.codec.default_bytes(name), "<i4")[0])


def read_rows(
    connection: Connection,
    dataset_id: int,
    schema: Schema,
    labels: Sequence[CountedLabel],
    after: int,
    until: int,
) -> ReadRows:
    """Read the rows at positions ``[after, until)``, in all of which ``schema`` is in force.

    ``labels`` are those of this schema or of a newer one.
    """
    span = _Span.of(schema, labels)
    read = _postgresql if connection.dialect.name == "postgresql" else _sqlite
    rows, data = read(connection, dataset_id, span, after, until)
    if len(rows) != until - after:
        raise missing_rows(connection, dataset_id, after, until, len(rows))
    facts = RowFacts(rows, span.labels(rows["size"] > 0, data, labels))
    changes = source_changes(connection, dataset_id, after, until)
    hashes = [text_hash(None if source is None else source.encode()) for _, source in changes]
    starts = np.array([position - after for position, _ in changes], np.int64)
    lengths = np.diff(starts, append=len(rows))
    rows["source"] = np.repeat(np.array(hashes, np.uint64), lengths)
    return ReadRows(
        facts,
        dict(zip(hashes, [source for _, source in changes], strict=True)),
        _groups(connection, dataset_id, rows, after, until),
        # After the rows: a chain covers all rows before it, so that these belong to its history.
        chain_at(connection, dataset_id, after),
        chain_at(connection, dataset_id, until),
    )


@dataclass(frozen=True)
class _Span:
    """The bytes of a record that have its class labels, and their offsets in these, by name."""

    start: int
    size: int
    offsets: dict[str, int]

    @classmethod
    def of(cls, schema: Schema, labels: Sequence[CountedLabel]) -> _Span:
        fields = {
            label.name: schema.codec.layout.fixed_field(label.name)
            for label in labels
            if label.name in schema.features
        }
        if not fields:
            return cls(0, 0, {})
        start = min(offset for _, offset in fields.values())
        stop = max(offset + dtype.itemsize for dtype, offset in fields.values())
        return cls(start, stop - start, {name: f[1] - start for name, f in fields.items()})

    def labels(
        self, held: npt.NDArray[np.bool_], data: bytes, labels: Sequence[CountedLabel]
    ) -> Labels:
        """Return the classes of rows; ``data`` has the bytes of those that are held."""
        values = np.full((len(held), len(labels)), NO_CLASS, np.int32)
        bytes_of = np.frombuffer(data, np.uint8).reshape(-1, self.size) if self.size else None
        for column, label in enumerate(labels):
            offset = self.offsets.get(label.name)
            if offset is None:
                values[held, column] = label.default or 0
            elif bytes_of is not None:
                part = np.ascontiguousarray(bytes_of[:, offset : offset + 4])
                values[held, column] = part.view("<i4")[:, 0]
        return values


# As `page_queries` reads pages: the server concatenates, so that no row costs anything in Python.
# Buckets are unsigned and sent as int16, shifted by 32768.
_POSTGRESQL = b"""
    SELECT part.* FROM generate_series(%(after)s::bigint, %(until)s::bigint - 1, %(rows)s::bigint)
        AS edge CROSS JOIN LATERAL (
            SELECT string_agg(
                    int8send(coalesce(supersedes, -1))
                    || int4send((created_at AT TIME ZONE 'UTC')::date - DATE '1970-01-01')
                    || int4send(coalesce(octet_length(record), -1))
                    || int2send((bucket - 32768)::int2)
                    || int2send((group_key IS NOT NULL)::int4::int2),
                    '' ORDER BY position),
                string_agg(substring(record FROM %(start)s FOR %(size)s), '' ORDER BY position)
            FROM samples WHERE dataset_id = %(dataset_id)s AND position >= edge
                AND position < least(edge + %(rows)s::bigint, %(until)s::bigint)
        ) AS part
"""
_SENT = np.dtype(
    [("supersedes", ">i8"), ("day", ">i4"), ("size", ">i4"), ("bucket", ">i2"), ("grouped", ">i2")]
)
_SQLITE = """
    SELECT coalesce(supersedes, -1), strftime('%s', substr(created_at, 1, 10)) / 86400,
        coalesce(length(record), -1), bucket, group_key IS NOT NULL,
        CASE WHEN :size > 0 THEN substr(record, :start, :size) END
    FROM samples WHERE dataset_id = :dataset_id AND position >= :after AND position < :until
    ORDER BY position
"""


def _postgresql(
    connection: Connection, dataset_id: int, span: _Span, after: int, until: int
) -> tuple[npt.NDArray[Any], bytes]:
    parameters = _parameters(dataset_id, span, after, until)
    with driver(connection).cursor(binary=True) as cursor:
        groups = cursor.execute(_POSTGRESQL, {**parameters, "rows": _GROUP_ROWS}).fetchall()
    sent = np.frombuffer(b"".join(facts or b"" for facts, _ in groups), _SENT)
    rows = np.zeros(len(sent), ROW)
    for name in ("supersedes", "day", "size", "grouped"):
        rows[name] = sent[name]
    rows["bucket"] = sent["bucket"].astype(np.int32) + 32768
    return rows, b"".join(part or b"" for _, part in groups) if span.size else b""


def _sqlite(
    connection: Connection, dataset_id: int, span: _Span, after: int, until: int
) -> tuple[npt.NDArray[Any], bytes]:
    parameters = _parameters(dataset_id, span, after, until)
    read = connection.exec_driver_sql(_SQLITE, parameters).fetchall()
    rows = np.zeros(len(read), ROW)
    columns = [*zip(*read, strict=True)] or [()] * 6
    for index, name in enumerate(("supersedes", "day", "size", "bucket", "grouped")):
        rows[name] = columns[index]
    return rows, b"".join(part or b"" for part in columns[5])


def _parameters(dataset_id: int, span: _Span, after: int, until: int) -> dict[str, int]:
    # SQL counts bytes from 1.
    part = {"start": span.start + 1, "size": span.size}
    return {"dataset_id": dataset_id, "after": after, "until": until, **part}


def _groups(
    connection: Connection, dataset_id: int, rows: npt.NDArray[Any], after: int, until: int
) -> npt.NDArray[np.uint64]:
    """Return the hashes of the groups of keys that begin in these rows, sorted."""
    # A key keeps the group of its first row.
    if not (rows["grouped"].astype(bool) & (rows["supersedes"] < 0)).any():
        return np.empty(0, np.uint64)
    query = select(SampleRow.group_key).where(
        SampleRow.dataset_id == dataset_id,
        SampleRow.position >= after,
        SampleRow.position < until,
        SampleRow.group_key.is_not(None),
        SampleRow.supersedes.is_(None),
    )
    groups = connection.execute(query.distinct()).scalars()
    hashes = [text_hash(group.encode()) for group in groups if group is not None]
    return np.unique(np.array(hashes, np.uint64))


def superseded_among(
    connection: Connection, dataset_id: int, positions: Sequence[int], until: int
) -> Positions:
    """Read which rows at ``positions`` are superseded by rows before ``until``."""
    newer = _superseding(connection, dataset_id, positions, until)
    query = select(SampleRow.supersedes).where(*newer)
    return np.array(connection.execute(query).scalars().all(), np.int64)


def successors(
    connection: Connection, dataset_id: int, positions: Sequence[int], until: int
) -> Positions:
    """Read the positions before ``until`` of the rows that supersede those at ``positions``."""
    newer = _superseding(connection, dataset_id, positions, until)
    query = select(SampleRow.position).where(*newer)
    return np.array(connection.execute(query).scalars().all(), np.int64)


def _superseding(
    connection: Connection, dataset_id: int, positions: Sequence[int], until: int
) -> list[ColumnElement[bool]]:
    return [
        SampleRow.dataset_id == dataset_id,
        is_any_of(connection, SampleRow.supersedes, positions),
        # As the partial index says it, which is otherwise not used.
        SampleRow.supersedes.is_not(None),
        SampleRow.position < until,
    ]
