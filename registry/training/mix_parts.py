"""The parts of a mix: their weights, and the features that all of them must have."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry.errors import FeatureError
from registry.samples.feature_text import feature_text
from registry.samples.features import ClassLabel, Feature, Features, Image
from registry.training.run import Run
from registry.training.schedule import BLOCK, LARGEST, SMALL_PARTS, small


@dataclass(frozen=True, eq=False)
class Part:
    """A run of a mix and its weight, as it was given."""

    run: Run
    weight: float

    @property
    def name(self) -> str:
        """The run's name and its dataset's, for messages."""
        return f"{self.run.name!r} of {self.run.dataset!r}"

    def __str__(self) -> str:
        return f"run {self.run.name!r} of dataset {self.run.dataset!r}"


def parse_parts(runs: Any) -> tuple[Part, ...]:
    """Return the parts of a mix: a mapping of runs to weights, or pairs of both.

    Raises `FeatureError` for what is no run, no weight, or twice in the mix.
    """
    pairs = runs.items() if isinstance(runs, Mapping) else runs
    if not isinstance(pairs, Iterable) or isinstance(pairs, str | bytes):
        raise FeatureError(
            f"a mix takes runs with their weights, {{run: weight}}, not {type(runs).__name__}"
        )
    parts = tuple(map(_part, pairs))
    if not 0 < len(parts) <= LARGEST:
        raise FeatureError(f"a mix has from 1 to {LARGEST:,} runs, not {len(parts):,}")
    _check_weights(parts)
    names: set[tuple[str, str]] = set()
    for part in parts:
        name = (part.run.log.uid, part.run.name)
        if name in names:
            raise FeatureError(
                f"{part} is in the mix twice: add its weights up, or take a run of another name"
            )
        names.add(name)
    return parts


def _part(pair: Any) -> Part:
    try:
        run, weight = pair
    except (TypeError, ValueError):
        raise FeatureError(
            f"a mix takes runs with their weights, {{run: weight}}, not {pair!r:.200}"
        ) from None
    if not isinstance(run, Run):
        raise FeatureError(f"a mix takes runs, reg.open(…).run(…), not {run!r:.200}")
    number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
    part = Part(run, _as_float(weight) if number else math.nan)
    if not (math.isfinite(part.weight) and part.weight >= 0):
        raise FeatureError(
            f"{part} has the weight {weight!r:.200}: a weight is a finite number, 0 or more"
        )
    return part


def _as_float(weight: numbers.Real) -> float:
    try:
        return float(weight)
    except OverflowError:
        return math.inf


def _check_weights(parts: Sequence[Part]) -> None:
    weights = [part.weight for part in parts]
    if not any(weights):
        raise FeatureError(f"{parts[0]}, like all of the mix, has the weight 0: none can be drawn")
    tiny = small(weights)
    if len(tiny) > SMALL_PARTS:
        part = parts[tiny[0]]
        raise FeatureError(
            f"{part} and {len(tiny) - 1} others have weights, such as {part.weight!r}, below "
            f"1/{BLOCK:,} of their sum: at most {SMALL_PARTS} may; raise them, or leave some out"
        )


def shared_features(parts: Sequence[tuple[Part, Features]]) -> Features:
    """Return the features of a mix's samples: those of the first part.

    Raises `FeatureError` if those of another part differ. Their order may, and the encodings of
    images, in which case the mix has images of any encoding.
    """
    (first, features), *others = parts
    shared = dict(features)
    for part, theirs in others:
        if features.keys() != theirs.keys():
            name = min(features.keys() ^ theirs.keys())
            has, lacks = (first, part) if name in features else (part, first)
            raise FeatureError(
                f"{has} has the feature {name!r}, and {lacks} does not: all samples of a mix have "
                "the same features"
            )
        for name, feature in theirs.items():
            if isinstance(feature, Image) and isinstance(shared[name], Image):
                if feature != shared[name]:
                    shared[name] = Image()
            elif feature != shared[name]:
                difference = _difference(shared[name], feature)
                raise FeatureError(
                    f"{part}: feature {name!r} {difference} {first}: all samples of a mix have the "
                    "same features"
                )
    return Features(shared)


def _difference(one: Feature, other: Feature) -> str:
    if isinstance(one, ClassLabel) and isinstance(other, ClassLabel):
        ones, others = one.names or (), other.names or ()
        for number, pair in enumerate(zip(ones, others, strict=False)):
            if pair[0] != pair[1]:
                return f"has {pair[1]!r} as class {number}, which is {pair[0]!r} in"
        if ones and others:
            longer, more = max(ones, others, key=len), abs(len(ones) - len(others))
            which = "more" if longer is others else "fewer"
            which = f"{'class' if more == 1 else 'classes'} {which}"
            return f"has {more} {which}, such as {longer[-1]!r}, than in"
    texts = [feature_text(each, brief=True) for each in (other, one)]
    if texts[0] == texts[1]:  # one has names of classes, the other a count
        texts = [f"{feature_text(each):.100}" for each in (other, one)]
    return f"is {texts[0]}, and {texts[1]} in"
