"""The samples of a pinned epoch: where in the log they are, and whether they are still there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NoReturn, Self, TypeVar

import numpy as np

from registry.errors import DivergenceError, ErasedError, MirrorError
from registry.samples.arrays import Positions
from registry.samples.schema import Schema
from registry.storage.mirror.index import Index
from registry.training.erased_samples import Erased, erased_error, erased_samples, lost_samples
from registry.training.offset_table import OffsetTable
from registry.training.permutation import Permutation
from registry.training.pin_store import Pin
from registry.training.population import Population, contains
from registry.training.run_store import RunSettings
from registry.training.source import Source
from registry.training.sources import Sources

Part = TypeVar("Part")
_OPENED = {"source", "index", "_table"}
"""Attributes that are not pickled, since they belong to one process or can be made again."""


class PinnedSamples:
    """A fixed set of samples in a fixed order; `Epoch` reads them.

    The attributes are those of `Epoch`. Safe to share between threads. After unpickling, the source
    and the index are opened on first use.
    """

    def __init__(
        self, run: RunSettings, pin: Pin, schema: Schema, population: Population, sources: Sources
    ) -> None:
        self.run = run
        self.schema = schema
        self.number: int = pin.number
        self.since: int = pin.since
        self.watermark: int = pin.watermark
        self.chain: bytes = pin.chain
        self.size: int = pin.size
        self.start: int = pin.start
        self.older: int | None = pin.older
        self.order: Permutation = Permutation.keyed(pin.size, run.seed, pin.number)
        self._log_end = pin.log_end
        self._population = population
        self._sources = sources

    @classmethod
    def open(
        cls,
        run: RunSettings,
        pin: Pin,
        schema: Schema,
        population: Population,
        sources: Sources,
        source: Source | None = None,
    ) -> Self:
        """Return a pinned epoch whose source and index are open.

        ``source`` is one that is open at the pin's watermark already. Raises `ErasedError` where
        samples of the epoch were erased, and `DivergenceError` where the log has another number of
        samples for it.
        """
        epoch = cls(run, pin, schema, population, sources)
        if source is not None:
            epoch.source = source
        # Used now, so that these errors are raised here and not by the first batch.
        _ = epoch.index
        epoch._refuse_erased()
        return epoch

    def in_schema(self, schema: Schema) -> Self:
        """Return the epoch with its samples in another schema of the dataset."""
        if schema.number == self.schema.number:
            return self
        other = object.__new__(type(self))
        vars(other).update(vars(self), schema=schema)
        # The mirror's files may have an older layout than this schema.
        if schema.number > self.schema.number:
            vars(other).pop("source", None)
        return other

    def __getstate__(self) -> dict[str, Any]:
        # Without memory maps and locks, which another process cannot use.
        return {name: value for name, value in vars(self).items() if name not in _OPENED}

    # Cached without a lock: two threads may both open it, and either result is right.
    @cached_property
    def source(self) -> Source:
        """The mirror or the database, from which samples are read."""
        return self._sources.open(self._log_end, self.schema.number)

    @cached_property
    def index(self) -> Index:
        """The positions in the log of the epoch's samples, by rank."""
        return self._make_index(self.size)

    @cached_property
    def _table(self) -> OffsetTable:
        return OffsetTable(self.size)

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"<epoch {self.number} of run {self.run.name!r}: {self.size} samples>"

    def positions(self, offsets: Positions) -> Positions:
        """Return the positions in the log of the samples at these offsets."""

        def located(index: Index) -> Positions:
            # Made again for another index, since they are overwritten: fresh memory would cost as
            # much as a few passes over it.
            ranks = self.order(offsets)
            return index.positions(ranks, ranks)

        return self._with_index(located)

    def lookup(self, offsets: Positions) -> Positions:
        """Return what `positions` does, for those who look up a few offsets many times.

        Negative ones count from the end. Raises `IndexError` where there is no sample.
        """
        return self._table.positions(offsets, self.positions)

    def ranked(self, rows: int) -> Iterator[Positions]:
        """Yield the positions of all samples in the order of the log, ``rows`` at a time.

        Those that a replay draws come last, in no order.
        """
        for after in range(0, self.size, rows):
            yield self._at_ranks(np.arange(after, min(self.size, after + rows)))

    def erased_positions(self) -> Positions:
        """Return the positions of the epoch's samples that were erased, in ascending order."""
        return self.held(self.source.erased(self._population))

    def _at_ranks(self, ranks: Positions) -> Positions:
        return self._with_index(lambda index: index.positions(ranks))

    def _with_index(self, use: Callable[[Index], Part]) -> Part:
        """Return what ``use`` returns, with a new index where the present one is damaged."""
        try:
            return use(self.index)
        except MirrorError:
            # With the size given, the damaged file would be mapped again instead of replaced.
            self.index = self._make_index(None, follow=False)
            return use(self.index)

    @contextmanager
    def _naming_erased(self) -> Iterator[None]:
        """Name the epoch in an `ErasedError` that is raised while reading."""
        try:
            yield
        except ErasedError as error:
            self._name_erased(error)

    def _name_erased(self, error: ErasedError) -> NoReturn:
        # First with all erased samples of the epoch; else with those that were just read.
        self._refuse_erased()
        self._refuse(list(zip(error.positions, error.keys, strict=True)))

    def _refuse_erased(self) -> None:
        """Raise `ErasedError` with all samples of the epoch that are known to be erased."""
        # An erased sample is retracted, too: later epochs do not hold it, and ask for no key.
        erased = self.source.erased(self._population)
        held = self.held(erased)
        # Where an older sample that met the conditions is lost, the same ranks draw other samples.
        # Every machine must find that, also one that has the index that was made before.
        if self.older is not None and not len(held) and len(erased) and erased[0] < self.since:
            self.index = self._make_index(None)
        if samples := erased_samples(self.source, held):
            self._refuse(samples)

    def held(self, positions: Positions) -> Positions:
        """Return which of these positions, in ascending order, hold samples of the epoch."""
        if not len(positions):
            return positions
        return positions[
            self._with_index(lambda index: contains(index, self._population, positions))
        ]

    def _refuse(self, erased: Erased, verb: str = "held") -> NoReturn:
        end = self.start + self.size
        raise erased_error(self.run, self.number, end, erased, verb) from None

    def _make_index(self, size: int | None, *, follow: bool = True) -> Index:
        index = self.source.index(self._population, size, self.older, follow=follow)
        # Another size is another set of samples: training on it would not be a replay.
        if (index.size, index.older) != (self.size, self.older):
            # Samples that were erased are left out where there are conditions.
            if self._population.conditions and (
                lost := lost_samples(self.source, self._population)
            ):
                self._refuse(lost, "may have held")
            raise DivergenceError(
                f"{self!r} was pinned with {self.size} samples, but the log has {index.size} for it"
            )
        return index
