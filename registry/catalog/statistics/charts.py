"""The charts of a dataset, made from its statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from registry.catalog.statistics.model import DayCounts, SourceDay, Statistics
from registry.html.chart import Chart, Series
from registry.samples.features import ClassLabel, Feature

_SHOWN_CLASSES = 20
"""Classes up to which a card shows their balance."""
_MOST_DAYS = 120
"""Days that are shown one by one; longer times are shown by week."""
_MOST_WEEKS = 160
"""Weeks that are shown one by one; longer times are shown by month."""
NO_SOURCE = "(no source)"
OTHERS = "others"


@dataclass(frozen=True)
class Calendar:
    """Successive days, weeks or months, each called by its first day."""

    starts: Sequence[date]
    unit: str

    @classmethod
    def of(cls, days: Sequence[date], today: date) -> Calendar:
        """Return the calendar from the first of these days to today, or to the last of them."""
        first, last = min(days), max(today, *days)
        count = (last - first).days + 1
        if count <= _MOST_DAYS:
            return cls([first + timedelta(each) for each in range(count)], "day")
        if count <= 7 * _MOST_WEEKS:
            monday = first - timedelta(first.weekday())
            weeks = (last - monday).days // 7 + 1
            return cls([monday + timedelta(7 * each) for each in range(weeks)], "week")
        months = range(12 * first.year + first.month - 1, 12 * last.year + last.month)
        return cls([date(each // 12, each % 12 + 1, 1) for each in months], "month")

    @property
    def labels(self) -> list[str]:
        return [each.isoformat() for each in self.starts]

    def index(self, day: date) -> int:
        """Return the index of the period that a day is in."""
        if self.unit == "month":
            first = self.starts[0]
            return 12 * (day.year - first.year) + day.month - first.month
        return (day - self.starts[0]).days // (7 if self.unit == "week" else 1)

    def sums(self, counts: Mapping[date, int]) -> list[int]:
        """Return the sum of the counts in each period."""
        totals = [0] * len(self.starts)
        for day, count in counts.items():
            totals[self.index(day)] += count
        return totals

    def running(self, changes: Mapping[date, int]) -> list[int]:
        """Return the sum of the changes up to the end of each period."""
        total, totals = 0, []
        for change in self.sums(changes):
            total += change
            totals.append(total)
        return totals


def charts_of(
    statistics: Statistics,
    features: Mapping[str, Feature],
    splits: Sequence[str],
    today: date,
) -> list[Chart]:
    """Return the charts of a dataset; none for one without rows."""
    if not statistics.days:
        return []
    calendar = Calendar.of([each.day for each in statistics.days], today)
    labels = {name: each for name, each in features.items() if isinstance(each, ClassLabel)}
    charts = [_growth(calendar, statistics.days), _changes(calendar, statistics.days)]
    for name, feature in labels.items():
        if name in statistics.classes:
            charts.append(_balance(name, feature, statistics.classes[name], splits))
        if name in statistics.classes_by_day:
            charts.append(_over_time(calendar, name, feature, statistics.classes_by_day[name]))
    return [*charts, _sources(calendar, statistics)]


def card_charts(
    statistics: Statistics,
    features: Mapping[str, Feature],
    splits: Sequence[str],
    today: date,
) -> list[Chart]:
    """Return the charts of a card: the growth, and the balance of the first classes."""
    if not statistics.days:
        return []
    calendar = Calendar.of([each.day for each in statistics.days], today)
    growth = [_growth(calendar, statistics.days)] if len(calendar.starts) > 1 else []
    balance = [
        _balance(name, feature, statistics.classes[name], splits)
        for name, feature in features.items()
        if isinstance(feature, ClassLabel)
        and name in statistics.classes
        and feature.count <= _SHOWN_CLASSES
    ]
    return [*growth, *balance[:1]]


def class_text(feature: ClassLabel, index: int) -> str:
    """Return the name of a class, or its index where it has none."""
    named = feature.names is not None and 0 <= index < feature.count
    return feature.names[index] if feature.names and named else str(index)


def _growth(calendar: Calendar, days: Sequence[DayCounts]) -> Chart:
    changes, before = {}, 0
    for each in days:
        changes[each.day] = each.live - before
        before = each.live
    series = [Series("live samples", calendar.running(changes))]
    return Chart("Growth", calendar.labels, series, "area", days=True)


def _changes(calendar: Calendar, days: Sequence[DayCounts]) -> Chart:
    kinds: dict[str, Callable[[DayCounts], int]] = {
        "inserted": lambda each: each.inserted,
        "relabeled": lambda each: each.relabelled,
        "otherwise revised": lambda each: each.revised - each.relabelled,
        "retracted": lambda each: each.retracted,
    }
    series = [
        Series(name, calendar.sums({each.day: count(each) for each in days}), color)
        for color, (name, count) in enumerate(kinds.items())
    ]
    title = f"Rows by {calendar.unit}"
    return Chart(title, calendar.labels, _present(series), "bars", "rows", days=True)


def _balance(
    name: str,
    feature: ClassLabel,
    classes: Mapping[str, Mapping[int, int]],
    splits: Sequence[str],
) -> Chart:
    present = sorted({index for counts in classes.values() for index in counts})
    series = [
        Series(split or "samples", [classes.get(split, {}).get(index, 0) for index in present])
        for split in [*splits, *(each for each in classes if each not in splits)]
    ]
    labels = [class_text(feature, index) for index in present]
    title = f"{name}: samples by class and split" if splits else f"{name}: samples by class"
    return Chart(title, labels, _present(series), "rows")


def _over_time(
    calendar: Calendar,
    name: str,
    feature: ClassLabel,
    changes: Mapping[date, Mapping[int, int]],
) -> Chart:
    present = sorted({index for counts in changes.values() for index in counts})
    series = [
        Series(
            class_text(feature, index),
            calendar.running({day: counts.get(index, 0) for day, counts in changes.items()}),
            index,
        )
        for index in present
    ]
    return Chart(f"{name}: classes over time", calendar.labels, series, "area", days=True)


def _sources(calendar: Calendar, statistics: Statistics) -> Chart:
    def rows(days: Sequence[SourceDay]) -> list[int]:
        return calendar.sums({d.day: d.inserted + d.revised + d.retracted for d in days})

    series = [
        Series(NO_SOURCE if source is None else source, rows(days))
        for source, days in statistics.by_source.items()
    ]
    if statistics.other_sources:
        series.append(Series(OTHERS, rows(statistics.other_sources)))
    title = f"Sources and annotators by {calendar.unit}"
    return Chart(title, calendar.labels, series, "bars", "rows", days=True)


def _present(series: Sequence[Series]) -> list[Series]:
    """Return the series with any value, or the first one."""
    return [each for each in series if any(each.values)] or [*series[:1]]
