"""Counting what is in a dataset from all of its rows, one after another."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, date, datetime

from registry.catalog.dataset import Dataset
from registry.catalog.statistics.model import (
    KEPT_SOURCES,
    MOST_CLASSES,
    MOST_CLASSES_BY_DAY,
    MOST_GROUPS,
    MOST_SOURCES,
    DayCounts,
    LastRow,
    SourceDay,
    Statistics,
)
from registry.samples.buckets import buckets
from registry.samples.features import ClassLabel
from registry.storage.database.transactions import read
from registry.storage.log.entries import Entry
from registry.storage.log.erasures import erased_positions
from registry.storage.log.records import records_at


def counted(dataset: Dataset) -> Statistics:  # noqa: C901, PLR0915  # as plain as can be
    """Return the statistics of a dataset or of a version."""
    log, head = dataset.log, dataset.head
    entries = dataset.entries(0, head.position)
    erased = {*read(log.engine, erased_positions, log.dataset_id, 0, head.position).tolist()}
    held = [e.position for e in entries if e.action != "retract" and e.position not in erased]
    stored = read(log.engine, records_at, log.dataset_id, held)
    sizes = dict(zip(held, map(len, stored), strict=True))
    schema = dataset.schema
    samples = dict(
        zip(
            held,
            map(schema.codec.decode_one, log.schemas.brought(held, stored, schema)),
            strict=True,
        )
    )
    labels = {
        name: feature.count
        for name, feature in schema.features.items()
        if isinstance(feature, ClassLabel) and feature.count <= MOST_CLASSES
    }
    days: dict[date, Counter[str]] = defaultdict(Counter)
    sources: dict[str | None, dict[date, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    classes: dict[str, dict[str, Counter[int]]] = {name: defaultdict(Counter) for name in labels}
    changes: dict[str, dict[date, Counter[int]]] = {name: defaultdict(Counter) for name in labels}
    splits = Counter(dict.fromkeys(list(dataset.splits) or [""], 0))
    total: Counter[str] = Counter()
    groups: set[str] = set()
    by_position: dict[int, Entry] = {}

    def split_of(entry: Entry) -> str:
        bucket = int(buckets([entry.key], [entry.group])[0])
        inside = (name for name, (low, high) in dataset.splits.items() if low <= bucket < high)
        return next(inside, "")

    def add(entry: Entry, day: date, sign: int) -> None:
        if entry.action == "retract":
            return
        split = split_of(entry)
        splits[split] += sign
        days[day]["live"] += sign
        total["grouped"] += sign * (entry.group is not None)
        days[day]["bytes"] += sign * sizes.get(entry.position, 0)
        if entry.position in samples:
            for name in labels:
                index = int(samples[entry.position][name])
                classes[name][split][index] += sign
                changes[name][day][index] += sign

    for entry in entries:
        by_position[entry.position] = entry
        day = entry.created_at.date()
        action = {"insert": "inserted", "revise": "revised", "retract": "retracted"}[entry.action]
        days[day][action] += 1
        sources[entry.source][day][action] += 1
        if entry.group is not None:
            groups.add(entry.group)
        total["stored"] += sizes.get(entry.position, 0)
        add(entry, day, 1)
        if entry.supersedes is not None:
            before = by_position[entry.supersedes]
            add(before, day, -1)
            old, new = samples.get(before.position), samples.get(entry.position)
            if old and new and any(old[name] != new[name] for name in labels):
                days[day]["relabelled"] += 1
    listed, live, size = [], 0, 0
    for day in sorted(days):
        each = days[day]
        live, size = live + each["live"], size + each["bytes"]
        rows = each["inserted"], each["revised"], each["retracted"]
        listed.append(DayCounts(day, *rows, each["relabelled"], live, size))
    by_rows = sorted(
        list(sources)[:KEPT_SOURCES],
        key=lambda s: (-sum(map(Counter.total, sources[s].values())), s or "", s is None),
    )
    others: dict[date, Counter[str]] = defaultdict(Counter)
    for source in [*by_rows[MOST_SOURCES:], *list(sources)[KEPT_SOURCES:]]:
        for day, counts in sources[source].items():
            others[day].update(counts)
    return Statistics(
        position=head.position,
        chain=head.chain.hex(),
        until=head.position,
        counted_at=datetime.now(UTC),
        live=live,
        bytes=size,
        stored_bytes=total["stored"],
        grouped=total["grouped"],
        groups=min(MOST_GROUPS, len(groups)),
        last_row=LastRow(entries[-1].created_at, entries[-1].source) if entries else None,
        splits=dict(splits),
        days=listed,
        by_source={source: _source_days(sources[source]) for source in by_rows[:MOST_SOURCES]},
        other_sources=_source_days(others),
        classes={
            name: {split: _nonzero(by_split[split]) for split in splits}
            for name, by_split in classes.items()
        },
        classes_by_day={
            name: {day: changed for day in sorted(by_day) if (changed := _nonzero(by_day[day]))}
            for name, by_day in changes.items()
            if labels[name] <= MOST_CLASSES_BY_DAY
        },
    )


def _source_days(days: dict[date, Counter[str]]) -> list[SourceDay]:
    return [
        SourceDay(day, days[day]["inserted"], days[day]["revised"], days[day]["retracted"])
        for day in sorted(days)
    ]


def _nonzero(counts: Counter[int]) -> dict[int, int]:
    return {index: counts[index] for index in sorted(counts) if counts[index]}
