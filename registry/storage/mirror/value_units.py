"""Values of variable width as units of a file, which TensorFlow cuts out without a copy per value.

Each value is a field of a protobuf message: the byte 0x42 (field 8, bytes), the length as a varint
of 5 bytes, the value's bytes, and padding up to a multiple of `UNIT` bytes. Padding is field 3, a
varint of zero, as often as needed: 0x18 and 1 to 10 bytes. So any number of values, end to end, is
one message, whatever their order, and one operation of a graph parses it. A padding of one byte
does not exist; a unit more takes its place. The number of units follows from the length alone.

A value's sum is a hash of its units, which vectorises in NumPy and in a graph:
``Σ (h[r] ^ h[r] >> 32) · (2r + 1)`` modulo 2⁶⁴ over the units r = 0, 1, … of the value, where
``h[r] = Σ (w[j] ^ w[j] >> 32) · m[j]`` is the multilinear hash of a unit's four little-endian
uint64 words w. The multipliers m are odd, from SHAKE-128 as those of `checksums`.

A graph computes the same: a change here is a change of the file format.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import shake_128

import numpy as np
import numpy.typing as npt

from registry.samples.arrays import Positions, Scratch

UNIT = 32
"""Bytes of a unit."""
HEAD = 6
"""Bytes before a value in its first unit."""
MULTIPLIERS = np.frombuffer(shake_128(b"registry mirror values").digest(UNIT), "<u8") | np.uint64(1)
"""The multipliers of a unit's words."""
BLOCK = 1 << 13
"""Units that are hashed at a time, so that they stay in the core's cache."""
_SCRATCH = Scratch()
_TILED = np.tile(MULTIPLIERS, BLOCK)

Units = npt.NDArray[np.int64]
"""Units, of shape ``(count, 4)``: little-endian words."""
Sums = npt.NDArray[np.uint64]
"""Sums of values, one each."""

NO_VALUES: Units = np.empty((0, UNIT // 8), np.int64)


def _padding(size: int) -> bytes:
    """Return fields of ``size`` bytes that are skipped: 0, or 2 and more."""
    parts = []
    while size:
        # A field takes 2 to 11 bytes, and must not leave one byte over.
        width = min(size, 11) if size != 12 else 10
        parts.append(b"\x18" + b"\x80" * (width - 2) + b"\x00")
        size -= width
    return b"".join(parts)


_PADDINGS = [b"" if size == 1 else _padding(size) for size in range(UNIT + 2)]


def unit_counts(lengths: npt.NDArray[np.integer]) -> Positions:
    """Return how many units values of these lengths in bytes take, int64 of the same shape."""
    ends = lengths.astype(np.int64) + HEAD
    counts = -(-ends // UNIT)
    counts += counts * UNIT - ends == 1
    return counts


def framed(values: Sequence[bytes | memoryview]) -> Units:
    """Return the units of values, end to end."""
    lengths = np.fromiter(map(len, values), np.int64, len(values))
    heads = np.empty((len(values), HEAD), np.uint8)
    heads[:, 0] = 0x42
    for byte in range(5):
        heads[:, 1 + byte] = (lengths >> 7 * byte) & 0x7F
    heads[:, 1:5] |= 0x80  # another byte of the varint follows
    paddings = (unit_counts(lengths) * UNIT - HEAD - lengths).tolist()
    parts: list[bytes | memoryview] = [b""] * (3 * len(values))
    parts[0::3] = heads.view(f"V{HEAD}")[:, 0].tolist()
    parts[1::3] = values
    parts[2::3] = [_PADDINGS[size] for size in paddings]
    return np.frombuffer(b"".join(parts), "<i8").reshape(-1, UNIT // 8)


def sums(units: Units, counts: Positions) -> Sums:
    """Return the sums of values that have so many units each, end to end."""
    hashes = _hashes(units)
    # The sum over r of h·(2r + 1), as differences of sums over all units.
    alone, weighted = np.zeros((2, len(units) + 1), np.uint64)
    np.cumsum(hashes, out=alone[1:])
    hashes *= np.arange(1, 2 * len(units), 2, dtype=np.uint64)
    np.cumsum(hashes, out=weighted[1:])
    ends = np.cumsum(counts)
    starts = ends - counts
    offsets = 2 * starts.astype(np.uint64)
    result: Sums = weighted[ends] - weighted[starts] - offsets * (alone[ends] - alone[starts])
    return result


def _hashes(units: Units) -> Sums:
    """Return ``h ^ h >> 32`` of each unit."""
    hashes, words = np.empty(len(units), np.uint64), units.reshape(-1).view("<u8")
    for start in range(0, len(units), BLOCK):
        part = words[4 * start : 4 * (start + BLOCK)]
        mixed = np.right_shift(part, np.uint64(32), out=_SCRATCH.array("mixed", part.shape, "<u8"))
        mixed ^= part
        # Faster than a product of matrices, which NumPy does not vectorise for uint64.
        mixed *= _TILED[: len(mixed)]
        pairs = np.add(
            mixed[0::2], mixed[1::2], out=_SCRATCH.array("pairs", (len(mixed) // 2,), "<u8")
        )
        np.add(pairs[0::2], pairs[1::2], out=hashes[start : start + BLOCK])
    hashes ^= hashes >> np.uint64(32)
    return hashes
