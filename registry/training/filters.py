"""Filters: the conditions of a run as tests of columns of values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.samples.features import ClassLabel, Features, Tensor
from registry.training.conditions import AnyOf, Between, Condition, Conditions
from registry.training.value_columns import SOURCES, ValueColumn, Values, text_hash

Mask = npt.NDArray[np.bool_]
Matches = Callable[[int, int], Mask]
"""Says which rows at positions ``[after, until)`` meet all conditions of a run."""


@dataclass(frozen=True)
class Filter:
    """A condition on one column. Values outside ``bounds`` fail, as do those not in ``members``.

    Either may be None, and so may each of the bounds; the second one is exclusive.
    """

    column: ValueColumn
    members: Values | None = None
    bounds: tuple[Any, Any] = (None, None)

    def __call__(self, values: Values) -> Mask:
        if self.members is not None:
            return np.isin(values, self.members)
        mask = np.ones(len(values), bool)
        start, stop = self.bounds
        if start is not None:
            mask &= values >= start
        if stop is not None:
            mask &= values < stop
        return mask


def filters(conditions: Conditions, features: Features) -> list[Filter]:
    """Return a filter for each condition; ``features`` has those that the conditions name."""
    made = [_filter(name, condition, features) for name, condition in conditions.features]
    if conditions.source is not None:
        made.append(Filter(SOURCES, _hashes(conditions.source)))
    return made


def _filter(name: str, condition: Condition, features: Features) -> Filter:
    column, feature = ValueColumn.of(name, features), features[name]
    if isinstance(condition, Between):
        return Filter(column, bounds=_bounds(condition, np.dtype(column.dtype)))
    if isinstance(feature, ClassLabel) and feature.names is not None:
        indexes = {name: index for index, name in enumerate(feature.names)}
        return Filter(column, np.array([indexes[str(value)] for value in condition.values], "<i4"))
    if isinstance(feature, ClassLabel | Tensor):
        return Filter(column, np.array(condition.values, column.dtype))
    return Filter(column, _hashes(condition))


def _hashes(condition: AnyOf) -> npt.NDArray[np.uint64]:
    texts = [None if value is None else str(value).encode() for value in condition.values]
    return np.array([text_hash(text) for text in texts], np.uint64)


def _bounds(interval: Between, dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """Return the ends of an interval as values of a dtype; None where all values are inside."""
    start, stop = interval.start, interval.stop
    # An end may be outside of the integers of the dtype, and then divides none of them.
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        start = None if start is None or start <= bounds.min else start
        stop = None if stop is None or stop > bounds.max else stop
    return (
        None if start is None else dtype.type(start),
        None if stop is None else dtype.type(stop),
    )
