"""The counts of a log: sums over its rows, to which rows are added and from which they are taken.

Each row adds what it changes: it makes a sample live, and the one that it supersedes no more. So
all counts are a sum of one term for each row, which depends on this row and on the one that it
supersedes. New rows are added without reading older ones again. Where a row is erased, its term and
that of the row that supersedes it are taken away, and added again as they are without its content.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.catalog.statistics.row_facts import ERASED, Labels, RowFacts

INSERTED, REVISED, RETRACTED = range(3)
"""What a row does: numbers of actions."""
OTHERS = -1
"""Stands for the hash of each source that is not counted by itself."""
HELD = ""
"""Counted as a feature of which every sample with a record has class 0; no feature has this name.

What is counted of it is what a feature that is added later has of its default."""

Key = tuple[Any, ...]
_Codes = npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]
_Column = tuple[npt.NDArray[Any] | None, npt.NDArray[Any]]
"""Distinct values and, for each row, the index of its value; or None and whole numbers from 0."""


@dataclass(frozen=True)
class Terms:
    """What decides on the terms of a row.

    ``stops`` are the ends of the splits' buckets, ``sources`` the hashes of the sources that are
    counted by themselves. ``names`` are those of the labels that are counted, None for others, and
    ``by_day`` those that are also counted by day.
    """

    stops: Sequence[int]
    sources: Container[int]
    names: Sequence[str | None]
    by_day: Container[str]


@dataclass
class Tally:
    """Counts by key. Days are numbers since 1970, sources are hashes, splits are numbers.

    ``classes`` are live samples by feature, split and class, ``class_changes`` how these changed by
    feature, day and class.
    """

    actions: Counter[Key] = field(default_factory=Counter)
    """Rows by day and action."""
    sources: Counter[Key] = field(default_factory=Counter)
    """Rows by source, day and action."""
    relabelled: Counter[Key] = field(default_factory=Counter)
    """Revisions that changed a class, by day."""
    live: Counter[Key] = field(default_factory=Counter)
    """Changes of the number of live samples, by day."""
    bytes: Counter[Key] = field(default_factory=Counter)
    """Changes of the bytes of live samples, by day."""
    splits: Counter[Key] = field(default_factory=Counter)
    """Live samples by split."""
    totals: Counter[Key] = field(default_factory=Counter)
    """``stored`` bytes, and ``grouped`` live samples."""
    classes: Counter[Key] = field(default_factory=Counter)
    class_changes: Counter[Key] = field(default_factory=Counter)

    def add(self, facts: RowFacts, before: RowFacts, terms: Terms, sign: int = 1) -> None:
        """Add the terms of rows; ``before`` has for each the row that it supersedes.

        Where a row supersedes none, the one in ``before`` is any. A ``sign`` of -1 takes the rows
        away.
        """
        if not len(facts):
            return
        rows, old = facts.rows, before.rows
        revises = rows["supersedes"] >= 0
        day = np.unique(rows["day"], return_inverse=True)
        retracts = rows["size"] < ERASED
        action = None, np.where(retracts, RETRACTED, np.where(revises, REVISED, INSERTED))
        _count(self.actions, sign, day, action)
        _count(self.sources, sign, _sources(rows["source"], terms.sources), day, action)
        live = (~retracts).astype(np.int64) - (revises & (old["size"] >= ERASED))
        _count(self.live, sign, day, weights=live)
        size = np.maximum(rows["size"], 0).astype(np.int64)
        _count(self.bytes, sign, day, weights=size - np.maximum(old["size"], 0) * revises)
        split = np.searchsorted(np.array(terms.stops), rows["bucket"], side="right")
        _count(self.splits, sign, (None, split), weights=live)
        self.totals[("stored",)] += sign * int(size.sum())
        self.totals[("grouped",)] += sign * int((live * (rows["grouped"] > 0)).sum())
        changed = (facts.labels != before.labels).any(axis=1) & facts.held & before.held & revises
        _count(self.relabelled, sign, day, weights=changed.astype(np.int64))
        # Of a superseded row, too, the split and the day are those of the row that supersedes it.
        self._add_classes(facts.held, facts.labels, split, day, terms, sign)
        self._add_classes(before.held & revises, before.labels, split, day, terms, -sign)

    def _add_classes(
        self, held: _Mask, labels: Labels, split: _Codes, day: _Column, terms: Terms, sign: int
    ) -> None:
        splits, days = (None, split[held]), (day[0], day[1][held])
        classes = [(HELD, np.zeros(len(splits[1]), np.int64))]
        classes += [
            (name, labels[held, column])
            for column, name in enumerate(terms.names)
            if name is not None
        ]
        for name, index in classes:
            _count(self.classes, sign, splits, (None, index), prefix=(name,))
            if name == HELD or name in terms.by_day:
                _count(self.class_changes, sign, days, (None, index), prefix=(name,))

    def add_label(self, name: str, default: int | None, *, by_day: bool) -> None:
        """Count a feature that all rows so far have the default of."""
        for (_, split, _), count in [*_of(self.classes, HELD)]:
            self.classes[name, split, default or 0] += count
        for (_, day, _), count in [*_of(self.class_changes, HELD)]:
            if by_day:
                self.class_changes[name, day, default or 0] += count

    def remove_label(self, name: str, *, by_day_only: bool) -> None:
        """Count a feature no more, or only not by day."""
        for counts in [self.class_changes, *([] if by_day_only else [self.classes])]:
            for key, _ in [*_of(counts, name)]:
                del counts[key]


def _sources(hashes: npt.NDArray[np.uint64], counted: Container[int]) -> _Column:
    values, codes = np.unique(hashes, return_inverse=True)
    keys = [value if value in counted else OTHERS for value in values.tolist()]
    return np.array(keys, object), codes


def _of(counts: Counter[Key], name: str) -> list[tuple[Key, int]]:
    return [(key, count) for key, count in counts.items() if key[0] == name]


def _count(
    counts: Counter[Key],
    sign: int,
    *columns: _Column,
    weights: _Codes | None = None,
    prefix: Key = (),
) -> None:
    """Add to counts how many rows have each combination of values, or the sums of their weights.

    They are those of all columns, after ``prefix``.
    """
    code: _Codes = np.zeros(len(columns[0][1]), np.int64)
    sizes = []
    for values, codes in columns:
        size = len(values) if values is not None else int(codes.max(initial=0)) + 1
        code = code * size + codes
        sizes.append(size)
    combinations, index = np.unique(code, return_inverse=True)
    if weights is None:
        sums = np.bincount(index, minlength=len(combinations))
    else:
        # Exact: below 2**53, as are the bytes of a block of rows.
        sums = np.rint(np.bincount(index, weights, len(combinations))).astype(np.int64)
    parts = np.unravel_index(combinations, sizes)
    named = [
        part if values is None else values[part]
        for part, (values, _) in zip(parts, columns, strict=True)
    ]
    for *key, count in zip(*(each.tolist() for each in named), sums.tolist(), strict=True):
        if count:
            counts[(*prefix, *key)] += sign * count
            if not counts[(*prefix, *key)]:
                del counts[(*prefix, *key)]
