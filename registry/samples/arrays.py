"""NumPy array types that several modules share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.uint8]


Positions = npt.NDArray[np.int64]
