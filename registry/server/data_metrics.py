"""The metrics of the data: datasets, runs and mirrors.

A scrape reads nothing but a few rows for each dataset and run, in a separate thread, and no more
often than every `REFRESHED` seconds. What is slow, such as the bytes of samples, is counted in the
background. A scrape does not wait for a database that is slow or down: it gets what was last read,
and how old that is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import GaugeMetricFamily

from registry.catalog.dataset import Dataset
from registry.catalog.overview import DatasetOverview, overview
from registry.catalog.registry import Registry
from registry.catalog.run_progress import RunProgress, run_progress
from registry.catalog.statistics.background import BackgroundCounts
from registry.catalog.statistics.count import StatisticsError
from registry.catalog.statistics.model import Statistics
from registry.errors import RegistryError
from registry.server.metrics import Metrics
from registry.storage.mirror.state import MirrorState, load_state
from registry.training.mirror_source import cache_folder

MOST_DATASETS: Final = 500
MOST_RUNS: Final = 1000
"""Series are made of so many datasets and runs, at most: of those that grew last, or are newest."""
REFRESHED: Final = 5.0
"""Seconds for which numbers are not read again."""
WAITED: Final = 2.0
"""Seconds that a scrape waits for them."""

logger: logging.Logger = logging.getLogger(__name__)
logger.addHandler(logging.NullHandler())

_DATASETS = {
    "samples": "Live samples.",
    "positions": "Rows of the log.",
    "waiting": "Rows that wait in the inbox, up to 1,000.",
    "rejected": "Rejected rows of the inbox, up to 1,000.",
    "last_row_timestamp_seconds": "When the last row was inserted.",
    "bytes": "Bytes of the live samples, as they were last counted.",
    "stored_bytes": "Bytes of all rows that are not erased, as they were last counted.",
    "counted_positions": "Rows of the log that are counted.",
}
_RUNS = {
    "consumed_samples": "Samples that are recorded as trained on.",
    "pinned_samples": "Samples of all pinned epochs.",
    "epochs": "Pinned epochs.",
    "lag_positions": "Rows that the log has got since the last epoch was pinned.",
}
_MIRRORS = {
    "positions": "Rows of the log in the mirror of the server's machine.",
    "bytes": "Bytes of the mirror's rows.",
    "lag_positions": "Rows of the log that the mirror lacks.",
    "erased_rows": "Erasures that are applied in the mirror.",
}


@dataclass(frozen=True)
class _Read:
    """What was read, and when, by the monotonic clock."""

    at: float = 0.0
    datasets: Sequence[DatasetOverview] = ()
    runs: Sequence[RunProgress] = ()
    left_out: tuple[int, int] = 0, 0
    """Datasets and runs without series."""
    statistics: dict[str, Statistics] = field(default_factory=dict)
    mirrors: dict[str, MirrorState] = field(default_factory=dict)


class DataMetrics:
    """Reads the numbers of the data, and adds them to the metrics. For one event loop."""

    def __init__(self, registry: Registry, metrics: Metrics, counts: BackgroundCounts) -> None:
        self._registry = registry
        self._counts = counts
        self._read = _Read()
        self._datasets: dict[int, Dataset] = {}
        # Not those of requests, which may all wait for the database.
        self._pool = ThreadPoolExecutor(1, "registry-metrics")
        self._reading: asyncio.Future[None] | None = None
        self._writer = ThreadPoolExecutor(1, "registry-metrics-text")
        self._metrics = metrics
        metrics.add(self)

    async def text(self) -> bytes:
        """Return all metrics of the server, those of the data read again if they are old."""
        await self._refreshed()
        # In a thread: thousands of series take longer to write than a request may wait.
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._metrics.text)

    async def _refreshed(self) -> None:
        """Read the numbers again if they are old; wait at most `WAITED` seconds for that."""
        if self._read.at and time.monotonic() - self._read.at < REFRESHED:
            return
        if self._reading is None or self._reading.done():
            loop = asyncio.get_running_loop()
            self._reading = loop.run_in_executor(self._pool, self._refresh)
        # Not cancelled: the next scrape gets what is read after this one.
        await asyncio.wait([self._reading], timeout=WAITED)

    def close(self) -> None:
        """End the threads, one of which may wait for a database that is down."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._writer.shutdown(wait=False, cancel_futures=True)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return no names: they are those of `collect`, which reads nothing."""
        return ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the metrics of what was last read; this is how the registry of metrics asks."""
        read = self._read
        yield _single(
            "registry_data_age_seconds",
            "Seconds since the numbers of datasets, runs and mirrors were read.",
            time.monotonic() - read.at if read.at else float("inf"),
        )
        left_out = GaugeMetricFamily(
            "registry_data_left_out", "Datasets and runs that have no series.", labels=["kind"]
        )
        for kind, count in zip(("dataset", "run"), read.left_out, strict=True):
            left_out.add_metric([kind], count)
        yield left_out
        yield from _families(
            "registry_dataset",
            ["dataset"],
            _DATASETS,
            (_of_dataset(read, d) for d in read.datasets),
        )
        yield from _families(
            "registry_run", ["dataset", "run"], _RUNS, (_of_run(run) for run in read.runs)
        )
        yield from _families(
            "registry_mirror",
            ["dataset"],
            _MIRRORS,
            (_of_mirror(read, d) for d in read.datasets if d.name in read.mirrors),
        )

    def _refresh(self) -> None:
        try:
            self._read = self._numbers()
        # The age of the numbers says that they could not be read.
        except (RegistryError, OSError) as error:
            logger.info("the numbers of the data: %s", error)

    def _numbers(self) -> _Read:
        everything = sorted(overview(self._registry), key=_last_at, reverse=True)
        datasets = everything[:MOST_DATASETS]
        runs, more_runs = run_progress(self._registry, MOST_RUNS)
        named = {each.name for each in datasets}
        shown = [run for run in runs if run.dataset in named]
        self._open({each.id: each.name for each in datasets})
        statistics, mirrors = {}, {}
        for each in datasets:
            dataset = self._datasets.get(each.id)
            if dataset is None:
                continue
            # Without a cache folder, the other numbers are still shown.
            with suppress(StatisticsError, OSError):
                if counted := self._counts.last(dataset):
                    statistics[each.name] = counted
                if (state := load_state(cache_folder() / dataset.log.uid)) is not None:
                    mirrors[each.name] = state
        return _Read(
            time.monotonic(),
            datasets,
            shown,
            (len(everything) - len(datasets), more_runs + len(runs) - len(shown)),
            statistics,
            mirrors,
        )

    def _open(self, names: dict[int, str]) -> None:
        """Keep these datasets open, by their ids, and no others."""
        # All at once, and only when there are others: each would be a query.
        if {id_: each.name for id_, each in self._datasets.items()} != names:
            opened = {each.id: each for each in self._registry.datasets()}
            self._datasets = {id_: opened[id_] for id_ in names if id_ in opened}


def _last_at(dataset: DatasetOverview) -> tuple[bool, float, str]:
    last = dataset.last_at
    return last is not None, last.timestamp() if last else 0.0, dataset.name


def _single(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, value=value)


def _families(
    prefix: str,
    labels: Sequence[str],
    documentation: dict[str, str],
    rows: Iterable[tuple[list[str], dict[str, float | None]]],
) -> Iterator[GaugeMetricFamily]:
    """Yield a metric for each name, with the values that rows of labels have of it."""
    families = {
        name: GaugeMetricFamily(f"{prefix}_{name}", text, labels=labels)
        for name, text in documentation.items()
    }
    for values, numbers in rows:
        for name, number in numbers.items():
            if number is not None:
                families[name].add_metric(values, number)
    yield from families.values()


def _of_dataset(read: _Read, dataset: DatasetOverview) -> tuple[list[str], dict[str, float | None]]:
    counted = read.statistics.get(dataset.name)
    return [dataset.name], {
        "samples": dataset.live,
        "positions": dataset.position,
        "waiting": dataset.waiting,
        "rejected": dataset.rejected,
        "last_row_timestamp_seconds": dataset.last_at.timestamp() if dataset.last_at else None,
        "bytes": counted.bytes if counted else None,
        "stored_bytes": counted.stored_bytes if counted else None,
        "counted_positions": counted.position if counted else 0,
    }


def _of_run(run: RunProgress) -> tuple[list[str], dict[str, float | None]]:
    return [run.dataset, run.name], {
        "consumed_samples": run.consumed,
        "pinned_samples": run.pinned,
        "epochs": run.epochs,
        "lag_positions": run.lag,
    }


def _of_mirror(read: _Read, dataset: DatasetOverview) -> tuple[list[str], dict[str, float | None]]:
    state = read.mirrors[dataset.name]
    return [dataset.name], {
        "positions": state.position,
        "bytes": sum(state.sizes.values()),
        "lag_positions": max(0, dataset.position - state.position),
        "erased_rows": state.erased,
    }
