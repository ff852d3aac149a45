"""Searching a log for rows with certain classes and sources, from its end to its beginning.

Rows that were counted are searched in the files that keep their facts (`row_store`), others in the
database. Both are searched a part at a time, so that a caller may stop at any row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.catalog.statistics.count_state import CountState
from registry.catalog.statistics.row_counter import RowCounter, rows_at_once
from registry.catalog.statistics.row_facts import CountedLabel, RowFacts, counted_labels, read_rows
from registry.catalog.statistics.row_store import BLOCK, DamagedStoreError
from registry.samples.arrays import Positions
from registry.samples.features import ClassLabel, Features
from registry.samples.schema import Schema
from registry.samples.splits import Interval
from registry.storage.database.transactions import read
from registry.storage.log.head import chain_at
from registry.storage.log.reader import Log
from registry.training.filters import Filter
from registry.training.value_columns import SOURCES


@dataclass(frozen=True)
class MatchedRows:
    """Rows that have a record and meet the conditions: positions, the newest first, and sizes.

    All rows from ``searched`` on were searched, and none before. ``sizes`` are those of the
    records, in bytes. ``counted`` is whether the facts of the rows were in files.
    """

    positions: Positions
    sizes: npt.NDArray[np.int32]
    searched: int
    counted: bool


def divided_filters(
    tests: Sequence[Filter], features: Features
) -> tuple[list[tuple[str | None, Filter]], list[Filter]]:
    """Return the filters that facts of rows can answer, by label or None, and the others."""
    known: list[tuple[str | None, Filter]] = []
    others = []
    for each in tests:
        feature = each.column.feature
        if feature is None or isinstance(features[feature], ClassLabel):
            known.append((feature, each))
        else:
            others.append(each)
    return known, others


class RowSearch:
    """Searches the rows of a log in the buckets of a split. ``schema`` is that of its end."""

    def __init__(
        self,
        log: Log,
        counter: RowCounter,
        schema: Schema,
        buckets: Interval,
        tests: Sequence[tuple[str | None, Filter]],
    ) -> None:
        self._log = log
        self._counter = counter
        self._labels = counted_labels(schema)
        self._buckets = buckets
        self._tests = tests

    def backwards(self, until: int) -> Iterator[MatchedRows]:
        """Yield what is found before position ``until``, some rows at a time."""
        state = self._counted()
        while until:
            counted = None
            if until <= state.position:
                with suppress(DamagedStoreError, OSError):
                    after = (until - 1) // BLOCK * BLOCK
                    counted = self._counter.store(state).read(after, until)
            if counted is not None:
                labels = [each.label for each in state.files.labels]
                mask = self._matches(counted, labels)
                facts = counted
            else:
                after = state.position if until > state.position else 0
                after, facts = self._read(after, until)
                mask = self._matches(facts, self._labels)
            inside = np.flatnonzero(mask)[::-1]
            yield MatchedRows(
                inside + after, facts.rows["size"][inside], after, counted is not None
            )
            until = after

    def _counted(self) -> CountState:
        """Return what was counted of the log, if the log still has these rows."""
        with suppress(OSError):
            state = self._counter.load()
            log = self._log
            if read(log.engine, chain_at, log.dataset_id, state.position) == state.chain:
                return state
        return CountState()

    def _read(self, after: int, until: int) -> tuple[int, RowFacts]:
        """Read the last rows of a range from the database; return where they begin, and them."""
        schema = self._log.schemas.at(until - 1)
        # Fewer than are counted at a time: the first of them may be enough.
        start = max(after, schema.since, until - max(1, rows_at_once(self._log, schema) // 16))
        rows = read(
            self._log.engine, read_rows, self._log.dataset_id, schema, self._labels, start, until
        )
        return start, rows.facts

    def _matches(self, facts: RowFacts, labels: Sequence[CountedLabel]) -> npt.NDArray[np.bool_]:
        low, high = self._buckets
        bucket = facts.rows["bucket"]
        mask: npt.NDArray[np.bool_] = facts.held & (bucket >= low) & (bucket < high)
        names = [label.name for label in labels]
        for name, each in self._tests:
            values: npt.NDArray[Any]
            if each.column is SOURCES:
                values = facts.rows["source"]
            elif name in names:
                values = facts.labels[:, names.index(name)]
            else:
                # Added since the rows were counted: they all have its default.
                values = np.full(len(facts), self._default(name), np.int32)
            mask &= each(values)
        return mask

    def _default(self, name: str | None) -> int:
        return next((each.default or 0 for each in self._labels if each.name == name), 0)
