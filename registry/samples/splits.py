"""Splits: half-open intervals of buckets, the numbers 0 to 65535 that sample keys hash to.

Splits are fixed when a dataset is created, and a key's bucket never changes. So a sample never
moves from one split to another, however much the dataset grows or is relabeled. Samples of one
group share its bucket, and so are all in one split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import SupportsFloat

from registry.errors import FeatureError
from registry.samples.text import text_problem

BUCKETS = 1 << 16

Interval = tuple[int, int]


def intervals(fractions: Mapping[str, float]) -> dict[str, Interval]:
    """Convert fractions to intervals; raises `FeatureError`.

    Fractions such as ``{"train": 0.9, "test": 0.1}`` must add up to 1.
    """
    if not fractions:
        return {}
    for name, part in fractions.items():
        if problem := text_problem(name):
            raise FeatureError(f"a split's name {problem}")
        if not isinstance(part, SupportsFloat):
            raise FeatureError(f"split {name!r:.200}: a share is a number, not {part!r:.200}")
    if any(not name or not 0 < part <= 1 for name, part in fractions.items()):
        raise FeatureError(f"splits {dict(fractions)!r}: each needs a name and a share above 0")
    # Sums of floats are inexact: 0.7 + 0.2 + 0.1 is less than 1.
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise FeatureError(f"splits {dict(fractions)!r} add up to {sum(fractions.values())}, not 1")
    result: dict[str, Interval] = {}
    total, start = 0.0, 0
    for name, part in fractions.items():
        # Rounding the running total, not each share, makes the last interval end at BUCKETS.
        total += part
        stop = round(total * BUCKETS)
        if stop == start:
            raise FeatureError(
                f"split {name!r:.200}: a share of {part:g} rounds to none of the {BUCKETS:,} "
                "buckets that keys hash to, so no sample could fall into the split; "
                f"give {1 / BUCKETS:g} or more"
            )
        result[name] = (start, stop)
        start = stop
    return result


def interval(splits: Mapping[str, Interval], name: str | None) -> Interval:
    """Return the buckets of a split, or all buckets for None; raises `FeatureError`."""
    if name is None:
        return (0, BUCKETS)
    if name not in splits:
        known = ", ".join(map(repr, splits)) or "none"
        raise FeatureError(f"no split named {name!r:.200}; this dataset has {known}")
    start, stop = splits[name]
    return (start, stop)
