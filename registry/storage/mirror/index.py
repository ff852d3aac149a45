"""Index files: the positions of a population's samples, by rank.

A file is an array of sealed entries (see `checksums`), written once and then mapped by all
processes. Each process holds a shared lock on the files that it has mapped. Files that are in use
are not removed, because a TensorFlow graph opens its file by name whenever an iterator is made; of
the others, the `KEPT_FILES` most recently used ones stay.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import numpy.typing as npt

from registry.errors import MirrorError
from registry.samples.arrays import Positions
from registry.storage.mirror.checksums import open_entries, seal_entries
from registry.storage.mirror.layout import draft_path, lock_file

CHUNK = 1 << 16
"""Entries that are checked at a time."""
SHORT = 1 << 12
"""Entries that are compared with a dense index before a file is made."""
KEPT_FILES = 8
"""Index files that a mirror keeps, the last used ones, besides those in use."""

Parts = Iterator[Positions]
Gather = Callable[[Parts], "Index"]


@dataclass(frozen=True)
class Index:
    """The positions of a population's samples, by rank.

    ``entries`` is None if they are all positions from ``first`` on. Otherwise it holds sealed
    entries (int64, see `checksums`), mapped from the file at ``path`` unless that is None.
    ``older`` is the number of older samples that a replay of a run with conditions draws from.
    """

    size: int
    first: int = 0
    entries: Positions | None = None
    path: Path | None = None
    older: int | None = None

    def positions(self, ranks: Positions) -> Positions:
        """Return the positions at some ranks. Raises `MirrorError` if an entry is damaged."""
        if self.entries is None:
            return ranks + self.first
        positions, broken = open_entries(self.entries.take(ranks), ranks)
        if broken.any():
            raise MirrorError(f"{self.path}: {broken.sum()} entries are damaged")
        return positions

    def contains(self, wanted: Positions, start: int, stop: int) -> npt.NDArray[np.bool_]:
        """Return which positions are at ranks ``[start, stop)``, where positions must ascend."""
        if start == stop:
            return np.zeros(len(wanted), bool)
        if self.entries is None:
            return (wanted >= self.first + start) & (wanted < self.first + stop)
        # The first rank in the range whose position is not smaller, by bisection of all at once.
        low: Positions = np.full(len(wanted), start)
        high: Positions = np.full(len(wanted), stop)
        for _ in range((stop - start).bit_length()):
            middle = (low + high) // 2
            smaller = self.positions(np.minimum(middle, stop - 1)) < wanted
            low, high = np.where(smaller, middle + 1, low), np.where(smaller, high, middle)
            # A range that is empty stays so.
            low = np.minimum(low, high)
        equal: npt.NDArray[np.bool_] = self.positions(np.minimum(low, stop - 1)) == wanted
        return equal

    def check(self) -> None:
        """Check file and entries. Raises `MirrorError` if the file is gone or an entry damaged."""
        if self.path is not None and not self.path.exists():
            raise MirrorError(f"{self.path} is gone")
        if self.entries is not None:
            for after in range(0, self.size, CHUNK):
                self.positions(np.arange(after, min(after + CHUNK, self.size)))


class Indexes:
    """The index files of a mirror. Methods raise `OSError` if its folder cannot be used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, name: str, size: int) -> Index | None:
        """Map the index of this name; None unless it exists and has this size."""
        path = self._folder / name
        # Another process may be removing it: then it cannot be opened, or not be locked.
        with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
            lock_file(file)
            index = _mapped(file, path)
            # It may have been replaced between opening and locking. This lock would then not keep
            # the file that now has the name.
            if index.size == size and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                # Set explicitly, since most file systems do not update access times on each read.
                # In a read-only cache this fails, but there no file is removed either.
                with suppress(OSError):
                    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
                return index
        return None

    def make(self, name: str, parts: Parts, dense: Index) -> Index:
        """Write an index file and map it.

        Returns ``dense``, without a file, if the index turns out to be as long.
        """
        # A short one is usually that of a few new rows, which all have samples.
        if 0 <= dense.size <= SHORT:
            kept = list(parts)
            if sum(map(len, kept)) == dense.size:
                return dense
            parts = iter(kept)
        self._folder.mkdir(exist_ok=True)
        path = self._folder / name
        draft = draft_path(path)
        try:
            with draft.open("x+b") as file:
                # Locked before it has its name: another process may otherwise remove it at once.
                lock_file(file)
                if _write(file, parts) == dense.size:
                    return dense
                index = _mapped(file, path)
                draft.replace(path)
            self._remove_least_used()
            return index
        finally:
            draft.unlink(missing_ok=True)

    def spill(self, parts: Parts) -> Index:
        """Return an index in a temporary file, which is removed when its mapping is closed."""
        self._folder.mkdir(exist_ok=True)
        with TemporaryFile(dir=self._folder) as file:
            _write(file, parts)
            return _mapped(file, None)

    def _remove_least_used(self) -> None:
        """Remove the least recently used files beyond `KEPT_FILES`, except those in use."""
        for path in sorted(self._folder.iterdir(), key=_last_used, reverse=True)[KEPT_FILES:]:
            with suppress(OSError), path.open("rb") as file:
                lock_file(file, exclusive=True)
                path.unlink()


def in_memory(parts: Parts) -> Index:
    """Return an index without a file."""
    positions = np.concatenate([np.empty(0, np.int64), *parts])
    return Index(len(positions), entries=seal_entries(positions, 0))


def _write(file: IO[bytes], parts: Parts) -> int:
    count = 0
    for part in parts:
        file.write(seal_entries(part, count).tobytes())
        count += len(part)
    file.flush()  # `_mapped` takes the size from the system, which has not seen the buffer
    return count


def _mapped(file: IO[bytes], path: Path | None) -> Index:
    # The mapping duplicates the file's descriptor, and with it keeps the lock. An empty file cannot
    # be mapped.
    size = os.fstat(file.fileno()).st_size // 8
    entries = np.memmap(file, "<i8", "r", shape=(size,)).view(np.ndarray) if size else None
    return Index(size, entries=entries, path=path)


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_atime
    except FileNotFoundError:  # another process has removed it
        return 0.0
