"""What is counted of a dataset, as plain values. Days are those of UTC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime


@dataclass(frozen=True)
class DayCounts:
    """The rows of one day, and what was live after the rows of this day and all before it.

    ``revised`` rows replace an earlier one of their key, also a retraction. Of them,
    ``relabelled`` have another class than the sample that they replace. ``live`` samples take
    ``bytes``, those of their records.
    """

    day: date
    inserted: int
    revised: int
    retracted: int
    relabelled: int
    live: int
    bytes: int


@dataclass(frozen=True)
class SourceDay:
    """The rows of one day that came from one source."""

    day: date
    inserted: int
    revised: int
    retracted: int


@dataclass(frozen=True)
class LastRow:
    """When the last row of a log was inserted, in UTC, and from which source."""

    created_at: datetime
    source: str | None


@dataclass(frozen=True)
class Statistics:
    """What was counted of the first ``position`` rows of a log, whose chain there is ``chain``.

    ``until`` is the position of the end of the dataset, or of the version: while it is larger, rows
    are still being counted. ``chain`` is 32 hexadecimal digits.

    ``live`` samples take ``bytes``; all rows that are not erased take ``stored_bytes``. Of the live
    samples, ``grouped`` have a group; the rows have ``groups`` different groups, which are counted
    up to `MOST_GROUPS`. ``splits`` counts the live samples by split, all under "" where there are
    no splits.

    ``days`` are in their order, those with rows only. ``by_source`` has at most `MOST_SOURCES`
    sources, those with most rows first, of the first `KEPT_SOURCES` of the log; ``other_sources``
    are the rows of all others.

    ``classes`` has, for each `ClassLabel`, the number of live samples by the index of their class,
    by split as ``splits``; classes without samples are left out. ``classes_by_day`` has how these
    numbers, of all splits together, changed by the rows of each day; features with more than
    `MOST_CLASSES_BY_DAY` classes are left out. Samples that were erased have no class and no bytes,
    but are live until they are retracted.
    """

    position: int
    chain: str
    until: int
    counted_at: datetime
    live: int
    bytes: int
    stored_bytes: int
    grouped: int
    groups: int | None
    last_row: LastRow | None
    splits: Mapping[str, int]
    days: Sequence[DayCounts]
    by_source: Mapping[str | None, Sequence[SourceDay]]
    other_sources: Sequence[SourceDay]
    classes: Mapping[str, Mapping[str, Mapping[int, int]]]
    classes_by_day: Mapping[str, Mapping[date, Mapping[int, int]]]

    @property
    def complete(self) -> bool:
        """Whether all rows are counted."""
        return self.position == self.until


MOST_SOURCES = 100
KEPT_SOURCES = 256
MOST_GROUPS = 1 << 17
MOST_CLASSES = 1 << 16
"""Features with more classes are not counted by class."""
MOST_CLASSES_BY_DAY = 128
