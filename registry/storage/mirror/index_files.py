"""The index files of a mirror: found, made, made from those of an earlier watermark, and removed.

Each process holds a shared lock on the files of cells that it uses, with which it uses those of
entries. Files that are in use are not removed, because a TensorFlow graph opens them by name
whenever an iterator is made; of the others, the `KEPT_FILES` most recently used indexes stay.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from io import FileIO
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from filelock import FileLock

from registry.errors import MirrorError
from registry.samples.arrays import Positions
from registry.storage.mirror.file_lease import FileLease
from registry.storage.mirror.index import Decoded, Index, IndexFiles, Parts
from registry.storage.mirror.index_blocks import ONE_BLOCK, Blocks, Succession, capacity
from registry.storage.mirror.index_checks import IndexChecks
from registry.storage.mirror.index_writer import (
    EntryWriter,
    open_entries_file,
    read_cells,
    read_header,
    write_all_entries,
    write_cells,
    write_header,
)
from registry.storage.mirror.layout import draft_path, lock_file

KEPT_FILES = 8
"""Indexes whose files a mirror keeps, the last used ones, besides those in use."""
SHORT = 1 << 12
"""Entries that are compared with a dense index before a file is made."""
ABANDONED = 3600
"""Seconds after which a draft that is not locked is removed."""
DECODED_INDEXES = 2
"""Indexes whose positions stay in memory for the next epoch: say, of two splits."""
CHANGED_SHARE = 0.5
"""Where more of the entries change, all are written to a new file,"""
CHANGED_ENTRIES = 1 << 12
"""unless these are few."""


class Indexes:
    """The index files of a mirror. Methods raise `OSError` if its folder cannot be used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._checks = IndexChecks(folder)
        # One object for all mappings of an index, as each epoch of the same samples has its own.
        # The entries that it leads to never change in a file of this number.
        self._decoded = lru_cache(DECODED_INDEXES)(lambda _name, _number, _size: Decoded())

    def find(self, name: str, size: int | None = None) -> Index | None:
        """Map the index of this name; None unless it exists and has this size, if that is given."""
        cells = self._folder / f"{name}.cells"
        # Another process may be removing it: then it cannot be opened, or not be locked. If it was
        # cut off to nothing, it cannot be mapped.
        with suppress(FileNotFoundError, BlockingIOError, ValueError):
            lease = FileLease.lock(cells)
            index = self._mapped(name, lease)
            # Checked last: the lease of a file that was replaced would not keep the one that now
            # has the name.
            if index is not None and size in (None, index.size) and lease.covers(cells):
                # Set explicitly, since most file systems do not update access times on each read.
                # In a read-only cache this fails, but there no file is removed either.
                with suppress(OSError):
                    os.utime(cells, ns=(time.time_ns(), cells.stat().st_mtime_ns))
                return index
        return None

    def newest(
        self, family: str, before: int, chain_at: Callable[[int], str | None]
    ) -> tuple[int, Index] | None:
        """Find the index of the last watermark before one; return the watermark, too.

        Of those whose name is a watermark, the family, and what ``chain_at`` returns for it.
        """
        names = (path.name.partition("-")[0] for path in self._folder.glob(f"*{family}-*.cells"))
        for watermark in sorted({int(name) for name in names if name.isdecimal()}, reverse=True):
            chain = chain_at(watermark) if watermark < before else None
            if chain and (index := self.find(f"{watermark}{family}-{chain}")):
                return watermark, index
        return None

    def make(self, name: str, parts: Callable[[], Parts], dense: Index, shift: int) -> Index:
        """Write the files of an index and map them.

        ``parts`` returns the positions, which must ascend unless the shift is `ONE_BLOCK`. Returns
        ``dense``, without files, if the index turns out to be as long.
        """
        # A short one is usually that of a few new rows, which all have samples.
        if 0 <= dense.size <= SHORT and sum(map(len, parts())) == dense.size:
            return dense
        self._folder.mkdir(exist_ok=True)
        draft = draft_path(self._folder / name)
        try:
            with open_entries_file(draft, "x+b") as file:
                # Locked before it has its name: another process may otherwise remove it at once.
                lock_file(file)
                blocks, end = write_all_entries(file, parts(), shift)
                if blocks.size == dense.size:
                    return dense
                number = write_header(file, end)
                file.truncate(capacity(blocks.size) * 8)
                with self._lock():
                    existing = self._undamaged(name, blocks.size)
                    return existing or self._publish(name, draft, blocks, number, [name])
        finally:
            draft.unlink(missing_ok=True)

    def follow(
        self, name: str, before: Index, dead: Positions, added: Positions, dense: Index
    ) -> Index | None:
        """Make an index from one of an earlier watermark, to whose entries a few are added.

        ``dead`` are positions, in ascending order, some of which ``before`` has; ``added`` are
        later ones. None if so many change that all should be written again. Raises `MirrorError` if
        the entries of ``before`` are damaged.
        """
        assert before.blocks is not None
        assert before.files is not None
        inside = dead[before.contains(dead, 0, before.size)]
        change = Succession(before.blocks, before.find(inside, 0, before.size), added)
        if change.size == dense.size:
            return dense
        path, words = before.files.entries, capacity(change.size)
        with self._lock(), open_entries_file(path, "r+b") as file:
            if existing := self.find(name, change.size):
                return existing
            header = read_header(file)
            # Where the files were replaced, the places of their entries are others.
            if header is None or not before.files.exist():
                return None
            number, end = header
            blocks, changed = change.blocks(end)
            count = change.entries(blocks, changed)
            if end + count > words or count > max(CHANGED_ENTRIES, CHANGED_SHARE * change.size):
                return None
            checked = self._checks.names(path)
            writer = EntryWriter(file, end)
            for ranks in change.ranks(blocks, changed):
                writer.write(change.positions(before.positions, ranks))
            # Before an index leads to the entries: the next one would otherwise overwrite them.
            write_header(file, writer.end, number)
            if os.fstat(file.fileno()).st_size < words * 8:
                file.truncate(words * 8)
            if before.files.cells.stem in checked:
                checked.append(name)
            return self._publish(name, path, blocks, number, checked)

    def spill(self, parts: Parts) -> Index:
        """Return an index in a temporary file, which is removed when its mapping is closed."""
        self._folder.mkdir(exist_ok=True)
        with TemporaryFile(dir=self._folder, buffering=0) as file:
            blocks, end = write_all_entries(file, parts, ONE_BLOCK)
            # Not only as long as its entries: without any, it could not be mapped.
            file.truncate(end * 8)
            entries = _map(file, end)
        return Index(blocks.size, entries=entries, cells=blocks.cells(), blocks=blocks)

    def check(self, index: Index) -> None:
        """Check files and entries. Raises `MirrorError` if a file is gone or an entry damaged.

        Entries that were checked since the file was last written to are not checked again.
        """
        if index.files is None:
            index.check_entries()
            return
        path, name = index.files.entries, index.files.cells.stem
        if not index.files.exist():
            raise MirrorError(f"{path} is gone")
        if name not in self._checks.names(path):
            index.check_entries()
            self._checks.record([name], path)

    def _undamaged(self, name: str, size: int) -> Index | None:
        """Return the index of this name, if another process has made it meanwhile.

        It must not be replaced: graphs may be about to open its files. The caller holds the lock.
        """
        index = self.find(name, size)
        with suppress(MirrorError):
            if index is not None:
                index.check_entries()
                return index
        return None

    def _publish(
        self, name: str, entries: Path, blocks: Blocks, number: int, checked: list[str]
    ) -> Index:
        """Give an index its names and map it. The caller holds the lock."""
        cells, named = self._folder / f"{name}.cells", self._folder / f"{name}.entries"
        draft, link = draft_path(cells), draft_path(named)
        try:
            write_cells(draft, blocks, number)
            lease = FileLease.lock(draft)
            # Replaced, not removed: a graph may open the names at any time. Cells first, by which
            # those who hold a replaced index know it. Until the entries follow, the numbers differ,
            # so that nobody reads one with the other.
            draft.replace(cells)
            if entries.suffix != ".entries":
                entries.replace(named)
            elif not (named.exists() and named.samefile(entries)):
                link.hardlink_to(entries)
                link.replace(named)
        finally:
            draft.unlink(missing_ok=True)
            link.unlink(missing_ok=True)
        self._checks.record(checked, named)
        index = self._mapped(name, lease)
        assert index is not None
        self._remove_least_used()
        return index

    def _mapped(self, name: str, lease: FileLease) -> Index | None:
        cells, named = self._folder / f"{name}.cells", self._folder / f"{name}.entries"
        parsed = read_cells(cells.read_bytes())
        if parsed is None:
            return None
        rank_cells, blocks, number = parsed
        words = capacity(blocks.size)
        with open_entries_file(named, "rb") as file:
            header = read_header(file)
            # A shorter file must not be mapped: reading past its end would kill the process.
            short = os.fstat(file.fileno()).st_size < words * 8
            if header is None or header[0] != number or short:
                return None
            entries = _map(file, words)
        files = IndexFiles(named, cells, lease)
        decoded = self._decoded(name, number, blocks.size)
        return Index(blocks.size, 0, entries, rank_cells, blocks, files, decoded=decoded)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        # A new object: one from before a fork fails.
        with FileLock(self._folder / "lock"):
            yield

    def _remove_least_used(self) -> None:
        """Remove the least recently used files beyond `KEPT_FILES`, except those in use."""
        paths = [path for path in self._folder.iterdir() if path.name not in ("lock", "checked")]
        cells = [path for path in paths if path.suffix == ".cells"]
        for path in sorted(cells, key=_last_used, reverse=True)[KEPT_FILES:]:
            if _remove(path):
                path.with_suffix(".entries").unlink(missing_ok=True)
        for path in paths:
            if path.suffix == ".entries":
                if not path.with_suffix(".cells").exists():
                    path.unlink(missing_ok=True)
            # Drafts of a process that was killed, and index files of earlier versions. A draft is
            # not locked at once.
            elif path.suffix != ".cells" and _last_written(path) < time.time() - ABANDONED:
                _remove(path)


def _remove(path: Path) -> bool:
    """Remove a file unless a process uses it."""
    with suppress(OSError), path.open("rb") as file:
        lock_file(file, exclusive=True)
        path.unlink()
        return True
    return False


def _map(file: FileIO, words: int) -> Positions:
    entries: Positions = np.memmap(file, "<i8", "r", shape=(words,)).view(np.ndarray)
    return entries


def _last_written(path: Path) -> float:
    with suppress(FileNotFoundError):
        return path.stat().st_mtime
    return math.inf


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_atime
    except FileNotFoundError:  # another process has removed it
        return 0.0
