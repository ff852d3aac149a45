"""Positions in one of several logs, each as one integer.

The samples of a mix may be in several logs. The number of the log is in the high bits, so that a
position in the first log is the integer itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from registry.samples.arrays import Positions
from registry.storage.log.reader import Log

_BITS = 48
"""Bits of a position: more rows than a log can have."""


def in_log(number: int, positions: Positions) -> Positions:
    """Return positions in the log of this number, which is less than 2**15."""
    return positions + (number << _BITS)


def log_and_position(logs: Sequence[Log], position: int) -> tuple[Log, int]:
    """Return the log of a position, and the position in it."""
    return logs[position >> _BITS], position & ((1 << _BITS) - 1)
