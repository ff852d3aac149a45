"""Counting the rows of one log as it grows.

`RowCounter.update` reads the rows that came since the last count, once, and adds their terms to the
counts. It keeps the facts of each row in a `RowStore`: by them a row's term is taken away when the
row is erased, and the row that a later one supersedes is known.

The chain at the position of the counts says whether the log still has the rows that were counted.
Where it has not, or where a file is damaged, all rows are counted again from the first. One process
counts at a time, under a file lock; others take what is counted so far. One that is killed leaves
counts of complete rows, and rows behind them that nobody reads.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
from sqlalchemy import Connection, select

from registry.catalog.rename import name_of
from registry.catalog.statistics.count_state import CountState, load_counts, store_counts
from registry.catalog.statistics.erased_rows import erase_counted
from registry.catalog.statistics.model import (
    KEPT_SOURCES,
    MOST_CLASSES,
    MOST_CLASSES_BY_DAY,
    MOST_GROUPS,
)
from registry.catalog.statistics.row_facts import (
    CountedLabel,
    ReadRows,
    counted_labels,
    read_rows,
)
from registry.catalog.statistics.row_store import DamagedStoreError, RowStore
from registry.catalog.statistics.tally import Terms
from registry.errors import DivergenceError
from registry.samples.features import ClassLabel
from registry.samples.schema import Schema
from registry.samples.splits import BUCKETS, Interval
from registry.storage.database.models import DatasetRow, SampleRow
from registry.storage.database.transactions import read
from registry.storage.log.erasures import erased_from
from registry.storage.log.head import Head, chain_at, read_head
from registry.storage.log.reader import Log
from registry.storage.log.standby import in_recovery
from registry.storage.mirror.process_lock import try_lock
from registry.storage.mirror.usage import record_use

READ_ROWS = {"postgresql": 1 << 16, "sqlite": 1 << 12}
"""Rows that are read at a time; SQLite's are read in Python, which lets no other thread run."""
READ_BYTES = 64 << 20
"""Bytes of fixed-width values that a database may have to read for their class labels at a time."""
_TRIES = 3


@dataclass(frozen=True)
class LogEnd:
    """The end of a log, and whether it has the rows that were counted."""

    head: Head
    agrees: bool


class RowCounter:
    """Counts the rows of a log, in a folder. Safe to share between threads.

    Methods raise `OSError` if the folder cannot be used.
    """

    def __init__(self, log: Log, splits: Mapping[str, Interval] | None, folder: Path) -> None:
        self._log = log
        self._folder = folder
        self._given = splits

    @cached_property
    def _splits(self) -> list[tuple[str, Interval]]:
        splits = self._given
        if splits is None:
            splits = read(self._log.engine, _read_splits, self._log.dataset_id)
        # In the order of their buckets: JSONB stores the names of an object in another order.
        return sorted(splits.items(), key=lambda split: split[1])

    @property
    def splits(self) -> list[str]:
        """The names of the splits in the order of their numbers."""
        return [name for name, _ in self._splits] or [""]

    @property
    def path(self) -> Path:
        """The path of the file with the counts."""
        return self._folder / "counts"

    def load(self) -> CountState:
        """Return what was counted so far; nothing if that cannot be read."""
        return load_counts(self.path) or CountState()

    def store(self, state: CountState) -> RowStore:
        """Return the facts of the rows that a state counts."""
        return RowStore(self._folder / str(state.generation), state.files)

    def update(self, most: int | None = None) -> tuple[CountState, int]:
        """Count the new rows, at most ``most``; return the counts and the log's end.

        While another process counts, returns what is counted so far.
        """
        state = self.load()
        end = self._end(state)
        if not self._is_current(state, end):
            with try_lock(self._folder / "lock") as locked:
                if locked:
                    # Read again: another process may have counted meanwhile.
                    state = self.load()
                    end = self._end(state)
                    state = self._updated(state, end, most)
        return state, max(end.head.position, state.position if end.agrees else 0)

    def terms(self, state: CountState, counted: dict[str, bool] | None = None) -> Terms:
        """Return what the terms of rows depend on; ``counted`` are other labels to count."""
        counted = state.counted if counted is None else counted
        names = [each.label.name for each in state.files.labels]
        return Terms(
            [stop for _, (_, stop) in self._splits] or [BUCKETS],
            state.sources.keys(),
            [name if name in counted else None for name in names],
            {name for name, by_day in counted.items() if by_day},
        )

    def _end(self, state: CountState) -> LogEnd:
        """Read where the log ends, and compare its chain with that of the counts."""
        return read(self._log.engine, self._read_end, state)

    def _read_end(self, connection: Connection, state: CountState) -> LogEnd:
        dataset_id = self._log.dataset_id
        head, _ = read_head(connection, dataset_id)
        if head.position == state.position:
            return LogEnd(head, head.chain == state.chain)
        chain = chain_at(connection, dataset_id, state.position)
        # A standby may not have received the rows yet that were counted.
        if chain is None and in_recovery(connection):
            return LogEnd(head, agrees=True)
        return LogEnd(head, chain == state.chain)

    def _is_current(self, state: CountState, end: LogEnd) -> bool:
        if not end.agrees or state.position < end.head.position or state.erased != end.head.erased:
            return False
        schema = self._log.schemas.numbered(end.head.schema)
        labels = [each.label for each in state.files.labels]
        return labels == counted_labels(schema) and state.counted == counted_of(schema)

    def _updated(self, state: CountState, end: LogEnd, most: int | None) -> CountState:
        if end.agrees and end.head.position < state.position:
            return state  # a standby that lags, or another process has counted since
        self._log.schemas.learn(end.head)
        schema = self._log.schemas.numbered(end.head.schema)
        labels = counted_labels(schema)
        for _ in range(_TRIES):
            try:
                if not end.agrees or not self._continues(state, labels):
                    state, end = self._restarted(state), replace(end, agrees=True)
                self._add_labels(state, labels, counted_of(schema))
                until = end.head.position
                if most is not None:
                    until = min(until, state.position + most)
                self._count(state, until)
                erase_counted(self._log, self.store(state), state, self.terms(state))
            except DamagedStoreError:
                end = replace(end, agrees=False)
                continue
            except DivergenceError:
                end = replace(self._end(CountState()), agrees=False)
                continue
            self._store(state)
            return state
        return self.load()

    def _continues(self, state: CountState, labels: list[CountedLabel]) -> bool:
        """Return whether new rows can be added to the counts."""
        known = [each.label for each in state.files.labels]
        if labels[: len(known)] != known:
            return False
        if not state.erased:
            return True
        # A database that was restored may have had other erasures since.
        last = read(self._log.engine, erased_from, self._log.dataset_id, state.erased - 1)
        return bool(last) and last[0].position == state.last_erased

    def _restarted(self, state: CountState) -> CountState:
        """Return the counts of no rows, in a new folder."""
        numbers = [int(path.name) for path in self._folder.iterdir() if path.name.isdecimal()]
        return CountState(generation=max([state.generation, *numbers]) + 1)

    def _add_labels(
        self, state: CountState, labels: list[CountedLabel], counted: dict[str, bool]
    ) -> None:
        store = self.store(state)
        for label in labels[len(state.files.labels) :]:
            store.add_label(label)
            if label.name in counted:
                state.tally.add_label(label.name, label.default, by_day=counted[label.name])
        for name, by_day in state.counted.items():
            # A feature may have so many classes by now that they are not counted any more.
            if by_day and not counted.get(name):
                state.tally.remove_label(name, by_day_only=name in counted)
        state.counted = counted

    def _count(self, state: CountState, until: int) -> None:
        """Count the rows up to a position, some at a time."""
        while state.position < until:
            schema, stop = self._log.schemas.cut(state.position, until)
            stop = min(stop, state.position + rows_at_once(self._log, schema))
            labels = [each.label for each in state.files.labels]
            rows = read(
                self._log.engine,
                read_rows,
                self._log.dataset_id,
                schema,
                labels,
                state.position,
                stop,
            )
            if rows.chain_before != state.chain or rows.chain is None:
                raise DivergenceError(f"the log has other rows before position {state.position}")
            self._add(state, rows, stop)

    def _add(self, state: CountState, rows: ReadRows, stop: int) -> None:
        for source, text in rows.sources.items():
            if len(state.sources) < KEPT_SOURCES:
                state.sources.setdefault(source, text)
        if len(rows.groups) and len(state.groups) < MOST_GROUPS:
            state.groups = np.union1d(state.groups, rows.groups)[:MOST_GROUPS]
        store = self.store(state)
        # Before they are added to the counts: without room on the disk, nothing is counted.
        start = state.position
        store.append(rows.facts)
        state.tally.add(rows.facts, store.superseded(rows.facts, start), self.terms(state))
        assert rows.chain is not None
        state.position, state.chain = stop, rows.chain

    def _store(self, state: CountState) -> None:
        engine = self._log.engine
        if state.position:
            state.last_row = read(engine, last_row, self._log.dataset_id, state.position - 1)
        state.counted_at = datetime.now(UTC)
        store_counts(self.path, state)
        # By this, `registry cache` knows whose counts these are.
        record_use(self._folder.parents[1], engine.url, name_of(engine, self._log.dataset_id))
        for path in self._folder.iterdir():
            if path.name.isdecimal() and int(path.name) != state.generation:
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.startswith("."):  # a draft of a counter that was killed
                path.unlink(missing_ok=True)


def rows_at_once(log: Log, schema: Schema) -> int:
    """Return how many rows of a schema are read at a time."""
    return max(
        1, min(READ_ROWS[log.engine.dialect.name], READ_BYTES // schema.codec.header.itemsize)
    )


def counted_of(schema: Schema) -> dict[str, bool]:
    """Return which labels are counted by class, and whether by day, too."""
    return {
        name: feature.count <= MOST_CLASSES_BY_DAY
        for name, feature in schema.features.items()
        if isinstance(feature, ClassLabel) and feature.count <= MOST_CLASSES
    }


def _read_splits(connection: Connection, dataset_id: int) -> dict[str, Interval]:
    query = select(DatasetRow.splits).where(DatasetRow.id == dataset_id)
    stored = connection.execute(query).scalar_one()
    return {name: (start, stop) for name, (start, stop) in stored.items()}


def last_row(
    connection: Connection, dataset_id: int, position: int
) -> tuple[datetime, str | None] | None:
    query = select(SampleRow.created_at, SampleRow.source).where(
        SampleRow.dataset_id == dataset_id, SampleRow.position == position
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else (row.created_at, row.source)
