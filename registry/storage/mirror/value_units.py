"""Values of variable width as units of a file, which TensorFlow cuts out without a copy per value.

Each value is a field of a protobuf message: the byte 0x42 (field 8, bytes), the length as a varint
of 5 bytes, the value's bytes, and padding up to a multiple of `UNIT` bytes. Padding is a
field 3 of zeros: 0x1A, their number, and they. So any number of values, end to end, is one message,
whatever their order, and one operation of a graph parses it. A padding of one byte does not exist;
a unit more takes its place. The number of units follows from the length alone.

A value's sum is a hash of its units, which vectorises in NumPy and in a graph:
``Σ h[r] · (2r + 1)`` modulo 2⁶⁴ over the units r = 0, 1, … of the value, where h[r] is the 64-bit
fingerprint of a unit by FarmHash (https://github.com/google/farmhash), for which TensorFlow has an
operation. Damage, and another order of units, goes unnoticed once in about 2⁶⁴.

A graph computes the same: a change here is a change of the file format.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from registry.samples.arrays import Positions, Scratch

UNIT = 32
"""Bytes of a unit."""
HEAD = 6
"""Bytes before a value in its first unit."""
BLOCK = 1 << 14
"""Units that are hashed at a time, so that they stay in the core's cache."""
KEPT_NUMBERS = 1 << 17
"""Odd numbers that are kept, a MiB, for as many units."""
_SCRATCH = Scratch()
# Constants of FarmHash. The last one depends on the length of what is hashed.
_K1, _K2 = np.array([0xB492B66FBE98F273, 0x9AE16A3B2F90404F], np.uint64).reshape(2, 1)
_MULTIPLIER = _K2 + np.uint64(2 * UNIT)
_BITS = np.arange(64, dtype=np.uint64).reshape(64, 1)
"""Numbers as arrays, which NumPy takes in half the time of scalars."""

Units = npt.NDArray[np.int64]
"""Units, of shape ``(count, 4)``: little-endian words."""
Sums = npt.NDArray[np.uint64]
"""Sums of values, one each."""

NO_VALUES: Units = np.empty((0, UNIT // 8), np.int64)


_PADDINGS = [
    b"\x1a" + bytes([size - 2]) + bytes(size - 2) if size > 1 else b"" for size in range(UNIT + 2)
]
"""Fields by their size, which is never 1."""


def unit_counts(lengths: npt.NDArray[np.integer]) -> Positions:
    """Return how many units values of these lengths in bytes take, int64 of the same shape."""
    ends = lengths.astype(np.int64) + HEAD
    # By shifts and masks, which take a third of the time of divisions.
    counts = (ends + (UNIT - 1)) >> (UNIT.bit_length() - 1)
    # A padding of one byte does not exist.
    counts += (ends & (UNIT - 1)) == UNIT - 1
    return counts


def row_sums(counts: Positions) -> Positions:
    """Return the sum of each row, which may be a view of the counts."""
    # Of one column, `sum` takes several times as long as any other pass.
    totals: Positions = counts[:, 0] if counts.shape[1] == 1 else counts.sum(axis=1)
    return totals


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
    hashes = _fingerprints(units)
    # The sum over r of h·(2r + 1), as differences of sums over all units.
    alone, weighted = _SCRATCH.array("sums", (2, len(units) + 1), np.uint64)
    alone[0] = weighted[0] = 0
    hashes.cumsum(out=alone[1:])
    hashes *= _odd_numbers(len(units))
    hashes.cumsum(out=weighted[1:])
    # The begin of each value, and the end of the last one.
    edges = np.zeros(len(counts) + 1, np.int64)
    counts.cumsum(out=edges[1:])
    of_value, below = weighted.take(edges), alone.take(edges)
    offsets = edges[:-1].view(np.uint64) << _BITS[1]
    result: Sums = of_value[1:] - of_value[:-1] - offsets * (below[1:] - below[:-1])
    return result


def _odd_numbers(count: int) -> Sums:
    """Return 1, 3, 5, …, which nobody writes to."""
    if count > KEPT_NUMBERS:
        return np.arange(1, 2 * count, 2, dtype=np.uint64)
    return _kept_numbers()[:count]


@cache
def _kept_numbers() -> Sums:
    return np.arange(1, 2 * KEPT_NUMBERS, 2, dtype=np.uint64)


def _fingerprints(units: Units) -> Sums:
    """Return the fingerprint of each unit, in an array that the next call overwrites."""
    words = units.view("<u8")
    hashes = _SCRATCH.array("hashes", (len(units),), np.uint64)
    for start in range(0, len(units), BLOCK):
        part = slice(start, start + BLOCK)
        _fingerprint(words[part], hashes[part])
    return hashes


def _fingerprint(words: Sums, result: Sums) -> None:
    """Write the fingerprints of a few units: of each, the hash of 17 to 32 bytes in FarmHash."""
    first, second, third, last = words.T
    arrays = _SCRATCH.array("words", (5, len(words)), np.uint64)
    total, rotated, product, other, shifted = arrays
    np.multiply(first, _K1, out=total)
    np.multiply(last, _MULTIPLIER, out=product)
    np.multiply(third, _K2, out=other)
    np.add(second, _K2, out=rotated)
    np.add(total, second, out=result)
    _rotate(rotated, 18, shifted)
    total += rotated
    total += product
    _rotate(result, 43, shifted)
    _rotate(product, 30, shifted)
    result += product
    result += other
    # The two halves, made one.
    for _ in range(2):
        result ^= total
        result *= _MULTIPLIER
        result ^= np.right_shift(result, _BITS[47], out=shifted)
    result *= _MULTIPLIER


def _rotate(words: Sums, bits: int, shifted: Sums) -> None:
    """Rotate words to the right in place; ``shifted`` is overwritten."""
    np.right_shift(words, _BITS[bits], out=shifted)
    np.left_shift(words, _BITS[64 - bits], out=words)
    words |= shifted
