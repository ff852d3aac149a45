"""The statistics of a dataset from its counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import date, timedelta

from registry.catalog.statistics.count_state import CountState
from registry.catalog.statistics.model import (
    MOST_SOURCES,
    DayCounts,
    LastRow,
    SourceDay,
    Statistics,
)
from registry.catalog.statistics.tally import INSERTED, OTHERS, RETRACTED, REVISED, Tally

_FIRST_DAY = date(1970, 1, 1)


def report(
    state: CountState, until: int, splits: Sequence[str], *, with_groups: bool = True
) -> Statistics:
    """Return the statistics of a log's counts.

    ``until`` is the position of its end, ``splits`` the names of the splits by their numbers.
    """
    tally = state.tally
    days = _days(tally)
    by_source, others = _sources(state)
    last = state.last_row
    return Statistics(
        position=state.position,
        chain=state.chain.hex(),
        until=until,
        counted_at=state.counted_at,
        live=days[-1].live if days else 0,
        bytes=days[-1].bytes if days else 0,
        stored_bytes=tally.totals[("stored",)],
        grouped=tally.totals[("grouped",)],
        groups=len(state.groups) if with_groups else None,
        last_row=None if last is None else LastRow(*last),
        splits={name: tally.splits[(index,)] for index, name in enumerate(splits)},
        days=days,
        by_source=by_source,
        other_sources=others,
        classes=_classes(state, splits),
        classes_by_day=_class_changes(state),
    )


def _days(tally: Tally) -> list[DayCounts]:
    days, live, size = [], 0, 0
    for day in sorted({day for day, _ in tally.actions}):
        live += tally.live[(day,)]
        size += tally.bytes[(day,)]
        each = DayCounts(
            _date(day),
            inserted=tally.actions[day, INSERTED],
            revised=tally.actions[day, REVISED],
            retracted=tally.actions[day, RETRACTED],
            relabelled=tally.relabelled[(day,)],
            live=live,
            bytes=size,
        )
        days.append(each)
    return days


def _sources(
    state: CountState,
) -> tuple[dict[str | None, list[SourceDay]], list[SourceDay]]:
    rows: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0, 0]))
    for (source, day, action), count in state.tally.sources.items():
        rows[source][day][action] += count
    named = {source: text for source, text in state.sources.items() if source in rows}

    def order(source: int) -> tuple[int, str, bool]:
        text = named[source]
        return -sum(map(sum, rows[source].values())), text or "", text is None

    most = sorted(named, key=order)
    others: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
    for source in [*most[MOST_SOURCES:], OTHERS]:
        for day, counts in rows[source].items():
            others[day] = [old + new for old, new in zip(others[day], counts, strict=True)]
    by_source = {named[source]: _source_days(rows[source]) for source in most[:MOST_SOURCES]}
    return by_source, _source_days(others)


def _source_days(days: dict[int, list[int]]) -> list[SourceDay]:
    return [SourceDay(_date(day), *days[day]) for day in sorted(days)]


def _classes(state: CountState, splits: Sequence[str]) -> dict[str, dict[str, dict[int, int]]]:
    classes: dict[str, dict[str, dict[int, int]]] = {
        name: {split: {} for split in splits} for name in state.counted
    }
    for (name, split, index), count in sorted(state.tally.classes.items()):
        if name in classes:
            classes[name][splits[split]][index] = count
    return classes


def _class_changes(state: CountState) -> dict[str, dict[date, dict[int, int]]]:
    changes: dict[str, dict[date, dict[int, int]]] = {
        name: {} for name, by_day in state.counted.items() if by_day
    }
    for (name, day, index), count in sorted(state.tally.class_changes.items()):
        if name in changes:
            changes[name].setdefault(_date(day), {})[index] = count
    return changes


def _date(day: int) -> date:
    return _FIRST_DAY + timedelta(days=day)
