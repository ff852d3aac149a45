"""Writing the files of an index.

The entries are in a file of `index_blocks.capacity` words, most of which may never be written: its
length is the same on every host. The first words are a header: a random number, and the place
after the last entry with a sum of both. The file of an index that follows another one is a link to
the other's file, to which the changed blocks were appended. So a file of entries may have several
names and is never shortened.

The cells are in a file of their own for each index: a table of `index_blocks.cell_words` words,
which has the sealed cells and last the number of the file of entries, then the blocks, and a
trailer with a hash of all.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import numpy as np
from xxhash import xxh3_64_intdigest

from registry.samples.arrays import Positions
from registry.storage.mirror.appender import write_all
from registry.storage.mirror.index_blocks import HEADER, Blocks, cell_words
from registry.storage.mirror.index_entries import open_entries, seal_cells, seal_entries

WRITTEN = 1 << 18
"""Entries that are written at a time: 2 MiB, which file systems may cache as one huge page."""
TRAILER = 4
"""The words of the trailer: the numbers of cells and of blocks, the shift, and the hash."""


def open_entries_file(path: Path, mode: str) -> FileIO:
    """Open a file of entries without a buffer, to read or to write."""
    return FileIO(path, mode.replace("b", ""))


class EntryWriter:
    """Writes entries to a file, one after another.

    ``end`` is the place of the next one.
    """

    def __init__(self, file: FileIO, end: int) -> None:
        self.end: int = end
        self._file = file
        file.seek(end * 8)

    def write(self, positions: Positions) -> None:
        """Write the entries of these positions."""
        while len(positions):
            count = WRITTEN - self.end % WRITTEN
            part, positions = positions[:count], positions[count:]
            entries = seal_entries(part, np.arange(self.end, self.end + len(part)))
            write_all(self._file, entries.view(np.uint8).data)
            self.end += len(part)


def write_all_entries(file: FileIO, parts: Iterator[Positions], shift: int) -> tuple[Blocks, int]:
    """Write a new file of entries by rank; return their blocks, and the place after the last one.

    The positions must ascend unless the shift is `ONE_BLOCK`.
    """
    writer = EntryWriter(file, HEADER)
    counts: Positions = np.zeros(0, np.int64)
    for part in parts:
        writer.write(part)
        total = np.bincount(part >> shift, minlength=len(counts))
        total[: len(counts)] += counts
        counts = total
    starts = np.concatenate([[0], np.cumsum(counts)])
    # The tail of each block is the beginning of the next ones.
    return Blocks(shift, starts, starts[:-1] + HEADER), writer.end


def write_header(file: FileIO, end: int, number: int | None = None) -> int:
    """Write the header of a file of entries; return the file's number, a new one if None."""
    number = number or secrets.randbits(62) | 1
    header = np.array([number, end, 0], np.int64)
    header[2] = xxh3_64_intdigest(header[:2].tobytes()) >> 1
    file.seek(0)
    write_all(file, header.view(np.uint8).data)
    return number


def read_header(file: FileIO) -> tuple[int, int] | None:
    """Return the number of a file of entries, and the place after the last; None if damaged."""
    header = np.frombuffer(os.pread(file.fileno(), 24, 0), np.int64)
    if len(header) < 3 or header[2] != xxh3_64_intdigest(header[:2].tobytes()) >> 1:
        return None
    return int(header[0]), int(header[1])


def write_cells(path: Path, blocks: Blocks, number: int) -> None:
    """Write the file of an index's cells."""
    cells = seal_cells(blocks.cells())
    trailer = np.array([len(cells), len(blocks.places), blocks.shift])
    table = np.zeros(cell_words(len(cells)), np.int64)
    table[: len(cells)] = cells
    table[-1] = number
    words = np.concatenate([table, blocks.starts, blocks.places, trailer])
    with path.open("xb") as file:
        file.write(words.tobytes())
        file.write(xxh3_64_intdigest(words.tobytes()).to_bytes(8, "little"))


def read_cells(data: bytes) -> tuple[Positions, Blocks, int] | None:
    """Return the cells, without their seals, the blocks and the file's number; None if damaged."""
    size = len(data) - 8
    if size < TRAILER * 8 or size % 8 or _hash(data) != int.from_bytes(data[size:], "little"):
        return None
    words = np.frombuffer(data, np.int64)
    count, blocks, shift = words[-TRAILER:-1].tolist()
    table = cell_words(count)
    starts = words[table : table + 1 + blocks]
    places = words[table + 1 + blocks : -TRAILER]
    cells = open_entries(words[:count], np.arange(count))[0]
    return cells, Blocks(shift, starts, places), int(words[table - 1])


def _hash(data: bytes) -> int:
    return xxh3_64_intdigest(memoryview(data)[:-8])
