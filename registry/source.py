"""Where a trainer's samples come from: the mirror, or the database where there can be none."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from platformdirs import user_cache_path

from registry.codec import Codec, Column
from registry.cursor import Log
from registry.engine import read
from registry.errors import CacheWarning, LogGapError, MirrorError
from registry.mirror import Mirror, View
from registry.order import Permutation
from registry.population import Population, live_in_database, live_in_view
from registry.revisions import records_at
from registry.seals import Positions, Rows, open_entries, seal_entries

CHUNK = 1 << 16
KEPT = 8
"""Index files that a mirror keeps, the last used ones."""


@dataclass(frozen=True)
class Index:
    """The positions of a population's samples, by rank.

    Where they are all there are from ``first`` on, ``entries`` is None; otherwise it holds sealed
    entries (`seals`), in a file at ``path`` if it is not None.
    """

    size: int
    first: int = 0
    entries: Positions | None = None
    path: Path | None = None

    def positions(self, ranks: Positions) -> Positions:
        """Return the positions at some ranks; raises `MirrorError` where an entry is damaged."""
        if self.entries is None:
            return ranks + self.first
        positions, broken = open_entries(self.entries.take(ranks), ranks)
        if broken.any():
            raise MirrorError(f"{self.path}: {broken.sum()} entries are damaged")
        return positions

    def check(self) -> None:
        """Look at every entry; raises `MirrorError` where one is damaged."""
        if self.entries is not None:
            for after in range(0, self.size, CHUNK):
                self.positions(np.arange(after, min(after + CHUNK, self.size)))


class Source(Protocol):
    """What an epoch needs of the log. Safe to share between threads."""

    def index(self, population: Population, size: int | None) -> Index:
        """Return the index of a population, of which the size may be known."""

    def take_rows(self, positions: Positions) -> Rows:
        """Return fixed-width records as uint8, shape ``(count, their width or more)``."""

    def take_records(self, positions: Positions) -> Sequence[bytes]:
        """Return records that differ in length."""

    def scan(self) -> None:
        """Look for damage in local files if they may have changed, and mend it."""

    @property
    def record_bytes(self) -> int:
        """The length of a record, about."""


class MirrorSource:
    """Reads a mirror that goes as far as the watermark; mends what it finds broken."""

    def __init__(self, mirror: Mirror, view: View, log: Log) -> None:
        self.mirror = mirror
        self.view = view
        self._log = log

    @property
    def record_bytes(self) -> int:
        return self.view.state.sizes["records"] // max(1, self.view.position)

    def index(self, population: Population, size: int | None) -> Index:
        if population.draw is None and size == population.watermark - population.since:
            return Index(size, population.since)
        folder = self.mirror.folder / "epochs"
        folder.mkdir(exist_ok=True)
        # The chain tells apart what two histories of one log would call the same.
        path = folder / f"{population.name}-{self.view.state.generation}"
        if size is None or not path.exists() or path.stat().st_size != 8 * size:
            found = _write(path, self._ranges(population, path))
            if population.draw is None and found == population.watermark - population.since:
                path.unlink()
                return Index(found, population.since)
            _forget(folder)
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        return _mapped(path)

    def take_rows(self, positions: Positions) -> Rows:
        for _ in range(2):
            rows, broken = self.view.take_rows(positions)
            if not broken.any():
                return rows
            self.mirror.repair(self.view, positions[broken])
        raise self._hopeless(positions[broken])

    def take_records(self, positions: Positions) -> Sequence[bytes]:
        for _ in range(2):
            records, broken = self.view.take_records(positions)
            if not broken.any():
                return records
            self.mirror.repair(self.view, positions[broken])
        raise self._hopeless(positions[broken])

    def scan(self) -> None:
        self.mirror.scan(self.view)

    def _hopeless(self, positions: Positions) -> MirrorError:
        return MirrorError(
            f"{self.mirror.folder}: the row at position {positions[0]} is damaged, and stays so "
            "after writing it again; check the disk, or point $REGISTRY_CACHE elsewhere"
        )

    def _ranges(self, population: Population, path: Path) -> Iterator[Positions]:
        yield from live_in_view(self.view, population, population.since, population.watermark)
        if population.draw is not None:
            new = sum(
                map(
                    len, live_in_view(self.view, population, population.since, population.watermark)
                )
            )
            older = path.with_suffix(".older")
            count = _write(older, live_in_view(self.view, population, 0, population.since))
            ranks = drawn(population, new, count)
            yield _mapped(older).positions(ranks)
            older.unlink()


class DatabaseSource:
    """Reads the database each time: the way out where no mirror can be kept."""

    def __init__(self, log: Log) -> None:
        self._log = log

    @property
    def record_bytes(self) -> int:
        return self._log.codec.header.itemsize

    def index(self, population: Population, size: int | None) -> Index:  # noqa: ARG002
        def live(after: int, until: int) -> Positions:
            return read(
                self._log.engine,
                lambda connection: live_in_database(
                    connection, self._log.dataset_id, population, after, until
                ),
            )

        positions = live(population.since, population.watermark)
        if population.draw is not None:
            older = live(0, population.since)
            positions = np.append(positions, older[drawn(population, len(positions), len(older))])
        return Index(len(positions), entries=seal_entries(positions, 0))

    def take_rows(self, positions: Positions) -> Rows:
        records = self.take_records(positions)
        return np.frombuffer(b"".join(records), np.uint8).reshape(len(records), -1)

    def take_records(self, positions: Positions) -> Sequence[bytes]:
        wanted = positions.tolist()
        records = read(
            self._log.engine,
            lambda connection: records_at(connection, self._log.dataset_id, wanted),
        )
        if len(records) != len(wanted):
            raise LogGapError(min(wanted), max(wanted) + 1, len(records))
        return records

    def scan(self) -> None:
        pass


def drawn(population: Population, new: int, older: int) -> Positions:
    """Return the ranks, among the older samples, of those that a replay draws."""
    draw = population.draw
    assert draw is not None
    permutation = Permutation.keyed(older, draw.seed, draw.epoch, "replay")
    return permutation(np.arange(min(older, draw.replay.draws(new))))


def columns(source: Source, codec: Codec, positions: Positions) -> dict[str, Column]:
    """Return the samples at some positions as columns, in that order."""
    if codec.fixed_width:
        return codec.decode_rows(source.take_rows(positions))
    records = source.take_records(positions)
    return codec.decode(b"".join(records), len(records))


def cache_folder() -> Path:
    """Return where mirrors lie: ``$REGISTRY_CACHE``, or the user's cache directory."""
    given = os.environ.get("REGISTRY_CACHE")
    return Path(given) if given else user_cache_path("registry")


class Sources:
    """Finds the source for a watermark: brings the mirror up to it, or does without one."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._mirror: Mirror | None = None

    def at(self, watermark: int, chain: bytes) -> Source:
        """Return a source of the log's first ``watermark`` rows, which end in this chain.

        Warns with `CacheWarning` where the cache directory cannot be written or is full.
        """
        try:
            mirror = self.mirror()
            return MirrorSource(mirror, mirror.sync(watermark, chain), self._log)
        except OSError as error:
            warnings.warn(
                f"no local copy can be kept in {cache_folder()} ({error}), so each sample is read "
                "from the database, slowly; point $REGISTRY_CACHE to a directory with room",
                CacheWarning,
                stacklevel=2,
            )
            return DatabaseSource(self._log)

    def mirror(self) -> Mirror:
        """Return the mirror; raises `OSError` where there can be none."""
        if self._mirror is None:
            self._mirror = Mirror(self._log, cache_folder())
        return self._mirror


def _write(path: Path, parts: Iterator[Positions]) -> int:
    """Write an index file in one step; return how many entries it has."""
    count = 0
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    with draft.open("wb") as file:
        for part in parts:
            file.write(seal_entries(part, count).tobytes())
            count += len(part)
    draft.replace(path)
    return count


def _mapped(path: Path) -> Index:
    size = path.stat().st_size // 8
    entries = np.memmap(path, "<i8", "r", shape=(size,)).view(np.ndarray) if size else None
    return Index(size, entries=entries, path=path)


def _forget(folder: Path) -> None:
    """Remove the index files that were not used for longest."""

    def used(path: Path) -> float:
        try:
            return path.stat().st_atime
        except FileNotFoundError:  # another process was faster
            return 0.0

    for path in sorted(folder.iterdir(), key=used, reverse=True)[KEPT:]:
        path.unlink(missing_ok=True)
