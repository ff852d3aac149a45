"""Index files: which positions a population has, by rank, each entry sealed (`seals`).

Processes share them, and each keeps a lock on those it has mapped. The last used ones stay, and so
do those in use: a graph opens its file by name whenever an iterator is made.
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

from registry.errors import MirrorError
from registry.samples.arrays import Positions
from registry.storage.mirror.checksums import open_entries, seal_entries
from registry.storage.mirror.layout import draft_of, hold

CHUNK = 1 << 16
KEPT = 8
"""Index files that a mirror keeps beside those in use, the last used ones."""

Parts = Iterator[Positions]
Gather = Callable[[Parts], "Index"]


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
        """Look at file and entries; raises `MirrorError` where it is gone or one is damaged."""
        if self.path is not None and not self.path.exists():
            raise MirrorError(f"{self.path} is gone")
        if self.entries is not None:
            for after in range(0, self.size, CHUNK):
                self.positions(np.arange(after, min(after + CHUNK, self.size)))


class Indexes:
    """The index files of a mirror. Raises `OSError` where its folder cannot be used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, name: str, size: int) -> Index | None:
        """Return the index of this name if there is one of this size."""
        path = self._folder / name
        # Another process may be removing it.
        with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
            hold(file)
            found = _mapped(file, path)
            if found.size == size and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                with suppress(OSError):  # in a cache that can only be read, none is removed either
                    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
                return found
        return None

    def make(self, name: str, parts: Parts, dense: Index) -> Index:
        """Write an index; where it is as long as the dense one, that is it, and needs no file."""
        self._folder.mkdir(exist_ok=True)
        path = self._folder / name
        draft = draft_of(path)
        try:
            with draft.open("x+b") as file:
                hold(file)
                if _write(file, parts) == dense.size:
                    return dense
                index = _mapped(file, path)
                draft.replace(path)
            self._forget()
            return index
        finally:
            draft.unlink(missing_ok=True)

    def spill(self, parts: Parts) -> Index:
        """Return an index in a file that is gone when it is no longer used."""
        self._folder.mkdir(exist_ok=True)
        with TemporaryFile(dir=self._folder) as file:
            _write(file, parts)
            return _mapped(file, None)

    def _forget(self) -> None:
        """Remove the files that were not used for longest, but none that is in use."""
        for path in sorted(self._folder.iterdir(), key=_used, reverse=True)[KEPT:]:
            with suppress(OSError), path.open("rb") as file:
                hold(file, alone=True)
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
    file.flush()
    return count


def _mapped(file: IO[bytes], path: Path | None) -> Index:
    size = os.fstat(file.fileno()).st_size // 8
    entries = np.memmap(file, "<i8", "r", shape=(size,)).view(np.ndarray) if size else None
    return Index(size, entries=entries, path=path)


def _used(path: Path) -> float:
    try:
        return path.stat().st_atime
    except FileNotFoundError:  # another process was faster
        return 0.0
