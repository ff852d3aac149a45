"""How many samples of an epoch came or changed since the epoch before, from the facts of rows.

`Run.lineage` says the same of any epoch, in a time that grows with the epoch, and from a mirror.
This reads a bounded number of rows that a server has counted already.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from registry.catalog.dataset import Dataset
from registry.catalog.statistics.count import row_counter
from registry.catalog.statistics.row_facts import RETRACTED, RowFacts
from registry.catalog.statistics.row_search import divided_filters
from registry.catalog.statistics.row_store import DamagedStoreError, RowStore
from registry.samples.splits import interval
from registry.training.filters import filters
from registry.training.pin_store import Pin
from registry.training.run_store import RunSettings
from registry.training.value_columns import SOURCES

MOST_ROWS = 1 << 20
"""Rows that one epoch may have since the epoch before, so that its origins are counted."""
READ_ROWS = 1 << 18
"""Rows after which a call stops."""


@dataclass(frozen=True)
class EpochOrigins:
    """Of an epoch's samples, how many have keys that are ``new``, and how many were ``revised``.

    ``classes`` has the number of both together by the index of their class, for each `ClassLabel`.
    """

    new: int
    revised: int
    classes: Mapping[str, Mapping[int, int]]


def epoch_origins(
    dataset: Dataset, run: RunSettings, pins: Iterable[Pin]
) -> dict[int, EpochOrigins]:
    """Return the origins of the samples of epochs, by their numbers, for the first ``pins``.

    Others are left out after `READ_ROWS`. Also left out are epochs of more than `MOST_ROWS`, those
    whose rows are not counted yet, and all of a run with conditions that are neither on classes
    nor on sources.
    """
    counter = row_counter(dataset)
    origins: dict[int, EpochOrigins] = {}
    with suppress(OSError, DamagedStoreError):
        state = counter.load()
        counts = _Counts(dataset, run, counter.store(state))
        left = READ_ROWS
        for pin in pins:
            rows = pin.watermark - pin.since
            if left > 0 and rows <= MOST_ROWS and pin.watermark <= state.position and counts.known:
                origins[pin.number] = counts.of(pin)
                left -= rows
    return origins


class _Counts:
    def __init__(self, dataset: Dataset, run: RunSettings, store: RowStore) -> None:
        self._store = store
        self._buckets = interval(dataset.splits, run.split)
        self._labels = labels = [each.label.name for each in store.files.labels]
        tests, others = divided_filters(filters(run.conditions, dataset.features), dataset.features)
        self._tests = [
            (None if test.column is SOURCES else labels.index(name or ""), test)
            for name, test in tests
            if name is None or name in labels
        ]
        self.known = not others and len(self._tests) == len(tests)
        """Whether the facts of rows say which samples meet the run's conditions."""

    def of(self, pin: Pin) -> EpochOrigins:
        facts = self._store.read(pin.since, pin.watermark)
        supersedes = facts.rows["supersedes"].astype(np.int64)
        live = self._inside(facts)
        live[supersedes[supersedes >= pin.since] - pin.since] = False
        # Each row points to the one that it supersedes, if that is also since then, else to itself.
        rows = np.arange(len(facts))
        first = np.where(supersedes >= pin.since, supersedes - pin.since, rows)
        while not np.array_equal(again := first[first], first):
            first = again
        old = supersedes[first] >= 0
        classes = {
            name: _counted(facts.labels[live & facts.held, column])
            for column, name in enumerate(self._labels)
        }
        return EpochOrigins(int((live & ~old).sum()), int((live & old).sum()), classes)

    def _inside(self, facts: RowFacts) -> npt.NDArray[np.bool_]:
        """Return which rows are samples of the run, of those that are live."""
        low, high = self._buckets
        bucket = facts.rows["bucket"]
        inside: npt.NDArray[np.bool_] = facts.rows["size"] != RETRACTED
        inside &= (bucket >= low) & (bucket < high)
        for column, test in self._tests:
            inside &= test(facts.rows["source"] if column is None else facts.labels[:, column])
        return inside


def _counted(indexes: npt.NDArray[np.int32]) -> dict[int, int]:
    values, counts = np.unique(indexes, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
