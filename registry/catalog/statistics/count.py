"""The statistics of a dataset or of a version, after counting the rows that came since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from registry.catalog.dataset import Dataset
from registry.catalog.statistics.count_state import load_counts
from registry.catalog.statistics.folder import statistics_folder
from registry.catalog.statistics.model import Statistics
from registry.catalog.statistics.report import report
from registry.catalog.statistics.row_counter import RowCounter
from registry.catalog.statistics.version_counts import count_version
from registry.errors import RegistryError
from registry.samples.splits import Interval
from registry.storage.log.reader import Log
from registry.training.mirror_source import cache_folder

COUNTED_NOW = 1 << 16
"""Rows that one call counts, at most; the rest is left to later calls."""


class StatisticsError(RegistryError):
    """Statistics cannot be kept or read.

    Remedy: point ``$REGISTRY_CACHE`` to a directory with room.
    """

    @classmethod
    def unusable(cls, dataset: str, error: OSError) -> Self:
        """Return the error for a folder that cannot be used."""
        return cls(
            f"no statistics of {dataset!r} can be kept ({error}); point $REGISTRY_CACHE, now "
            f"{cache_folder()}, to a directory with room"
        )


def statistics_of(dataset: Dataset, *, most: int | None = COUNTED_NOW) -> Statistics:
    """Return the statistics of a dataset or of a version, after counting its new rows.

    At most ``most`` rows are counted now, None is no limit: where there are more, or while another
    process counts them, the statistics are those of the rows so far. They are kept in
    ``$REGISTRY_CACHE``, or by this process alone if that cannot be written. Rows that wait in the
    inbox stay there.

    Raises `StatisticsError` if a disk is full, or there is no folder for temporary files either.
    """
    try:
        counter = row_counter(dataset)
        state, until = counter.update(most)
        version = dataset.extent.version
        if version is None:
            return report(state, until, counter.splits)
        counted = count_version(dataset.log, counter, state, version, most)
        return report(counted, version.watermark, counter.splits, with_groups=False)
    except OSError as error:
        raise StatisticsError.unusable(dataset.name, error) from error


def last_counted(dataset: Dataset) -> Statistics | None:
    """Return what was last counted of a dataset, without its new rows; None if nothing was.

    This reads one file, and no database. Raises `StatisticsError` as `statistics_of`.
    """
    try:
        counter = row_counter(dataset)
        state = load_counts(counter.path)
    except OSError as error:
        raise StatisticsError.unusable(dataset.name, error) from error
    return None if state is None else report(state, state.position, counter.splits)


def row_counter(dataset: Dataset) -> RowCounter:
    """Return what counts the rows of a dataset."""
    return log_counter(dataset.log, dataset.splits)


def log_counter(log: Log, splits: Mapping[str, Interval] | None = None) -> RowCounter:
    """Return what counts the rows of a log; the dataset's splits are read if they are not given."""
    return RowCounter(log, splits, statistics_folder(log))
