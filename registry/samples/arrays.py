"""NumPy array types that several modules share, and arrays that are used again."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.uint8]
"""Records of equal width, of shape ``(count, width)``."""

Positions = npt.NDArray[np.int64]
"""Positions in a log, one per row."""

REUSED_BYTES = 1 << 22
"""Larger arrays are not kept."""


class Scratch(threading.local):
    """Arrays for intermediate results, which the calls of a thread use again.

    The first write to each page of fresh memory takes longer than most arithmetic on it.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, npt.DTypeLike], npt.NDArray[Any]] = {}
        self._last: dict[str, tuple[tuple[int, ...], npt.DTypeLike, npt.NDArray[Any]]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return an array of any content, the same memory for each array of a name."""
        # Those who read a few rows at a time mostly want the same again.
        last = self._last.get(name)
        if last is not None and last[0] == shape and last[1] is dtype:
            return last[2]
        size = math.prod(shape)
        buffer = self._buffers.get((name, dtype))
        if buffer is None or len(buffer) < size:
            buffer = np.empty(size, dtype)
            if buffer.nbytes > REUSED_BYTES:
                return buffer.reshape(shape)
            self._buffers[name, dtype] = buffer
        array = buffer[:size].reshape(shape)
        self._last[name] = shape, dtype, array
        return array
