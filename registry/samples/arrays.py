"""NumPy array types that several modules share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.uint8]
"""Records of equal width, of shape ``(count, width)``."""

Positions = npt.NDArray[np.int64]
"""Positions in a log, one per row."""
