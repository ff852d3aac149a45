"""Policies: which of a growing dataset's samples an epoch holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from registry.errors import FeatureError

LARGEST_RATIO = 1_000_000


@dataclass(frozen=True)
class Replay:
    """The samples that came since the last epoch, and a seeded draw of older ones.

    ``ratio`` is of older ones to new ones; 0.5 adds one older sample for two new ones, and no
    more than there are.
    """

    ratio: float

    def __post_init__(self) -> None:
        number = isinstance(self.ratio, int | float) and not isinstance(self.ratio, bool)
        if not (number and 0 <= self.ratio <= LARGEST_RATIO):
            raise FeatureError(
                f"a replay's ratio is a number from 0 to {LARGEST_RATIO:,}, not {self.ratio!r:.200}"
            )

    def __str__(self) -> str:
        return f"replay:{float(self.ratio)!r}"

    def draws(self, new: int) -> int:
        """Return how many older samples go with so many new ones; halves are rounded up."""
        return math.floor(self.ratio * new + 0.5)


Policy = Literal["all", "new"] | Replay


def parse(text: str) -> Policy:
    """Read the text form that the database keeps: ``all``, ``new`` or ``replay:0.5``."""
    kind, _, ratio = text.partition(":")
    if kind == "replay":
        return Replay(float(ratio))
    return "new" if kind == "new" else "all"


def check(policy: object) -> None:
    """Raise `FeatureError` unless it is a policy."""
    if policy not in ("all", "new") and not isinstance(policy, Replay):
        raise FeatureError(
            f"policy {policy!r:.200} is not known; use 'all', 'new' or Replay(ratio)"
        )
