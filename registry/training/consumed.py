"""Numbers of samples that have been trained on."""

from __future__ import annotations

import operator
from typing import SupportsIndex

from registry.errors import EpochError
from registry.training.run_request import END


def consumed_count(samples: SupportsIndex) -> int:
    """Return a number of consumed samples as an int; raises `EpochError` for an impossible one."""
    if not 0 <= (count := operator.index(samples)) < END:
        raise EpochError(f"{count} samples cannot have been consumed")
    return count
