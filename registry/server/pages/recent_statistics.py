"""The statistics of datasets, counted again only as often as a person could notice."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Final

from registry.catalog.dataset import Dataset
from registry.catalog.statistics.count import statistics_of
from registry.catalog.statistics.model import Statistics

FRESH: Final = 2.0
"""Seconds for which statistics are shown as they are, although rows were inserted since."""
_RECHECKED: Final = 60.0
"""Seconds after which they are counted even where the log has no new rows: its schema may differ,
or the database may have been restored."""


@dataclass
class _Counted:
    lock: threading.Lock = field(default_factory=threading.Lock)
    at: float = 0.0
    statistics: Statistics | None = None


class RecentStatistics:
    """Keeps the last statistics of each dataset in memory. Thread-safe."""

    def __init__(self) -> None:
        self._counted: dict[int, _Counted] = {}

    def of(self, dataset: Dataset, position: int) -> Statistics:
        """Return the statistics of a dataset whose log ends at ``position``, or did just now.

        While another thread counts, it returns those from before, if there are any.
        """
        counted = self._counted.setdefault(dataset.id, _Counted())
        known, age = counted.statistics, time.monotonic() - counted.at
        if known is not None:
            current = known.complete and known.until == position
            if age < (_RECHECKED if current else FRESH):
                return known
        # Requests that waited for the count would hold the threads that all pages share.
        if not counted.lock.acquire(blocking=known is None):
            assert known is not None
            return known
        try:
            # Counted by another thread, while this one waited for the lock.
            if counted.statistics is None or counted.statistics is known:
                counted.statistics = statistics_of(dataset)
                counted.at = time.monotonic()
            return counted.statistics
        finally:
            counted.lock.release()
