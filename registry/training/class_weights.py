"""Weights of classes by which each class has the same weight in total."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from registry.errors import FeatureError
from registry.samples.arrays import Positions
from registry.samples.features import ClassLabel, Features
from registry.training.source import Source


def class_label(
    features: Features, name: str, lack: str = "its values have no weights"
) -> ClassLabel:
    """Return the `ClassLabel` of this name; raises `FeatureError` if there is none.

    ``lack`` says what any other feature lacks.
    """
    label = features.get(name)
    if isinstance(label, ClassLabel):
        return label
    labels = [name for name, each in features.items() if isinstance(each, ClassLabel)]
    raise FeatureError(
        f"{name!r:.200} is no ClassLabel, so that {lack}; "
        + (f"give one of {', '.join(map(repr, labels))}" if labels else "there is none")
    )


def count_classes(
    source: Source, feature: str, label: ClassLabel, chunks: Iterable[Positions]
) -> npt.NDArray[np.int64]:
    """Count the samples of each class, at positions that come in chunks."""
    counts = np.zeros(label.count, np.int64)
    for positions in chunks:
        counts += np.bincount(source.values(feature, positions), minlength=label.count)
    return counts


def balanced(counts: npt.NDArray[np.int64]) -> dict[int, float]:
    """Return the weight of each class, given its number of samples.

    That is ``n / (k * count)`` for n samples of k classes. A class without samples has the weight
    1, the mean over the samples. With 0, a later epoch's first samples of it would be ignored.
    """
    weights = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return dict(enumerate(np.where(counts > 0, weights, 1.0).tolist()))
