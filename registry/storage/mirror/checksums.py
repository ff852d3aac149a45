"""Seals: checks that let every row of a mirror be verified on its own, wherever it is read.

A mirror file is read at random places by memory map, in NumPy or in a TensorFlow graph, so a
checksum of the whole file would come too late or cost too much. Each row carries its own instead,
over its bytes and its position, which vectorises:

``h = Σ (w[i] ^ w[i] >> 32) · m[i] + (position + 1) · m[n]`` modulo 2⁶⁴, over the row's n
little-endian uint64 words w with the seal taken as zero, and the seal is ``(h ^ h >> 32)`` modulo
2³². The multipliers m are odd, from SHAKE-128. This is multilinear hashing (Lemire and Kaser,
"Strongly universal string hashing is fast", 2014) after a mixing step: damage within one word
always changes h, and any other damage escapes once in about 2³².

A row is its record, zeros up to the next 4 bytes before a multiple of 8, and the seal as uint32. An
index entry is one int64: a position in the low 40 bits and above them 23 bits of such a hash.
"""

from __future__ import annotations

from functools import cached_property
from hashlib import shake_128
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.samples.arrays import Positions, Rows

MULTIPLIERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)
"""Of an index entry: its rank's and its position's."""
POSITION_BITS = 40
BLOCK_BYTES = 1 << 18
ENTRY_SHIFT = 64 - 23
"""How far an entry's hash is shifted down: what remains are its highest 23 bits."""


class SealedRows:
    """The layout of rows that hold records of ``width`` bytes; rows are ``stride`` bytes."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.stride = -(-(width + 4) // 8) * 8

    @cached_property
    def multipliers(self) -> npt.NDArray[np.uint64]:
        """One per word of a row, and the position's."""
        stream = shake_128(b"registry mirror").digest(self.stride + 8)
        return np.frombuffer(stream, "<u8") | np.uint64(1)

    def seal(self, records: npt.NDArray[Any], positions: Positions) -> Rows:
        """Make rows, shape ``(count, stride)``, of records, void of ``width`` bytes each."""
        rows = np.zeros((len(records), self.stride), np.uint8)
        layout = np.dtype({"names": ["r"], "formats": [records.dtype], "itemsize": self.stride})
        rows.view(layout)["r"][:, 0] = records
        self._seals(rows)[:] = self._hash(rows, positions)
        return rows

    def broken(self, rows: Rows, positions: Positions) -> npt.NDArray[np.bool_]:
        """Tell which rows are not what was sealed for these positions."""
        broken: npt.NDArray[np.bool_] = self._seals(rows) != self._hash(rows, positions)
        return broken

    def _seals(self, rows: Rows) -> npt.NDArray[np.uint32]:
        return rows.view("<u4")[:, -1]

    def _hash(self, rows: Rows, positions: Positions) -> npt.NDArray[np.uint32]:
        """Hash rows whose seals count as zero, a block at a time: it stays in the core's cache."""
        hashes = np.empty(len(rows), np.uint32)
        block = max(1, BLOCK_BYTES // self.stride)
        for start in range(0, len(rows), block):
            part = slice(start, start + block)
            words = rows[part].view("<u8").copy()
            words[:, -1] &= np.uint64(0xFFFFFFFF)  # the seal is the last word's higher half
            words ^= words >> np.uint64(32)
            total: npt.NDArray[np.uint64] = words @ self.multipliers[:-1]
            total += (positions[part] + 1).astype(np.uint64) * self.multipliers[-1]
            hashes[part] = total ^ (total >> np.uint64(32))
        return hashes


def seal_entries(positions: Positions, first_rank: int) -> Positions:
    """Make index entries for positions whose ranks count from ``first_rank``."""
    ranks = np.arange(first_rank, first_rank + len(positions))
    return positions | (_entry_hash(ranks, positions) << np.int64(POSITION_BITS))


def open_entries(entries: Positions, ranks: Positions) -> tuple[Positions, npt.NDArray[np.bool_]]:
    """Return the positions in the entries, and which of them are not what was sealed."""
    positions = entries & np.int64((1 << POSITION_BITS) - 1)
    return positions, (entries >> np.int64(POSITION_BITS)) != _entry_hash(ranks, positions)


def _entry_hash(ranks: Positions, positions: Positions) -> Positions:
    total = (ranks + 1).astype(np.uint64) * np.uint64(MULTIPLIERS[0])
    total += (positions + 1).astype(np.uint64) * np.uint64(MULTIPLIERS[1])
    total ^= total >> np.uint64(32)
    total *= np.uint64(MULTIPLIERS[0])
    return (total >> np.uint64(ENTRY_SHIFT)).astype(np.int64)
