"""What changed in the data between two epochs of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from registry.samples.arrays import Positions
from registry.samples.features import ClassLabel
from registry.storage.database.transactions import read
from registry.storage.log.entries import entries_among, sources_among
from registry.storage.log.records import records_at
from registry.training.run import Run


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
