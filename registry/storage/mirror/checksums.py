"""Seals: checksums with which each row of a mirror is verified on its own, when it is read.

A row is its record, zeros up to 4 bytes before the next multiple of 8, and the seal as uint32. The
seal is a hash of the row's bytes and its position, which vectorises:

``h = Σ (w[i] ^ w[i] >> 32) · m[i] + (position + 1) · m[n]`` modulo 2⁶⁴, over the row's n
little-endian uint64 words w with the seal taken as zero, and the seal is ``(h ^ h >> 32)`` modulo
2³². The multipliers m are odd, from SHAKE-128. This is multilinear hashing (Lemire and Kaser,
"Strongly universal string hashing is fast", 2014) after a mixing step: damage within one word
always changes h, and any other damage goes unnoticed once in about 2³².

The rows of a file are read in random order through a memory map, in NumPy or in a TensorFlow graph.
A checksum of the whole file would have to be computed before the first row is read, so each row
carries its own. The graph computes the same hash: a change here is a change of the file format.
"""

from __future__ import annotations

from functools import cached_property
from hashlib import shake_128
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.samples.arrays import Positions, Rows
from registry.storage.mirror.row_buffer import RowBuffer, row_buffer

BLOCK_BYTES = 1 << 18
"""Bytes of rows that are hashed at a time, so that they stay in the core's cache."""
_WORD, _HALF, _ONE = np.dtype("<u8"), np.dtype("<u4"), np.array(1, np.uint64)
"""Made once: of a few rows, making them would take as long as a pass over the rows."""


class SealedRows:
    """The layout of sealed rows: records of ``width`` bytes in rows of ``stride`` bytes."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.stride: int = -(-(width + 4) // 8) * 8

    @cached_property
    def multipliers(self) -> npt.NDArray[np.uint64]:
        """The odd multipliers, uint64: one per word of a row, and last the position's."""
        stream = shake_128(b"registry mirror").digest(self.stride + 8)
        return np.frombuffer(stream, "<u8") | np.uint64(1)

    @cached_property
    def _factors(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """The multipliers of the words, and of the position as an array without dimensions."""
        return self.multipliers[:-1], self.multipliers[-1:].reshape(())

    def seal(self, records: npt.NDArray[Any], positions: Positions) -> Rows:
        """Return rows, shape ``(count, stride)``, of records of dtype ``V{width}``."""
        # Zeros, not empty: the padding between record and seal is hashed, too.
        rows = np.zeros((len(records), self.stride), np.uint8)
        layout = np.dtype({"names": ["r"], "formats": [records.dtype], "itemsize": self.stride})
        rows.view(layout)["r"][:, 0] = records
        self._seals(rows)[:] = self._hash(rows, positions)
        return rows

    def broken(self, rows: Rows, positions: Positions) -> npt.NDArray[np.bool_]:
        """Return which rows do not match their seals at these positions, one bool each."""
        broken: npt.NDArray[np.bool_] = self.differences(rows, positions) != 0
        return broken

    def differences(self, rows: Rows, positions: Positions) -> npt.NDArray[np.uint32]:
        """Return the rows' seals XOR those that match: 0 for a row that is not broken."""
        return self._seals(rows) ^ self._hash(rows, positions)

    def seal_differently(self, rows: Rows, differences: npt.NDArray[np.uint32]) -> None:
        """Change the seals of rows that were just sealed by what `differences` returned."""
        self._seals(rows)[:] ^= differences

    def broken_in_buffer(self, buffer: RowBuffer, positions: Positions) -> npt.NDArray[np.bool_]:
        """Return what `broken` does of the rows in a buffer, and overwrite them."""
        seals = buffer.seals.copy()
        self._hash_buffer(buffer, positions, buffer.hashes)
        broken: npt.NDArray[np.bool_] = buffer.hashes != seals
        return broken

    def _seals(self, rows: Rows) -> npt.NDArray[np.uint32]:
        return rows.view(_HALF)[:, -1]

    def _hash(self, rows: Rows, positions: Positions) -> npt.NDArray[np.uint32]:
        """Hash rows with their seals taken as zero, a block at a time."""
        hashes = np.empty(len(rows), np.uint32)
        block = max(1, BLOCK_BYTES // self.stride)
        for start in range(0, len(rows), block):
            part = slice(start, start + block)
            # A copy: the rows may be a read-only map, and their seals must stay.
            buffer = row_buffer(len(rows[part]), self.stride)
            np.copyto(buffer.words, rows[part].view(_WORD))
            self._hash_buffer(buffer, positions[part], hashes[part])
        return hashes

    def _hash_buffer(
        self, buffer: RowBuffer, positions: Positions, hashes: npt.NDArray[np.uint32]
    ) -> None:
        """Write the hashes of rows, which are overwritten."""
        buffer.seals.fill(0)
        # As `words ^= words >> 32`, in half the time; with one dimension, in a quarter.
        np.bitwise_xor(buffer.low, buffer.high, out=buffer.low)
        totals, terms = buffer.totals, buffer.terms
        # Not `matmul`, which keeps the sum of integers in memory.
        by_word, by_position = self._factors
        np.vecdot(buffer.words, by_word, out=totals)
        # Viewed first: NumPy promotes int64 with uint64 to float64, which loses the low bits.
        np.add(positions.view(_WORD), _ONE, out=terms)
        np.multiply(terms, by_position, out=terms)
        np.add(totals, terms, out=totals)
        np.bitwise_xor(buffer.total_low, buffer.total_high, out=hashes)
