"""Samples read from the mirror, and from the database where the mirror cannot serve them.

Rows are taken from the mirror's memory maps, and their seals checked. If one is broken, either the
sample was erased, which is an error, or the row is damaged: then it is repaired and taken again. If
the files cannot be written, the rows are read from the database.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from platformdirs import user_cache_path

from registry.errors import CacheWarning, MirrorError
from registry.samples.arrays import Positions, Rows
from registry.samples.codec import Column
from registry.samples.schema import Schema
from registry.storage.log.reader import Log
from registry.storage.log.watermark import Watermark
from registry.storage.mirror.index import Index, in_memory
from registry.storage.mirror.index_blocks import ONE_BLOCK, block_shift
from registry.storage.mirror.local_files import LocalFiles
from registry.storage.mirror.mirror import Mirror
from registry.storage.mirror.packed import Packed
from registry.storage.mirror.prefixes import link_prefix
from registry.storage.mirror.snapshot import View
from registry.training.database_source import DatabaseSource
from registry.training.filters import Matches, filters
from registry.training.mirror_columns import MirrorColumns
from registry.training.population import (
    Population,
    dead_in_view,
    live_in_view,
)
from registry.training.source import drawn_ranks, refuse_erased
from registry.training.value_columns import ValueColumn, Values

TRIES = 3
"""How often broken rows are taken before giving up, with a repair in between."""

Taken = TypeVar("Taken")


class MirrorSource:
    """A `Source` over a mirror whose ``view`` reaches at least the watermark.

    It repairs damaged rows. Rows that are erased in the mirror but not in this database are read
    from the database. ``schema`` is the number of the newest schema in which rows are taken.
    """

    def __init__(self, mirror: Mirror, view: View, watermark: Watermark, schema: int) -> None:
        self.mirror = mirror
        self.view: View = view
        self._watermark = watermark
        self._schema = schema

    @property
    def log(self) -> Log:
        return self.mirror.log

    @property
    def record_bytes(self) -> int:
        sizes = self.view.state.sizes
        return (sizes["records"] + sizes["values"]) // max(1, self.view.position)

    def index(
        self,
        population: Population,
        size: int | None,
        older: int | None = None,
        *,
        follow: bool = True,
    ) -> Index:
        # An index without entries stands for consecutive positions. A replay's are not, so for it
        # the size is one that no index has.
        count = population.watermark - population.since if population.draw is None else -1
        dense = Index(count, population.since)
        # Every row of the range is in the population: there is no file to read.
        if size == dense.size:
            return dense
        if self.view.replaced:
            self._map_again()
        try:
            if size is not None:
                existing = self.mirror.indexes.find(self._name(population, older), size)
                if existing is not None:
                    return replace(existing, older=older)
            following = self._following(population, dense) if follow else None
            return following or self._made(population, dense)
        except OSError as error:
            warn(f"an epoch's index cannot be stored ({error}), so it stays in memory")
            return self._made(population, None)

    def _following(self, population: Population, dense: Index) -> Index | None:
        """Return an index that is made from one of an earlier watermark, if there is one."""
        if population.since or population.draw is not None or population.conditions:
            return None
        newest = self.mirror.indexes.newest(population.family, population.watermark, self._chain_at)
        if newest is None:
            return None
        after, before = newest
        self._check_view(after, population.watermark)
        added = self._live(population, after, population.watermark, None)
        dead = dead_in_view(self.view, after, population.watermark)
        # Where an entry is damaged, all are made from the log.
        with suppress(MirrorError):
            name = self._name(population, None)
            joined = np.concatenate([np.empty(0, np.int64), *added])
            return self.mirror.indexes.follow(name, before, dead[dead < after], joined, dense)
        return None

    def _check_view(self, after: int, until: int) -> None:
        """Begin new files if what an index is made of is damaged in this range."""
        if not self.view.intact(after, until):
            self.mirror.restart(self.view)
            self._map_again()

    def _made(self, population: Population, dense: Index | None) -> Index:
        """Return an index that is made now, in memory if ``dense`` is None.

        ``dense`` is what stands for an index of all positions.
        """
        after = population.since if population.draw is None else 0
        self._check_view(after, population.watermark)
        matches = self._matches(population)
        gather = in_memory if dense is None else self.mirror.indexes.spill
        before = None
        if population.draw is not None:
            before = gather(self._live(population, 0, population.since, matches))
        older = None if before is None or matches is None else before.size
        parts = partial(self._parts, population, before, matches)
        if dense is None:
            index = in_memory(parts())
        else:
            plain = population.draw is not None or matches is not None
            shift = ONE_BLOCK if plain else block_shift(population.share)
            index = self.mirror.indexes.make(self._name(population, older), parts, dense, shift)
        return replace(index, older=older)

    def _name(self, population: Population, older: int | None) -> str:
        """Return the name of an index's file."""
        # With the chain, so that an index made from another history of the log is not found.
        name = f"{population.name}-{self._watermark.chain.hex()[:16]}"
        # With the number of older samples: once one of them is erased, the same ranks are others,
        # and so are the samples of an index of the same size.
        return name if older is None else f"{name}-{older}"

    def _chain_at(self, position: int) -> str | None:
        """Return the log's chain as names have it; None unless the mirror was once that long."""
        anchor, _, chain = self.view.anchor(position)
        return chain.hex()[:16] if anchor == position else None

    def _matches(self, population: Population) -> Matches | None:
        """Return the conditions of a population as a function; None if it has none."""
        if not population.conditions:
            return None
        columns = MirrorColumns(self.mirror, self.view, self._watermark)
        tests = filters(population.conditions, self.log.codec.features)
        return partial(columns.matches, tests)

    def values(self, feature: str, positions: Positions) -> Values:
        if self.view.replaced:
            self._map_again()
        columns = MirrorColumns(self.mirror, self.view, self._watermark)
        return columns.take(ValueColumn.of(feature, self.log.codec.features), positions)

    def take_rows(self, positions: Positions, schema: Schema) -> Rows:
        return self._take(View.take_rows, DatabaseSource.take_rows, positions, schema)

    def take_columns(self, positions: Positions, schema: Schema) -> dict[str, Column]:
        return self._take(View.take_columns, DatabaseSource.take_columns, positions, schema)

    def take_packed(self, positions: Positions, schema: Schema) -> Packed:
        return self._take(View.take_packed, DatabaseSource.take_packed, positions, schema)

    def local_files(self, index: Index) -> LocalFiles | None:
        self.mirror.indexes.check(index)
        if index.entries is not None and index.files is None:
            return None
        while True:
            if self.view.replaced:
                self._map_again()
            # The graph that reads the files checks seals, but cannot repair: scan them first.
            self.mirror.scan(self.view, self._watermark)
            with suppress(FileNotFoundError, BlockingIOError):  # replaced meanwhile: begin again
                lease = self.view.lease()
                view = self.view.named(self._named_folder(), self._watermark.position)
                return LocalFiles(view, index, self.mirror.withheld(self.view), lease)

    def _named_folder(self) -> Path:
        """Return the name of the files' folder that other hosts have, too, where links exist."""
        try:
            return link_prefix(self.mirror.folder, self.view, self._watermark)
        except OSError:  # a cache for reading only, or a file system without links
            return self.view.path.parent

    def erased(self, population: Population) -> Positions:
        # Saves a query for logs in which nothing was ever erased.
        if self.mirror.erasures == 0:
            return np.empty(0, np.int64)
        return DatabaseSource(self.mirror.log, self._watermark).erased(population)

    def _take(
        self,
        take: Callable[[View, Positions, Schema], tuple[Taken, npt.NDArray[np.bool_]]],
        instead: Callable[[DatabaseSource, Positions, Schema], Taken],
        positions: Positions,
        schema: Schema,
    ) -> Taken:
        """Take rows from the mirror, after a repair if they are broken, or from the database.

        Raises `ErasedError` if one was erased, `MirrorError` if repairs do not last.
        """
        for _ in range(TRIES):
            taken, broken = take(self.view, positions, schema)
            if not np.count_nonzero(broken):  # `any` takes as long as the hash of a row
                return taken
            self.view.check_within(positions)
            # Before any repair, as an erased row looks like a damaged one.
            refuse_erased(
                [(row.position, row.key) for row in self.mirror.erased(positions[broken])]
            )
            withheld = np.isin(positions[broken], self.mirror.erased_here(self.view)).any()
            if withheld or not self._repair(positions[broken]):
                source = DatabaseSource(self.mirror.log, self._watermark)
                return instead(source, positions, schema)
        raise MirrorError(
            f"{self.mirror.folder}: the row at position {positions[broken][0]} is damaged, and "
            "stays so after writing it again; check the disk, or point $REGISTRY_CACHE elsewhere"
        )

    def _repair(self, positions: Positions) -> bool:
        """Repair the rows at these positions; return False if the files cannot be written."""
        try:
            # The files mapped here may be removed already; the new generation has its own rows.
            if self.view.replaced:
                self._map_again()
            else:
                self.mirror.repair(self.view, positions, self._watermark)
        except OSError as error:
            warn(f"damaged rows cannot be repaired ({error}), so they are read from the database")
            return False
        return True

    def _map_again(self) -> None:
        """Map the mirror's files again, after another generation has replaced them."""
        self.view = self.mirror.sync(self._watermark, schema=self._schema)

    def _parts(
        self, population: Population, before: Index | None, matches: Matches | None
    ) -> Iterator[Positions]:
        """Yield the positions of a population; ``before`` are those that it draws from."""
        new = 0
        for part in self._live(population, population.since, population.watermark, matches):
            new += len(part)
            yield part
        if before is not None:
            yield before.positions(drawn_ranks(population, new, before.size))

    def _live(
        self, population: Population, after: int, until: int, matches: Matches | None
    ) -> Iterator[Positions]:
        return live_in_view(self.view, population, after, until, matches)


def cache_folder() -> Path:
    """Return the folder of the mirrors: ``$REGISTRY_CACHE``, or the user's cache directory."""
    given = os.environ.get("REGISTRY_CACHE")
    return _path(given) if given else user_cache_path("registry")


# Asked for several times for each batch of new rows. The same object has its hash and text already.
_path = lru_cache(maxsize=16)(Path)


def warn(what: str) -> None:
    """Warn with `CacheWarning`, and say what helps."""
    warnings.warn(
        f"{what}; point $REGISTRY_CACHE, now {cache_folder()}, to a directory with room",
        CacheWarning,
        stacklevel=3,
    )
