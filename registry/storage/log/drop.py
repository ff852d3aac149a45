"""Dropping a dataset: it disappears at once, and its rows are removed afterwards in batches.

`drop` deletes the head, without which the dataset can be neither read nor written, and gives
its row in `datasets` another name and uid. That row stays until no other row of the dataset is
left, so that the next call of `remove` finds what an interrupted removal has left.

`remove` deletes the rows of each table in the order of an index, one short transaction per batch.
The number of rows in a batch adapts to the time that the last one took.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    String,
    Table,
    UniqueConstraint,
    cast,
    delete,
    func,
    literal,
    select,
    tuple_,
    update,
)
from sqlalchemy.sql.elements import Tuple

from registry.errors import ConflictError, StatementTimeoutError
from registry.storage.database.models import DatasetRow, HeadRow, RunRow, SampleRow, metadata
from registry.storage.database.retry import PATIENCE, retrying
from registry.storage.database.transactions import read, write, writing
from registry.storage.log.notifications import notify

_SECONDS = 0.1
"""Seconds that a batch should take: well below a statement timeout, and short for a writer that
waits for the same SQLite file. The next batch has twice or half as many rows."""
_FIRST_ROWS = 256
_LOCK_WAIT = 1.0
"""Seconds to wait for a row that another transaction holds."""
_PAUSE = 0.02
"""Seconds between batches on SQLite, whose lock is not fair: without a pause, writers starve."""

Progress = Callable[[int, int], None]
"""Called with the number of samples removed so far and the total to be removed."""
Result = TypeVar("Result")


def drop(engine: Engine, dataset_id: int) -> None:
    """Hide a dataset and free its name, without waiting for the transactions of tools."""
    number = cast(DatasetRow.id, String)
    dropped = (
        update(DatasetRow)
        .where(DatasetRow.id == dataset_id, DatasetRow.dropped_at.is_(None))
        .values(
            name=DatasetRow.name + " (dropped " + number + ")",
            uid="dropped " + number,
            dropped_at=func.now(),
        )
    )

    def work(connection: Connection) -> None:
        # Writers lock the head, so that this waits for them and none can append afterwards.
        connection.execute(delete(HeadRow).where(HeadRow.dataset_id == dataset_id))
        connection.execute(dropped)

    write(engine, work)
    notify(engine, dataset_id)


def remove(engine: Engine, progress: Progress | None = None) -> None:
    """Remove what is left of every dropped dataset.

    Rows that another transaction has locked are left for the next call.
    """
    query = select(DatasetRow.id).where(DatasetRow.dropped_at.is_not(None))
    numbers = read(engine, lambda connection: list(connection.execute(query).scalars()))
    total = sum(read(engine, _extent, number) for number in numbers)
    removal = _Removal(engine, total, progress)
    for number in numbers:
        removal.remove(number)


def _extent(connection: Connection, dataset_id: int) -> int:
    """Return how many positions the remaining samples span.

    Positions have no gaps, so that the two ends of the index replace a count of all rows.
    """
    ends = [
        select(SampleRow.position)
        .where(SampleRow.dataset_id == dataset_id)
        .order_by(order)
        .limit(1)
        .scalar_subquery()
        for order in (SampleRow.position, SampleRow.position.desc())
    ]
    first, last = connection.execute(select(*ends)).one()
    return 0 if first is None else last - first + 1


@dataclass
class _Removal:
    engine: Engine
    total: int
    progress: Progress | None
    removed: int = 0

    def remove(self, dataset_id: int) -> None:
        """Remove a dropped dataset's rows and, unless some are locked, its row in `datasets`."""
        # Tables that refer to others come first: ON DELETE CASCADE would remove what they still
        # have in one statement of any length.
        owners = [
            (table, *owner)
            for table in reversed(metadata.sorted_tables)
            for owner in self._owners(table, dataset_id)
        ]
        locked = [owner for owner in owners if not self._empty(*owner)]
        if not locked:
            # A tool may have inserted into the inbox and not committed yet. Its row then holds a
            # lock on the dataset's row through the foreign key, and the dataset's row stays, too.
            self._attempt(
                lambda connection: connection.execute(
                    delete(DatasetRow).where(
                        DatasetRow.id == dataset_id, DatasetRow.dropped_at.is_not(None)
                    )
                )
            )

    def _owners(self, table: Table, dataset_id: int) -> list[tuple[Column[Any], int]]:
        """Return the column that links a table's rows to the dataset, once per value to remove."""
        if "dataset_id" in table.c:
            return [(table.c.dataset_id, dataset_id)]
        if "run_id" in table.c:
            query = select(RunRow.id).where(RunRow.dataset_id == dataset_id)
            numbers = read(
                self.engine, lambda connection: connection.execute(query).scalars().all()
            )
            return [(table.c.run_id, number) for number in numbers]
        return []

    def _empty(self, table: Table, owner: Column[Any], number: int) -> bool:
        """Remove one owner's rows from a table; return False where others hold locks on some."""
        after: Sequence[Any] | None = None
        rows = _FIRST_ROWS
        while True:
            began = time.monotonic()
            batch = partial(
                _remove_batch, table=table, owner=owner, number=number, after=after, rows=rows
            )
            try:
                removed = self._attempt(batch)
            except StatementTimeoutError:
                # One row over the timeout cannot be divided further.
                if rows == 1:
                    raise
                rows = max(1, rows // 8)
                continue
            if removed is None:
                return False
            count, after = removed
            # Only the time says what a batch costs: rows of `samples` are from bytes to megabytes.
            fast = time.monotonic() - began < _SECONDS
            rows = 2 * rows if fast else max(1, rows // 2)
            if table is SampleRow.__table__ and count:
                self.removed += count
                if self.progress is not None:
                    self.progress(self.removed, self.total)
            if after is None:
                return True
            if self.engine.dialect.name == "sqlite":
                time.sleep(_PAUSE)

    def _attempt(self, work: Callable[[Connection], Result]) -> Result | None:
        """Return the result of ``work`` in a transaction; None where others have locked a row."""
        # SQLite has no row locks, so that there is nothing to leave for later.
        wait = None if self.engine.dialect.name == "sqlite" else _LOCK_WAIT
        for attempt in retrying(PATIENCE, self.engine):
            with attempt:
                try:
                    with writing(self.engine, wait) as connection:
                        return work(connection)
                except ConflictError:
                    return None
        raise AssertionError


def _remove_batch(
    connection: Connection,
    table: Table,
    owner: Column[Any],
    number: int,
    after: Sequence[Any] | None,
    rows: int,
) -> tuple[int, Sequence[Any] | None]:
    """Remove an owner's rows among the next ``rows``; return how many, and the last key.

    That key is None after the last batch. A batch begins after it and not at the first row that is
    left, since PostgreSQL would scan the index entries of all rows that were removed: these stay
    for as long as any older transaction is open.
    """
    key, narrow = _index(table, owner)
    beyond = [] if after is None else [tuple_(*key) > _literals(key, after)]
    # DELETE has no LIMIT in PostgreSQL, so the key at which the batch ends is read first.
    last = connection.execute(
        select(*key)
        .where(*beyond, *([owner == number] if narrow else []))
        .order_by(*key)
        .offset(rows - 1)
        .limit(1)
    ).one_or_none()
    until = [] if last is None else [tuple_(*key) <= _literals(key, last)]
    batch = delete(table).where(owner == number, *beyond, *until)
    return connection.execute(batch).rowcount, last


def _index(table: Table, owner: Column[Any]) -> tuple[list[Column[Any]], bool]:
    """Return the columns of a unique index to page by, and whether the owner precedes them.

    Where no index begins with the owner, a batch covers rows of all owners, and only the owner's
    are deleted.
    """
    unique = [c for c in table.constraints if isinstance(c, UniqueConstraint)]
    for constraint in (table.primary_key, *unique):
        first, *others = constraint.columns
        if first is owner:
            return others or [first], True
    return list(table.primary_key.columns), False


def _literals(key: list[Column[Any]], row: Sequence[Any]) -> Tuple:
    return tuple_(*(literal(value, column.type) for column, value in zip(key, row, strict=True)))
