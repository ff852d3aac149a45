"""Samples read from the mirror, which is repaired where it is damaged."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from platformdirs import user_cache_path

from registry.errors import CacheWarning, MirrorError
from registry.samples.arrays import Positions, Rows
from registry.storage.log.reader import Log
from registry.storage.mirror.index import Gather, Index, Indexes, in_memory
from registry.storage.mirror.local_files import LocalFiles
from registry.storage.mirror.mirror import Mirror
from registry.storage.mirror.snapshot import View
from registry.training.database_source import DatabaseSource
from registry.training.population import (
    Population,
    live_in_view,
)
from registry.training.source import Record, Source, drawn, refuse

TRIES = 3
"""How often rows are taken that turn out broken, with a repair in between."""


Taken = TypeVar("Taken")


class MirrorSource:
    """Reads a mirror that goes as far as the watermark; repairs what it finds broken.

    What is erased in the mirror, but not in this database, is read from the database.
    """

    def __init__(
        self, mirror: Mirror, watermark: int, chain: bytes, erased: int | None = None
    ) -> None:
        self.mirror = mirror
        self.view = mirror.sync(watermark, chain, erased)
        self._history = watermark, chain
        self._indexes = Indexes(mirror.folder / "epochs")

    @property
    def log(self) -> Log:
        return self.mirror.log

    @property
    def record_bytes(self) -> int:
        return self.view.state.sizes["records"] // max(1, self.view.position)

    def index(self, population: Population, size: int | None) -> Index:
        # What is drawn is in no order, so it always needs entries.
        count = population.watermark - population.since if population.draw is None else -1
        dense = Index(count, population.since)
        if size == dense.size:
            return dense
        if self.view.gone:
            self._renew()
        if not self.view.intact(population.since if count >= 0 else 0, population.watermark):
            self.mirror.restart(self.view)
            self._renew()
        # Generations tell apart what two histories of one log would call the same.
        name = f"{population.name}-{self.view.state.generation}"
        try:
            found = None if size is None else self._indexes.find(name, size)
            parts = self._live(population, self._indexes.spill)
            return found or self._indexes.make(name, parts, dense)
        except OSError as error:
            _warn(f"an epoch's index cannot be stored ({error}), so it stays in memory")
            return in_memory(self._live(population, in_memory))

    def take_rows(self, positions: Positions) -> Rows:
        return self._take(View.take_rows, DatabaseSource.take_rows, positions)

    def take_records(self, positions: Positions) -> Sequence[Record]:
        return self._take(View.take_records, DatabaseSource.take_records, positions)

    def local_files(self, index: Index) -> LocalFiles | None:
        if index.entries is not None and index.path is None:
            return None
        while True:
            if self.view.gone:
                self._renew()
            self.mirror.scan(self.view, *self._history)
            with suppress(FileNotFoundError, BlockingIOError):  # another process has replaced it
                held = self.view.hold()
                return LocalFiles(self.view, index, self.mirror.withheld(self.view), held)

    def erased(self, population: Population) -> list[tuple[int, str]]:
        if self.mirror.erasures == 0:
            return []
        return DatabaseSource(self.mirror.log, *self._history).erased(population)

    def _take(
        self,
        take: Callable[[View, Positions], tuple[Taken, npt.NDArray[np.bool_]]],
        instead: Callable[[DatabaseSource, Positions], Taken],
        positions: Positions,
    ) -> Taken:
        """Take rows from the mirror, mended where they are broken, or from the database."""
        for _ in range(TRIES):
            taken, broken = take(self.view, positions)
            if not broken.any():
                return taken
            refuse([(row.position, row.key) for row in self.mirror.erased(positions[broken])])
            withheld = np.isin(positions[broken], self.mirror.listed(self.view)).any()
            if withheld or not self._mend(positions[broken]):
                return instead(DatabaseSource(self.mirror.log, *self._history), positions)
        raise MirrorError(
            f"{self.mirror.folder}: the row at position {positions[broken][0]} is damaged, and "
            "stays so after writing it again; check the disk, or point $REGISTRY_CACHE elsewhere"
        )

    def _mend(self, positions: Positions) -> bool:
        """Mend the rows at these positions; tell whether that is possible."""
        try:
            if self.view.gone:
                self._renew()
            else:
                self.mirror.repair(self.view, positions, *self._history)
        except OSError as error:
            _warn(f"damaged rows cannot be mended ({error}), so they are read from the database")
            return False
        return True

    def _renew(self) -> None:
        """Map the mirror's files anew: those mapped here have been replaced."""
        self.view = self.mirror.sync(*self._history)

    def _live(self, population: Population, gather: Gather) -> Iterator[Positions]:
        def live(after: int, until: int) -> Iterator[Positions]:
            return live_in_view(self.view, population, after, until)

        yield from live(population.since, population.watermark)
        if population.draw is not None:
            new = sum(map(len, live(population.since, population.watermark)))
            older = gather(live(0, population.since))
            yield older.positions(drawn(population, new, older.size))


def cache_folder() -> Path:
    """Return where mirrors lie: ``$REGISTRY_CACHE``, or the user's cache directory."""
    given = os.environ.get("REGISTRY_CACHE")
    return Path(given) if given else user_cache_path("registry")


class Sources:
    """Finds the source for a watermark: brings the mirror up to it, or does without one."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._mirror: Mirror | None = None

    def __reduce__(self) -> tuple[type[Sources], tuple[Log]]:
        return Sources, (self._log,)

    def at(self, watermark: int, chain: bytes, erased: int | None = None) -> Source:
        """Return a source of the log's first ``watermark`` rows, which end in this chain.

        ``erased`` is how many rows the database has erased, if that is known.
        Warns with `CacheWarning` where the cache directory cannot be written or is full.
        """
        try:
            return MirrorSource(self.mirror(), watermark, chain, erased)
        except OSError as error:
            _warn(f"no local copy can be kept ({error}), so all is read from the database, slowly")
            return DatabaseSource(self._log, watermark, chain)

    def mirror(self) -> Mirror:
        """Return the mirror; raises `OSError` where there can be none."""
        folder = cache_folder()
        if self._mirror is None or self._mirror.folder.parent != folder:
            self._mirror = Mirror(self._log, folder)
        return self._mirror


def _warn(what: str) -> None:
    warnings.warn(
        f"{what}; point $REGISTRY_CACHE, now {cache_folder()}, to a directory with room",
        CacheWarning,
        stacklevel=3,
    )
