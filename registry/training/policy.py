"""Policies: which samples of a growing dataset an epoch holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from registry.errors import FeatureError

LARGEST_RATIO = 1_000_000


@dataclass(frozen=True)
class Replay:
    """The samples added since the last epoch, and a seeded random draw of older ones.

    ``ratio`` is the number of older samples per new one: 0.5 adds one older sample for two new
    ones. No sample is drawn twice, so that there may be fewer.
    """

    ratio: float

    def __post_init__(self) -> None:
        # True and False are ints, too, but no ratios.
        number = isinstance(self.ratio, int | float) and not isinstance(self.ratio, bool)
        if not (number and 0 <= self.ratio <= LARGEST_RATIO):
            raise FeatureError(
                f"a replay's ratio is a number from 0 to {LARGEST_RATIO:,}, not {self.ratio!r:.200}"
            )

    def __str__(self) -> str:
        # ``repr`` has all digits of a float, so that parsing returns the very same ratio.
        return f"replay:{float(self.ratio)!r}"

    def draws(self, new: int) -> int:
        """Return how many older samples to draw for ``new`` new ones; halves are rounded up."""
        # Not `round`, which rounds halves to even numbers: pinned epochs would change their size.
        return math.floor(self.ratio * new + 0.5)


Policy = Literal["all", "new"] | Replay


def parse_policy(text: str) -> Policy:
    """Parse the text form in the database: ``all``, ``new`` or ``replay:0.5``."""
    kind, _, ratio = text.partition(":")
    if kind == "replay":
        return Replay(float(ratio))
    return "new" if kind == "new" else "all"


def check_policy(policy: object) -> None:
    """Raise `FeatureError` unless it is a policy."""
    if policy not in ("all", "new") and not isinstance(policy, Replay):
        raise FeatureError(
            f"policy {policy!r:.200} is not known; use 'all', 'new' or Replay(ratio)"
        )
