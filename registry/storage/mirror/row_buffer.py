"""Memory for rows of a mirror that are copied, decoded and checked, and then not used any more.

The first write to each page of fresh memory takes longer than most arithmetic on it. And of a few
hundred rows, making the views of their memory takes longer than the passes over it: both are kept.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from registry.samples.arrays import REUSED_BYTES, Scratch
from registry.samples.codec import Column
from registry.samples.record_layout import RecordLayout, copied_columns

_WORD, _HALF = np.dtype("<u8"), np.dtype("<u4")
_SCRATCH = Scratch()


class RowBuffer:
    """Rows of ``stride`` bytes, and arrays for their hashes.

    ``whole`` has one void for each row, ``words`` and ``seals`` are uint64 and uint32 of them.
    ``hashes`` is for one uint32 of each.
    ``low`` and ``high`` are the halves of all words, those of ``totals`` are ``total_low`` and
    ``total_high``.
    """

    def __init__(self, count: int, stride: int) -> None:
        self.shape: tuple[int, int] = count, stride
        self.rows: npt.NDArray[np.uint8] = _SCRATCH.array("rows", self.shape, np.uint8)
        self.whole: npt.NDArray[np.void] = self.rows.view(f"V{stride}")[:, 0]
        self.words: npt.NDArray[np.uint64] = self.rows.view(_WORD)
        halves = self.rows.view(_HALF)
        # The seal is the last word's higher half.
        self.seals: npt.NDArray[np.uint32] = halves[:, -1]
        flat = halves.reshape(-1)
        self.low: npt.NDArray[np.uint32] = flat[0::2]
        self.high: npt.NDArray[np.uint32] = flat[1::2]
        self.hashes: npt.NDArray[np.uint32] = _SCRATCH.array("hashes", (count,), np.uint32)
        totals = _SCRATCH.array("totals", (2, count), np.uint64)
        self.totals: npt.NDArray[np.uint64] = totals[0]
        self.terms: npt.NDArray[np.uint64] = totals[1]
        both = self.totals.view(_HALF)
        self.total_low: npt.NDArray[np.uint32] = both[0::2]
        self.total_high: npt.NDArray[np.uint32] = both[1::2]
        self._layout: RecordLayout | None = None

    def columns(self, layout: RecordLayout) -> dict[str, Column]:
        """Copy the rows as columns of records of fixed width, with which they begin."""
        if self._layout is not layout:
            self._layout, self._fields = layout, layout.fields_of_rows(self.rows)
        return copied_columns(self._fields)


class _Last(threading.local):
    buffer: RowBuffer | None = None


_LAST = _Last()


def row_buffer(count: int, stride: int) -> RowBuffer:
    """Return a buffer of any content; the next call in the same thread may return it again."""
    last = _LAST.buffer
    if last is not None and last.shape == (count, stride):
        return last
    buffer = RowBuffer(count, stride)
    if buffer.rows.nbytes <= REUSED_BYTES:
        _LAST.buffer = buffer
    return buffer
