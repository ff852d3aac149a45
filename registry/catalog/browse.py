"""Looking through the samples of a dataset or of a version, the newest first."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from registry.catalog.dataset import Dataset
from registry.catalog.epoch_changes import EpochChanges, epoch_changes
from registry.catalog.statistics.count import row_counter
from registry.catalog.statistics.row_facts import superseded_among
from registry.catalog.statistics.row_search import RowSearch, divided_filters
from registry.samples.arrays import Positions
from registry.samples.buckets import buckets
from registry.samples.splits import interval
from registry.storage.database.transactions import read
from registry.storage.log.entries import Entry, entries_among
from registry.storage.log.records import records_at
from registry.training.conditions import Conditions, Where
from registry.training.filters import Filter, filters
from registry.training.parse_conditions import parse_conditions

__all__ = ["EpochChanges", "ListedSample", "SamplePage", "epoch_changes", "find_samples"]

SEARCHED_ROWS = 1 << 19
"""Rows that one call searches, at most; one that is read from the database counts as `READ_COST`,
as it takes so much longer."""
READ_COST = 64
READ_SAMPLES = 1 << 10
"""Samples that one call reads, at most."""
READ_BYTES = 32 << 20
"""Bytes of records that one call reads, at most, unless a single one has more."""


@dataclass(frozen=True)
class ListedSample:
    """A live sample with its values by feature; ``split`` is None where there are no splits."""

    position: int
    key: str
    source: str | None
    group: str | None
    split: str | None
    created_at: datetime
    values: Mapping[str, Any]


@dataclass(frozen=True)
class SamplePage:
    """Samples, the newest first.

    ``cursor`` is what to pass as ``before`` to continue; None where the log was searched to its
    beginning. A page may be short, or empty, and still have a cursor.
    """

    samples: Sequence[ListedSample]
    cursor: int | None


def find_samples(
    dataset: Dataset,
    *,
    where: Where | None = None,
    split: str | None = None,
    before: int | None = None,
    limit: int = 48,
    seconds: float | None = None,
) -> SamplePage:
    """Return live samples of a dataset or of a version, the newest first.

    ``where`` has conditions as `Dataset.run` takes them, ``before`` is the cursor of the page
    before. A bounded number of rows is searched, and of samples read. The search ends earlier after
    so many ``seconds``. Rows that wait in the inbox stay there. Raises `FeatureError` for a split
    or a condition that no sample can meet.
    """
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    end = dataset.extent.stored_end()
    conditions = Conditions() if where is None else parse_conditions(where, dataset.features)
    known, others = divided_filters(filters(conditions, dataset.features), dataset.features)
    search = RowSearch(
        dataset.log,
        row_counter(dataset),
        dataset.schema,
        interval(dataset.splits, split),
        known,
    )
    page = _Page(dataset, end, others, limit)
    until = end if before is None else max(0, min(before, end))
    cost = 0
    for rows in search.backwards(until):
        cursor = page.add(rows.positions, rows.sizes)
        if cursor is not None:
            return SamplePage(page.samples, cursor or None)
        cost += (until - rows.searched) * (1 if rows.counted else READ_COST)
        until = rows.searched
        if until and (cost >= SEARCHED_ROWS or time.monotonic() >= deadline):
            return SamplePage(page.samples, rows.searched)
    return SamplePage(page.samples, None)


class _Page:
    """The samples of a page, to which those at positions are added until it is full."""

    def __init__(self, dataset: Dataset, end: int, others: list[Filter], limit: int) -> None:
        self.samples: list[ListedSample] = []
        self._dataset = dataset
        self._end = end
        self._others = others
        self._limit = limit
        self._read = 0
        self._bytes = 0

    def add(self, positions: Positions, sizes: np.ndarray[Any, Any]) -> int | None:
        """Add the live ones of some rows, in order; return where to continue if that is enough."""
        start = 0
        while start < len(positions):
            # As many as are missing; more where conditions are left that only records answer.
            wanted = self._limit - len(self.samples)
            stop = start + (max(wanted, 64) if self._others else wanted)
            within = np.cumsum(sizes[start:stop], dtype=np.int64) <= READ_BYTES - self._bytes
            stop = start + max(1, int(within.sum()))
            for sample in self._live(positions[start:stop]):
                self.samples.append(sample)
                if len(self.samples) == self._limit:
                    return sample.position
            self._read += stop - start
            self._bytes += int(sizes[start:stop].sum(dtype=np.int64))
            if self._read >= READ_SAMPLES or self._bytes >= READ_BYTES:
                return int(positions[stop - 1])
            start = stop
        return None

    def _live(self, positions: Positions) -> list[ListedSample]:
        """Return the live samples among these that meet the remaining conditions."""
        log, schema = self._dataset.log, self._dataset.schema
        dead = read(log.engine, superseded_among, log.dataset_id, positions.tolist(), self._end)
        alive = positions[~np.isin(positions, dead)]
        if not len(alive):
            return []
        entries = {e.position: e for e in read(log.engine, entries_among, log.dataset_id, alive)}
        # What was erased since the rows were counted.
        held = [position for position in alive.tolist() if not entries[position].erased]
        stored = read(log.engine, records_at, log.dataset_id, held)
        pairs = [(p, r) for p, r in zip(held, stored, strict=True) if r]
        held = [position for position, _ in pairs]
        records = log.schemas.brought(held, [record for _, record in pairs], schema)
        mask = np.ones(len(held), bool)
        for each in self._others:
            if held:
                mask &= each(each.column.of_records(schema.codec, records))
        return [
            self._sample(entries[position], record)
            for position, record, matches in zip(held, records, mask.tolist(), strict=True)
            if matches
        ]

    def _sample(self, entry: Entry, record: bytes) -> ListedSample:
        bucket = int(buckets([entry.key], [entry.group])[0])
        splits = self._dataset.splits.items()
        return ListedSample(
            entry.position,
            entry.key,
            entry.source,
            entry.group,
            next((name for name, (low, high) in splits if low <= bucket < high), None),
            entry.created_at,
            self._dataset.schema.codec.decode_one(record),
        )
