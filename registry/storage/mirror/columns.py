"""Columns of a mirror: one value per row, in files of their own.

The records of a mirror are rows, of which a condition needs a few bytes each. A column has these
bytes of all rows, end to end, so that they are read at once; or it has what the records do not,
such as a hash of the source. It is filled when it is first needed, and then only with the rows that
came since.

A column is two files in the folder ``columns`` of its generation, and only grows: ``values``, and
``segments``, an array of `SEGMENT`. Values past the last valid segment are a torn tail. Where a sum
does not match, the column is removed and filled again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from registry.samples.arrays import Positions
from registry.storage.mirror import appender

SEGMENT = np.dtype([("until", "<i8"), ("sum", "<u8"), ("seal", "<u8")])
"""The position after a segment's last row, the XXH3 of its values, and the hash of this entry."""
MULTIPLIERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)
"""The multipliers of an entry's hash: its rank's and its range's."""
SEGMENT_ROWS = 1 << 16
"""Rows of a segment, at most: so many values are read to check a single one."""

Values = npt.NDArray[Any]
_Range = tuple[int, int, int]
"""The first position of a segment, the one after its last, and its sum."""


class ColumnFile:
    """The values of one column, in a generation's folder. Not thread-safe where it writes.

    ``name`` is the name of its files. Methods raise `OSError` if the folder cannot be used.
    """

    def __init__(self, generation: Path, name: str, dtype: npt.DTypeLike) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        # With the size of a value, by which `blank_columns` finds them.
        self._values = generation / "columns" / f"{name}.{self.dtype.itemsize}"
        self._segments = self._values.with_suffix(".segments")

    @property
    def position(self) -> int:
        """The number of rows whose values are here."""
        segments = self._read_segments()
        return int(segments["until"][-1]) if len(segments) else 0

    def read(self, after: int, until: int) -> Values | None:
        """Return the values at positions ``[after, until)``; None if some are damaged or absent."""
        if after == until:
            return np.empty(0, self.dtype)
        segments = self._read_segments()
        first, last = np.searchsorted(segments["until"], [after, until - 1], side="right").tolist()
        if last >= len(segments):
            return None
        ranges = [*_ranges(segments, first, last + 1)]
        start, size = ranges[0][0], self.dtype.itemsize
        with suppress(FileNotFoundError), self._values.open("rb", buffering=0) as file:
            file.seek(start * size)
            data = _read(file, (ranges[-1][1] - start) * size)
            for low, high, total in ranges:
                part = data[(low - start) * size : (high - start) * size]
                if len(part) != (high - low) * size or xxh3_64_intdigest(part) != total:
                    return None
            return np.frombuffer(data, self.dtype)[after - start : until - start]
        return None

    def append(self, after: int, values: Values) -> None:
        """Append the values of the rows from ``after`` on, unless another process has.

        The caller holds the mirror's lock.
        """
        segments = self._read_segments()
        if after != (int(segments["until"][-1]) if len(segments) else 0):
            return
        self._values.parent.mkdir(exist_ok=True)
        with _opened(self._values) as file, _opened(self._segments) as index:
            file.seek(after * self.dtype.itemsize)
            index.seek(len(segments) * SEGMENT.itemsize)
            for start in range(0, len(values), SEGMENT_ROWS):
                part = np.ascontiguousarray(values[start : start + SEGMENT_ROWS], self.dtype)
                data = part.view(np.uint8).data
                # The values first: a segment that counts them must never be read without them.
                appender.write_all(file, data)
                rank = len(segments) + start // SEGMENT_ROWS
                appender.write_all(
                    index, _entry(rank, after + start + len(part), xxh3_64_intdigest(data))
                )

    def blank(self, positions: Positions) -> None:
        """Overwrite the values of erased rows by zeros. The caller holds the mirror's lock."""
        segments = self._read_segments()
        ranks = np.searchsorted(segments["until"], positions, side="right")
        size = self.dtype.itemsize
        with _opened(self._values) as file, _opened(self._segments) as index:
            for rank in np.unique(ranks[ranks < len(segments)]).tolist():
                ((after, until, total),) = _ranges(segments, rank, rank + 1)
                file.seek(after * size)
                data = bytearray(_read(file, (until - after) * size))
                if xxh3_64_intdigest(data) != total:
                    return self.remove()
                values = np.frombuffer(data, self.dtype)
                values[positions[ranks == rank] - after] = np.zeros((), self.dtype)
                file.seek(after * size)
                appender.write_all(file, memoryview(data))
                index.seek(rank * SEGMENT.itemsize)
                appender.write_all(index, _entry(rank, until, xxh3_64_intdigest(data)))
            # As in `erase_rows`: after a power cut the disk must not have the values.
            os.fsync(file.fileno())
        return None

    def remove(self) -> None:
        """Remove the files. The caller holds the mirror's lock."""
        # The segments first: without them, the values count for nothing.
        self._segments.unlink(missing_ok=True)
        self._values.unlink(missing_ok=True)

    def _read_segments(self) -> npt.NDArray[Any]:
        try:
            data = self._segments.read_bytes()
        except FileNotFoundError:
            return np.empty(0, SEGMENT)
        segments = np.frombuffer(data[: len(data) // SEGMENT.itemsize * SEGMENT.itemsize], SEGMENT)
        ranks = np.arange(len(segments))
        broken = segments["seal"] != _seal(ranks, segments["until"], segments["sum"])
        return segments[: int(np.argmax(broken))] if broken.any() else segments


def blank_columns(generation: Path, positions: Positions) -> None:
    """Overwrite the values of erased rows in all columns. The caller holds the mirror's lock."""
    for path in (generation / "columns").glob("*.segments"):
        for values in path.parent.glob(f"{path.stem}.[0-9]"):
            dtype = f"V{values.suffix[1:]}"
            ColumnFile(generation, path.stem, dtype).blank(positions)


def _ranges(segments: npt.NDArray[Any], first: int, last: int) -> Iterator[_Range]:
    start = int(segments["until"][first - 1]) if first else 0
    for until, total, _ in segments[first:last].tolist():
        yield start, until, total
        start = until


def _entry(rank: int, until: int, total: int) -> memoryview:
    entry = np.array([(until, total, 0)], SEGMENT)
    entry["seal"] = _seal(np.array([rank]), entry["until"], entry["sum"])
    return memoryview(entry.tobytes())


def _seal(ranks: Positions, untils: Positions, sums: npt.NDArray[np.uint64]) -> Values:
    total = (ranks + 1).astype(np.uint64) * np.uint64(MULTIPLIERS[0])
    total += (untils + 1).astype(np.uint64) * np.uint64(MULTIPLIERS[1])
    total = (total ^ (total >> np.uint64(32)) ^ sums) * np.uint64(MULTIPLIERS[0])
    return total ^ (total >> np.uint64(32))


def _opened(path: Path) -> FileIO:
    # Without O_TRUNC, and without O_APPEND, which would write behind a torn tail.
    return FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")


def _read(file: FileIO, size: int) -> bytes:
    parts = []
    while size and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
