"""Looking through the samples of a dataset, and at what changed between the epochs of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from registry.catalog.dataset import Dataset
from registry.samples.arrays import Positions
from registry.samples.features import ClassLabel
from registry.samples.splits import buckets, interval
from registry.storage.database.transactions import read
from registry.storage.log.entries import entries_among, sources_among
from registry.storage.log.records import records_at
from registry.training.conditions import Conditions, Where
from registry.training.filters import filters
from registry.training.parse_conditions import parse_conditions
from registry.training.population import Population, live_in_database
from registry.training.run import Run
from registry.training.value_columns import SOURCES, text_hash

SEARCHED = 1 << 12
"""Rows that one call searches, at most."""


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


@dataclass(frozen=True)
class Composition:
    """How many samples, by source, and by class of each `ClassLabel`, by name or number.

    Samples that were erased are in ``size`` and ``sources``, and have no class.
    """

    size: int
    sources: Mapping[str | None, int]
    classes: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class EpochChanges:
    """What changed from one epoch of a run to another.

    Rows of the log that only the later one holds ``came``, those that only the earlier one holds
    ``went``; a sample that was revised is one of each. ``kept`` rows are in both.
    """

    before: int
    after: int
    kept: int
    came: Composition
    went: Composition


def find_samples(
    dataset: Dataset,
    *,
    where: Where | None = None,
    split: str | None = None,
    before: int | None = None,
    limit: int = 48,
) -> SamplePage:
    """Return live samples of a dataset or of a version, the newest first.

    ``where`` has conditions as `Dataset.run` takes them, ``before`` is the cursor of the page
    before. A bounded number of rows is searched. Raises `FeatureError` for a split or a condition
    that cannot be.
    """
    log, end = dataset.log, dataset.extent.end()
    conditions = Conditions() if where is None else parse_conditions(where, dataset.features)
    tests = filters(conditions, dataset.features)
    schema, population = dataset.schema, Population(end, interval(dataset.splits, split))
    stop = end if before is None else max(0, min(before, end))
    start = max(0, stop - SEARCHED)
    live = read(log.engine, live_in_database, log.dataset_id, population, start, stop)
    samples: list[ListedSample] = []
    for part in np.array_split(live[::-1], max(1, -(-len(live) // limit))):
        entries = {e.position: e for e in read(log.engine, entries_among, log.dataset_id, part)}
        held = np.array([p for p in part.tolist() if not entries[p].erased], np.int64)
        stored = read(log.engine, records_at, log.dataset_id, held.tolist())
        records = log.schemas.brought(held.tolist(), stored, schema)
        mask = np.ones(len(held), bool)
        for each in tests:
            if each.column is SOURCES:
                sources = (entries[p].source for p in held.tolist())
                hashes = [text_hash(None if s is None else s.encode()) for s in sources]
                mask &= each(np.array(hashes, np.uint64))
            elif len(held):
                mask &= each(each.column.of_records(schema.codec, records))
        for position, record, matches in zip(held.tolist(), records, mask.tolist(), strict=True):
            if not matches:
                continue
            entry = entries[position]
            samples.append(
                ListedSample(
                    position,
                    entry.key,
                    entry.source,
                    entry.group,
                    _split(dataset, entry.key, entry.group),
                    entry.created_at,
                    schema.codec.decode_one(record),
                )
            )
            if len(samples) == limit:
                return SamplePage(samples, position or None)
    return SamplePage(samples, start or None)


def epoch_changes(run: Run, before: int, after: int) -> EpochChanges:
    """Return what changed from the pinned epoch ``before`` of a run to the one ``after``.

    Raises `EpochError` if one of them is not pinned. It takes time that grows with the epochs.
    """
    first, second = _positions(run, before), _positions(run, after)
    came = np.setdiff1d(second, first)
    went = np.setdiff1d(first, second)
    return EpochChanges(
        before,
        after,
        len(second) - len(came),
        _composition(run, came),
        _composition(run, went),
    )


def _positions(run: Run, number: int) -> Positions:
    return np.array([entry.position for entry in run.entries(number)], np.int64)


def _composition(run: Run, positions: Positions) -> Composition:
    log = run.log
    sources: dict[str | None, int] = {}
    classes: dict[str, Counter[str]] = {}
    if len(positions):
        sources = dict(read(log.engine, sources_among, log.dataset_id, positions))
    rows = read(log.engine, entries_among, log.dataset_id, positions) if len(positions) else []
    held = [row.position for row in rows if not row.erased]
    stored = read(log.engine, records_at, log.dataset_id, held)
    schema = run.log.schemas.newest
    for record in log.schemas.brought(held, stored, schema):
        values = schema.codec.decode_one(record)
        for name, feature in schema.features.items():
            if isinstance(feature, ClassLabel):
                index = int(values[name])
                counts = classes.setdefault(name, Counter())
                counts[feature.names[index] if feature.names else str(index)] += 1
    return Composition(len(positions), sources, classes)


def _split(dataset: Dataset, key: str, group: str | None) -> str | None:
    bucket = int(buckets([key], [group])[0])
    splits = dataset.splits.items()
    return next((name for name, (start, stop) in splits if start <= bucket < stop), None)
