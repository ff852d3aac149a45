"""The facts of each row that was counted, in files next to the log's mirror.

They let a row be taken back from the counts when it is superseded or erased, without reading it
again, and let samples be searched by class and source.

A store is a folder with a file ``rows``, and a file for each class label. Files only grow, except
for rows that are erased in place. The sums of their blocks, in `StoredFiles`, are stored with the
counts: rows that no sum covers are a torn tail, and a block whose sum does not match is damaged.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from registry.catalog.statistics.row_facts import (
    NO_CLASS,
    ROW,
    CountedLabel,
    RowFacts,
)
from registry.samples.arrays import Positions
from registry.storage.mirror import appender

BLOCK = 1 << 15
"""Rows of a block, which is read and checked as a whole."""


class DamagedStoreError(Exception):
    """A block of a store is damaged or absent, or was changed while it was read."""


@dataclass
class StoredLabel:
    """A class label of a store. Rows before ``first`` are not in its file: they have its default.

    ``sums`` are those of the blocks from that of ``first`` on.
    """

    label: CountedLabel
    first: int
    sums: list[int] = field(default_factory=list)

    @property
    def file(self) -> str:
        """The name of its file."""
        # Hashed, as a feature's name may hold characters that no file name can.
        return blake2b(self.label.name.encode(), digest_size=16).hexdigest()


@dataclass
class StoredFiles:
    """What counts of the files of a store: ``position`` rows, and the XXH3 of their blocks."""

    position: int = 0
    sums: list[int] = field(default_factory=list)
    labels: list[StoredLabel] = field(default_factory=list)


class RowStore:
    """The rows that ``files`` counts, in a folder. Not thread-safe where it writes.

    Methods raise `DamagedStoreError`, and `OSError` if the folder cannot be used.
    """

    def __init__(self, folder: Path, files: StoredFiles) -> None:
        self._folder = folder
        self.files = files

    def read(self, after: int, until: int) -> RowFacts:
        """Return the rows at ``[after, until)``."""
        blocks = [*self._blocks(after, until)]
        if not blocks:
            return RowFacts.empty(0, len(self.files.labels))
        rows = np.concatenate([block.rows for block in blocks])
        labels = np.concatenate([block.labels for block in blocks])
        start = after // BLOCK * BLOCK
        return RowFacts(rows, labels)[after - start : until - start]

    def take(self, positions: Positions) -> RowFacts:
        """Return the rows at these positions, in any order."""
        facts = RowFacts.empty(len(positions), len(self.files.labels))
        of_block = positions // BLOCK
        for block in np.unique(of_block).tolist():
            inside = of_block == block
            part = self._block(block)[positions[inside] - block * BLOCK]
            facts.rows[inside], facts.labels[inside] = part.rows, part.labels
        return facts

    def superseded(self, facts: RowFacts, start: int | None = None) -> RowFacts:
        """Return the row that each row supersedes, and any for those that supersede none.

        With ``start``, ``facts`` are those at the positions from ``start`` on, which may not be
        stored yet.
        """
        positions = facts.rows["supersedes"].astype(np.int64)
        superseded = RowFacts.empty(len(facts), len(self.files.labels))
        among = positions >= (len(facts) + self.files.position if start is None else start)
        stored = (positions >= 0) & ~among
        if stored.any():
            taken = self.take(positions[stored])
            superseded.rows[stored], superseded.labels[stored] = taken.rows, taken.labels
        if start is not None and among.any():
            taken = facts[positions[among] - start]
            superseded.rows[among], superseded.labels[among] = taken.rows, taken.labels
        return superseded

    def append(self, facts: RowFacts) -> None:
        """Append rows, with the columns of the store's labels."""
        position = self.files.position
        self._folder.mkdir(parents=True, exist_ok=True)
        first, there = divmod(position, BLOCK)
        # The rows before in its block are needed for the sum, but not written again.
        head = self._block(first) if there else facts[:0]
        rows = np.concatenate([head.rows, facts.rows])
        labels = np.concatenate([head.labels, facts.labels])
        for start in range(0, len(rows), BLOCK):
            part = RowFacts(rows, labels)[start : start + BLOCK]
            self._write(first + start // BLOCK, part, there if start == 0 else 0)
        self.files.position = position + len(facts)

    def replace(self, positions: Positions, facts: RowFacts) -> None:
        """Overwrite the rows at these positions, and flush them to the disk."""
        of_block = positions // BLOCK
        for block in np.unique(of_block).tolist():
            inside = of_block == block
            part = self._block(block)
            part.rows[positions[inside] - block * BLOCK] = facts.rows[inside]
            part.labels[positions[inside] - block * BLOCK] = facts.labels[inside]
            # As in a mirror: after a power cut, the disk must not have what was erased.
            self._write(block, part, flush=True)

    def add_label(self, label: CountedLabel) -> None:
        """Add a class label, which has its default in all rows that there are."""
        added = StoredLabel(label, self.files.position)
        # A file may be left of a counter that was killed.
        (self._folder / added.file).unlink(missing_ok=True)
        self.files.labels.append(added)
        if self.files.position % BLOCK:
            block = self.files.position // BLOCK
            self._write(block, self._block(block))

    def _blocks(self, after: int, until: int) -> Iterator[RowFacts]:
        if after < until:
            for block in range(after // BLOCK, (until - 1) // BLOCK + 1):
                yield self._block(block)

    def _block(self, block: int) -> RowFacts:
        count = min(BLOCK, self.files.position - block * BLOCK)
        rows = self._read_part("rows", block, count, ROW, self.files.sums, 0)
        labels = np.empty((count, len(self.files.labels)), np.int32)
        for column, stored in enumerate(self.files.labels):
            first = stored.first // BLOCK
            if block - first in range(len(stored.sums)):
                labels[:, column] = self._read_part(
                    stored.file, block, count, np.dtype("<i4"), stored.sums, first
                )
            else:
                default = stored.label.default
                labels[:, column] = np.where(rows["size"] > 0, default or 0, NO_CLASS)
        return RowFacts(rows, labels)

    def _write(self, block: int, facts: RowFacts, there: int = 0, *, flush: bool = False) -> None:
        """Write a block, of whose rows the first ones are ``there`` already."""
        self._write_part("rows", block, facts.rows, self.files.sums, there, flush=flush)
        for column, stored in enumerate(self.files.labels):
            first = stored.first // BLOCK
            if block >= first:
                values = facts.labels[:, column].astype("<i4")
                there = there if block - first < len(stored.sums) else 0
                self._write_part(
                    stored.file, block, values, stored.sums, there, first=first, flush=flush
                )

    def _read_part(
        self,
        name: str,
        block: int,
        count: int,
        dtype: np.dtype[Any],
        sums: Sequence[int],
        first: int,
    ) -> npt.NDArray[Any]:
        size = count * dtype.itemsize
        with _opened(self._folder / name, os.O_RDONLY) as file:
            data = os.pread(file.fileno(), size, block * BLOCK * dtype.itemsize)
        if len(data) != size or xxh3_64_intdigest(data) != sums[block - first]:
            raise DamagedStoreError(name, block)
        # Not the bytes themselves, which cannot be written.
        return np.frombuffer(bytearray(data), dtype)

    def _write_part(
        self,
        name: str,
        block: int,
        values: npt.NDArray[Any],
        sums: list[int],
        there: int,
        *,
        first: int = 0,
        flush: bool = False,
    ) -> None:
        data, size = memoryview(values.tobytes()), values.dtype.itemsize
        with _opened(self._folder / name, os.O_RDWR | os.O_CREAT) as file:
            file.seek((block * BLOCK + there) * size)
            appender.write_all(file, data[there * size :])
            if flush:
                os.fsync(file.fileno())
        sums[block - first : block - first + 1] = [xxh3_64_intdigest(data)]


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[FileIO]:
    try:
        descriptor = os.open(path, flags, 0o644)
    except FileNotFoundError:
        # Another process has removed the folder, with all counts of it.
        raise DamagedStoreError(path.name) from None
    with FileIO(descriptor, "r+b" if flags & os.O_RDWR else "rb") as file:
        yield file
