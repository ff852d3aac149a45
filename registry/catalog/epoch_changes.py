"""What changed in the data between two epochs of a run, from the facts of rows.

The facts (`statistics/row_facts`) say which rows an epoch holds, unless the run has conditions on
texts or numbers, or there is no room for a cache: then its index says it.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from registry.catalog.statistics.count import StatisticsError, log_counter
from registry.catalog.statistics.count_state import CountState
from registry.catalog.statistics.row_facts import RETRACTED, RowFacts
from registry.catalog.statistics.row_search import divided_filters
from registry.catalog.statistics.row_store import BLOCK, DamagedStoreError, RowStore
from registry.samples.features import ClassLabel, Features
from registry.storage.database.transactions import read
from registry.storage.log.entries import entries_among
from registry.storage.log.reader import Log
from registry.training.filters import Filter, filters
from registry.training.pin_store import Pin, pinned
from registry.training.population import Population
from registry.training.run import Run
from registry.training.source import drawn_ranks
from registry.training.value_columns import SOURCES

NAMED_SOURCES = 100
"""Sources that a composition names, at most."""

_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Composition:
    """How many samples, by source, and by class of each `ClassLabel`, by name or number.

    ``sources`` has at most `NAMED_SOURCES`, those with most samples; the samples of all others are
    ``other_sources``. Samples that were erased are in ``size`` and ``sources``, and have no class.
    Classes without samples are left out.
    """

    size: int
    sources: Mapping[str | None, int]
    other_sources: int
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


def epoch_changes(run: Run, before: SupportsIndex, after: SupportsIndex) -> EpochChanges:
    """Return what changed from the pinned epoch ``before`` of a run to the one ``after``.

    It takes time that grows with the epochs, and counts the rows that were not counted yet. Raises
    `EpochError` if one of them is not pinned, `DivergenceError` or `ErasedError` if the log has
    other samples for it, and `StatisticsError` if ``$REGISTRY_CACHE`` cannot be used.
    """
    numbers = operator.index(before), operator.index(after)
    pins = [pinned(run.log.engine, run.settings, number).pin for number in numbers]
    rows = _Rows.of(run, max(pin.watermark for pin in pins))
    held = [rows.held(run, pin) for pin in pins]
    size = max(map(len, held))
    first, second = (np.concatenate([each, np.zeros(size - len(each), bool)]) for each in held)
    # That of the newer epoch: it has the classes of both.
    schema = run.log.schemas.numbered(max(pin.schema for pin in pins))
    return EpochChanges(
        *numbers,
        int((first & second).sum()),
        rows.composition(second & ~first, schema.features),
        rows.composition(first & ~second, schema.features),
    )


class _Rows:
    """The facts of the rows of a run's log."""

    def __init__(self, log: Log, state: CountState, store: RowStore) -> None:
        self._log = log
        self._store = store
        self._labels = [each.label.name for each in state.files.labels]
        self._sources = state.sources

    @classmethod
    def of(cls, run: Run, until: int) -> _Rows:
        """Return the facts of the rows before a position, which are counted now if need be."""
        try:
            counter = log_counter(run.log)
            state, _ = counter.update()
        except OSError as error:
            raise StatisticsError.unusable(run.dataset, error) from error
        if state.position < until:
            raise StatisticsError(
                f"rows of {run.dataset!r} are being counted by another process: {state.position} "
                f"of {until} so far; try it again"
            )
        return cls(run.log, state, counter.store(state))

    def held(self, run: Run, pin: Pin) -> _Mask:
        """Return which rows before an epoch's watermark the epoch holds."""
        population = run.population(pin.number, pin.since, pin.watermark)
        known, others = divided_filters(
            filters(population.conditions, run.log.codec.features), run.log.codec.features
        )
        held = np.zeros(pin.watermark, bool)
        if not others and {name for name, _ in known if name is not None} <= {*self._labels}:
            alive = self._alive(population, known)
            held[population.since :] = alive[population.since :]
            if population.draw is not None:
                older = np.flatnonzero(alive[: population.since])
                held[older[drawn_ranks(population, int(held.sum()), len(older))]] = True
            if held.sum() == pin.size:
                return held
        # Where the log has another number of samples, this raises the error that says why.
        held[:] = False
        for positions in run.positions(pin.number):
            held[positions] = True
        return held

    def _alive(self, population: Population, tests: list[tuple[str | None, Filter]]) -> _Mask:
        """Return which rows before the watermark are live there, whatever ``since`` is."""
        alive = np.zeros(population.watermark, bool)
        low, high = population.interval
        for after, facts in self._blocks(0, population.watermark):
            bucket = facts.rows["bucket"]
            inside = (facts.rows["size"] != RETRACTED) & (bucket >= low) & (bucket < high)
            for name, test in tests:
                # Nobody knows the class that an erased row had.
                inside &= facts.held & test(self._values(facts, name, test))
            alive[after : after + len(facts)] = inside
            # Only rows before: they are in blocks that were read.
            supersedes = facts.rows["supersedes"]
            alive[supersedes[supersedes >= 0]] = False
        return alive

    def _values(self, facts: RowFacts, name: str | None, test: Filter) -> npt.NDArray[Any]:
        if test.column is SOURCES or name is None:
            values: npt.NDArray[Any] = facts.rows["source"]
            return values
        return facts.labels[:, self._labels.index(name)]

    def composition(self, held: _Mask, features: Features) -> Composition:
        """Return what these rows are made of."""
        sources: Counter[int] = Counter()
        examples: dict[int, int] = {}
        counts: dict[str, Counter[int]] = {
            name: Counter() for name in self._labels if name in features
        }
        for after, facts in self._blocks(0, len(held), held):
            rows = held[after : after + len(facts)]
            hashes, first = np.unique(facts.rows["source"][rows], return_index=True)
            positions = np.flatnonzero(rows)[first] + after
            examples.update(zip(hashes.tolist(), positions.tolist(), strict=True))
            sources.update(facts.rows["source"][rows].tolist())
            for name, count in counts.items():
                labels = facts.labels[rows & facts.held, self._labels.index(name)]
                count.update(labels.tolist())
        named = self._named(sources, examples)
        size = int(held.sum())
        return Composition(
            size,
            named,
            size - sum(named.values()),
            {name: _by_name(features, name, counts[name]) for name in counts},
        )

    def _named(self, sources: Counter[int], examples: Mapping[int, int]) -> dict[str | None, int]:
        """Return the counts of the sources with most samples, by their texts."""
        most = sources.most_common(NAMED_SOURCES)
        unknown = [source for source, _ in most if source not in self._sources]
        names = dict(self._sources)
        if unknown:
            positions = np.array([examples[source] for source in unknown], np.int64)
            rows = read(self._log.engine, entries_among, self._log.dataset_id, positions)
            texts = {row.position: row.source for row in rows}
            names.update({source: texts[examples[source]] for source in unknown})
        pairs = [(names[source], count) for source, count in most]
        return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0] or "")))

    def _blocks(
        self, after: int, until: int, wanted: _Mask | None = None
    ) -> Iterator[tuple[int, RowFacts]]:
        """Yield where blocks begin, and their facts; only of those with a wanted row."""
        try:
            for start in range(after, until, BLOCK):
                stop = min(until, start + BLOCK)
                if wanted is None or wanted[start:stop].any():
                    yield start, self._store.read(start, stop)
        except DamagedStoreError as error:
            raise StatisticsError(
                f"the counts are damaged, or were replaced just now ({error}); try it again"
            ) from error


def _by_name(features: Features, name: str, counts: Counter[int]) -> dict[str, int]:
    label = features[name]
    assert isinstance(label, ClassLabel)
    names = label.names
    return {
        str(index) if names is None else names[index]: counts[index] for index in sorted(counts)
    }
