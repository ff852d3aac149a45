"""Counting in the background, for a server whose requests must not wait for it."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock

from registry.catalog.dataset import Dataset
from registry.catalog.statistics.count import last_counted, statistics_of
from registry.catalog.statistics.model import Statistics
from registry.errors import RegistryError

COUNTED_AT_ONCE = 1 << 12
"""Rows that a request counts itself, at most."""
COUNTED_BEHIND = 1 << 17
"""Rows after which the background stores its counts."""
FRESH = 2.5
"""Seconds for which statistics are returned again: a dataset that grows all the time is counted
once in this time, however many requests ask for it."""
BUSY = 5.0
"""Seconds for which a request takes the statistics that there are, and has the new rows counted in
the background: pages that are asked for all the time never count."""
UNCHANGED = 60.0
"""Seconds for which they are where the log has no new rows: it may have been altered, or restored
from a backup."""
_KEPT = 256

logger: logging.Logger = logging.getLogger(__name__)
logger.addHandler(logging.NullHandler())

_Key = tuple[str, str]


class BackgroundCounts:
    """The statistics of datasets, and one thread that counts what requests do not. Thread-safe."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "registry-count")
        self._lock = Lock()
        self._queued: set[_Key] = set()
        self._counting: set[_Key] = set()
        self._recent: OrderedDict[_Key, tuple[float, Statistics]] = OrderedDict()
        self._closed = Event()

    def of(self, dataset: Dataset, position: int | None = None) -> Statistics:
        """Return the statistics of a dataset or of a version, at most `BUSY` seconds old.

        If the log is known to end at ``position``, those of all its rows are used for `UNCHANGED`.

        Where there are many new rows, they are those of the rows that were counted so far, and the
        rest is counted in the background. Raises `StatisticsError` as `statistics_of` does. Blocks.
        """
        key = _key(dataset)
        with self._lock:
            counted_at, recent = self._recent.get(key, (0.0, None))
            age = time.monotonic() - counted_at
            if recent is not None:
                unchanged = recent.complete and recent.until == position
                # While one request counts, others take the statistics from before.
                if age < (UNCHANGED if unchanged else FRESH) or key in self._counting:
                    return recent
            if recent is None or age >= BUSY:
                self._counting.add(key)
                recent = None
        if recent is not None:
            self.request(dataset)
            return recent
        try:
            return self._count(dataset, COUNTED_AT_ONCE)
        finally:
            with self._lock:
                self._counting.discard(key)

    def last(self, dataset: Dataset) -> Statistics | None:
        """Return what was last counted of a dataset, however old; None if nothing was.

        This reads one file and no database. New rows are then counted in the background.
        """
        self.request(dataset)
        return last_counted(dataset)

    def request(self, dataset: Dataset) -> None:
        """Let the new rows of a dataset be counted in the background."""
        key = _key(dataset)
        with self._lock:
            if key in self._queued or self._closed.is_set():
                return
            self._queued.add(key)
        self._pool.submit(self._count_more, dataset, key)

    def close(self, *, wait: bool = False) -> None:
        """End the thread after the rows that it counts now."""
        self._closed.set()
        self._pool.shutdown(wait=wait, cancel_futures=True)

    def _count(self, dataset: Dataset, most: int) -> Statistics:
        statistics = statistics_of(dataset, most=most)
        with self._lock:
            self._recent[_key(dataset)] = time.monotonic(), statistics
            self._recent.move_to_end(_key(dataset))
            while len(self._recent) > _KEPT:
                self._recent.popitem(last=False)
        if not statistics.complete:
            self.request(dataset)
        return statistics

    def _count_more(self, dataset: Dataset, key: _Key, before: int = -1) -> None:
        """Count some rows, and the rest after those of other datasets that wait.

        Nothing more is counted here while another process counts.
        """
        position = before
        try:
            statistics = self._count(dataset, COUNTED_BEHIND)
            if not statistics.complete:
                position = statistics.position
        # A page that needs the statistics says it again.
        except RegistryError as error:
            logger.info("%s: %s", dataset.name, error)
        finally:
            if position != before and not self._closed.is_set():
                self._pool.submit(self._count_more, dataset, key, position)
            else:
                with self._lock:
                    self._queued.discard(key)


def _key(dataset: Dataset) -> _Key:
    version = dataset.extent.version
    return dataset.log.uid, "" if version is None else f"{version.watermark}:{version.chain}"
