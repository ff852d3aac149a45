"""Writing over parts of a mirror's files in place, where readers may have mapped them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from registry.samples.arrays import Positions, Rows
from registry.storage.mirror import appender
from registry.storage.mirror.value_units import UNIT, Units

Write = tuple[int, memoryview]
"""An offset in a file, in bytes, and what to write there."""
_WRITE_BYTES = 1 << 20
"""Bytes from which on adjacent parts are not written together."""


def row_writes(rows: Rows, positions: Positions) -> Iterator[Write]:
    """Yield what writes rows at their positions."""
    stride, data = rows.shape[1], np.ascontiguousarray(rows).reshape(-1).data
    for number, position in enumerate(positions.tolist()):
        yield position * stride, data[number * stride : (number + 1) * stride]


def unit_writes(values: Iterable[Units], begins: Positions) -> Iterator[Write]:
    """Yield what writes the units of rows, each from its first one on."""
    for units, begin in zip(values, begins.tolist(), strict=True):
        if len(units):
            yield begin * UNIT, units.reshape(-1).view(np.uint8).data


def overwrite(path: Path, writes: Iterable[Write], *, synced: bool = False) -> None:
    """Write over parts of a file; with ``synced``, they are on the disk when this returns."""
    with path.open("r+b", buffering=0) as file:
        for offset, data in _joined(writes):
            file.seek(offset)
            appender.write_all(file, memoryview(data))
        if synced:
            os.fsync(file.fileno())


def _joined(writes: Iterable[Write]) -> Iterator[tuple[int, bytearray]]:
    """Yield the writes, with those that follow each other in the file as one, up to some size."""
    start, joined = 0, bytearray()
    for offset, data in writes:
        if joined and (offset != start + len(joined) or len(joined) >= _WRITE_BYTES):
            yield start, joined
            joined = bytearray()
        if not joined:
            start = offset
        joined += data
    if joined:
        yield start, joined
