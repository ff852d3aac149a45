"""The schemas of a dataset, as one process knows them, and which is in force at a position.

A schema is in force from its position ``since`` on, and never changes. So the schemas that a
process has read stay right, but there may be newer ones. A head carries the number of the schema in
force: if that is the newest one known, then no other begins before the head's position, and the
list is complete up to there. Beyond that, the list is read again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Engine, and_, bindparam, insert, select

from registry.errors import DatasetDroppedError, DivergenceError, InvalidSampleError
from registry.samples.schema import Schema
from registry.storage.database.address import Pickled
from registry.storage.database.models import HeadRow, SchemaRow
from registry.storage.database.retry import PATIENCE
from registry.storage.database.transactions import read
from registry.storage.database.url import masked
from registry.storage.log.head import Head
from registry.storage.log.standby import missing_rows, refuse_if_behind

if TYPE_CHECKING:
    from registry.samples.projection import Projection

Result = TypeVar("Result")

# One statement reads one snapshot: the schemas are all that the log has before this position. An
# outer join returns the position even where there is no schema.
_SCHEMAS = (
    select(HeadRow.position, SchemaRow.number, SchemaRow.since, SchemaRow.features)
    .join_from(
        HeadRow,
        SchemaRow,
        and_(
            SchemaRow.dataset_id == HeadRow.dataset_id,
            SchemaRow.number >= bindparam("first"),
        ),
        isouter=True,
    )
    .where(HeadRow.dataset_id == bindparam("dataset"))
    .order_by(SchemaRow.number)
)


@dataclass(frozen=True)
class _Known:
    """Schemas by number, all that begin before position ``complete``."""

    schemas: tuple[Schema, ...]
    complete: int


@dataclass(frozen=True)
class OlderRows:
    """The rows that were written before a schema's layout was in force, at ``since``."""

    schemas: Sequence[Schema]
    schema: Schema
    since: int

    @classmethod
    def before(cls, schemas: Sequence[Schema], schema: Schema) -> OlderRows | None:
        older = [each for each in schemas[: schema.number] if each.layout != schema.layout]
        # The first one of the layout follows the last one of another.
        return cls(schemas, schema, schemas[len(older)].since) if older else None

    def projection(self, position: int) -> Projection | None:
        """Return how the record at a position is brought to the schema; None if it is of it."""
        if position >= self.since:
            return None
        return self.schema.projection(_at(self.schemas, position))

    def brought(self, positions: Sequence[int], records: Sequence[bytes]) -> list[bytes]:
        """Return records, as they are stored at positions, as those of the schema."""
        projections = map(self.projection, positions)
        return [
            projection.forward(record) if projection else record
            for projection, record in zip(projections, records, strict=True)
        ]


class Schemas(Pickled):
    """The schemas of one log, shared by everything that one process opened from it.

    They are read when they are first needed. Thread-safe, and can be pickled. `newest` may be older
    than the database's newest one; all that is asked about a position or a watermark is exact.
    """

    def __init__(self, engine: Engine, dataset_id: int) -> None:
        self.engine = engine
        self.dataset_id = dataset_id
        # Replaced as a whole, so that threads need no lock, which a fork could leave locked.
        self._known: _Known | None = None

    @property
    def newest(self) -> Schema:
        """The newest schema that this process knows; the database may have newer ones."""
        return self._read().schemas[-1]

    def numbered(self, number: int) -> Schema:
        """Return the schema of this number; raises `DivergenceError` if there is none."""
        known = self._read()
        if number >= len(known.schemas):
            known = read(self.engine, self._renewed, number)
        return known.schemas[number]

    def at(self, position: int) -> Schema:
        """Return the schema in force for the row at a position of the log.

        Raises `DivergenceError` if the log has no such row.
        """
        known = self._read()
        if position >= known.complete:
            known = read(self.engine, self._renewed, 0, position + 1)
        return _at(known.schemas, position)

    def before(self, watermark: int) -> Schema:
        """Return the schema in force for the last row before a watermark."""
        return self.at(watermark - 1) if watermark else self.numbered(0)

    def cut(self, after: int, until: int, patience: float | None = PATIENCE) -> tuple[Schema, int]:
        """Return the schema in force at ``after``, and up to where, at most ``until``.

        ``patience`` is the number of seconds to retry for, None without a limit. Raises
        `DivergenceError` if the log has no row at ``after``.
        """
        known = self._known
        if known is None or until > known.complete:
            known = read(self.engine, self._renewed, 0, after + 1, patience=patience)
        schema = _at(known.schemas, after)
        ends = [each.since for each in known.schemas[schema.number + 1 : schema.number + 2]]
        # Beyond ``complete``, another schema may be in force by the time that rows are read.
        return schema, min(until, known.complete, *ends)

    def older(self, schema: Schema) -> OlderRows | None:
        """Return the rows that were written before a schema's layout, None if there are none."""
        return OlderRows.before(self._read().schemas, schema)

    def brought(
        self, positions: Sequence[int], records: Sequence[bytes], schema: Schema
    ) -> Sequence[bytes]:
        """Return records, as they are stored at positions, as those of a schema.

        It must not be older than the schema that is in force at any of the positions.
        """
        if not positions:
            return records
        self.at(max(positions))  # so that the schemas are complete up to there
        older = self.older(schema)
        return records if older is None else older.brought(positions, records)

    def learn(self, head: Head, connection: Connection | None = None) -> None:
        """Learn from a head how far the schemas are complete, and read those that are new.

        They are read by ``connection`` if it is given: a transaction that has locked this head and
        has changed nothing yet.
        """
        known = self._known
        if known is None:
            return
        if head.schema >= len(known.schemas) or _contradicts(known, head):
            if connection is None:
                read(self.engine, self._renewed, head.schema)
            else:
                self._renewed(connection, head.schema)
        elif head.schema == len(known.schemas) - 1 and head.position > known.complete:
            self._known = _Known(known.schemas, head.position)

    def __iter__(self) -> Iterator[Schema]:
        """Iterate over the schemas that are known, in the order of their numbers."""
        return iter(self._read().schemas)

    def has(self, schema: Schema) -> bool:
        """Return whether the dataset has, or has had, just this schema."""
        return schema in self._read().schemas

    def add(self, schema: Schema) -> None:
        """Add the next schema, which was committed."""
        known = self._known
        # Another thread may have read it already.
        if known is not None and len(known.schemas) == schema.number:
            self._known = replace(known, schemas=(*known.schemas, schema))

    def refresh(self) -> bool:
        """Read the schemas again; return whether there is a newer one than `newest`."""
        before = self.newest
        return read(self.engine, self._renewed).schemas[-1] != before

    def encoded(self, encode: Callable[[Schema], Result]) -> Result:
        """Return the result of ``encode`` with the newest schema.

        A class or a feature that was just added may be unknown to this process. So after an
        `InvalidSampleError` the schemas are read again, and if there is a newer one, the call is
        repeated with it.
        """
        while True:
            schema = self.newest
            try:
                return encode(schema)
            except InvalidSampleError:
                if not self.refresh():
                    raise

    def in_force(self, connection: Connection, head: Head) -> Schema:
        """Return the schema in force at a head that the caller's transaction has locked."""
        self.learn(head, connection)
        known = self._read(connection)
        # What is known beyond it was lost, since nobody else can change the schema meanwhile.
        if len(known.schemas) > head.schema + 1:
            self._known = _Known(known.schemas[: head.schema + 1], head.position)
        return known.schemas[head.schema]

    def _read(self, connection: Connection | None = None) -> _Known:
        if self._known is None and connection is not None:
            return self._renewed(connection)
        return self._known or read(self.engine, self._renewed)

    def _renewed(self, connection: Connection, number: int = 0, until: int = 0) -> _Known:
        """Read the schemas again, which must include a number and be complete up to a position."""
        known = self._known or _Known((), 0)
        # Usually only what is new: the names of many classes are large.
        position, schemas = self._fetch(connection, max(0, len(known.schemas) - 1))
        if schemas[:1] == known.schemas[-1:]:
            schemas = known.schemas + schemas[1:]
        else:
            position, schemas = self._fetch(connection, 0)
            newer = known.schemas[len(schemas) :]
            # A standby that is behind has the first ones. A restored database may have others, or
            # rows that were written in an older schema where a newer one is known.
            if known.schemas == schemas + newer and (not newer or position <= newer[0].since):
                schemas = known.schemas
        if number >= len(schemas):
            refuse_if_behind(connection, f"schema {number} of the dataset")
            raise DivergenceError(
                f"the dataset has no schema {number} in {masked(connection.engine.url)}: was the "
                "database restored? Open the dataset again"
            )
        if until > position:
            raise missing_rows(connection, self.dataset_id, until - 1, until, 0)
        complete = max(position, known.complete) if schemas is known.schemas else position
        self._known = _Known(schemas, complete)
        return self._known

    def _fetch(self, connection: Connection, first: int) -> tuple[int, tuple[Schema, ...]]:
        """Return the head's position, and the schemas from number ``first`` on."""
        rows = connection.execute(_SCHEMAS, {"dataset": self.dataset_id, "first": first}).all()
        if not rows:
            raise DatasetDroppedError
        schemas = (
            Schema.from_json(row.number, row.since, row.features)
            for row in rows
            if row.number is not None
        )
        return rows[0].position, tuple(schemas)


def insert_schema(
    connection: Connection, dataset_id: int, schema: Schema, created_at: datetime | None = None
) -> None:
    """Insert the row of a schema, created now by default; the caller stores its number."""
    row: dict[str, Any] = {
        "dataset_id": dataset_id,
        "number": schema.number,
        "since": schema.since,
        "features": schema.to_json(),
    }
    if created_at is not None:
        row["created_at"] = created_at
    connection.execute(insert(SchemaRow), row)


def _at(schemas: Sequence[Schema], position: int) -> Schema:
    # Of several with the same ``since``, the last one is in force.
    return schemas[bisect_right(schemas, position, key=lambda schema: schema.since) - 1]


def _contradicts(known: _Known, head: Head) -> bool:
    """Return whether rows were written in an older schema where a newer one is known."""
    newer = known.schemas[head.schema + 1 : head.schema + 2]
    return any(head.position > each.since for each in newer)
