"""Validation of class labels: a name or an index of a class of the feature, or it is rejected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.samples.features import ClassLabel
from registry.samples.unfit_value import UnfitValueError, described

Array = npt.NDArray[Any]

_WHOLE = (int, np.integer)


def pack_labels(feature: ClassLabel, values: Any, count: int) -> Array:
    """Return the indexes of classes that are given by index or by name, of shape ``(count,)``."""
    if not isinstance(values, np.ndarray):
        return _indexes(feature, values)
    array = values
    if array.shape != (count,):
        raise UnfitValueError(f"shape {array.shape[1:]} is not (); a class label is one value", 0)
    if array.dtype.kind == "U":
        return _lookup(feature, array)
    if array.dtype.kind not in "iu":
        raise UnfitValueError(f"{array.dtype.name} is not a class index or name", 0)
    # Before the array is cast to int32, which would wrap large indexes to valid ones.
    bad = (array < 0) | (array >= feature.count)
    if bad.any():
        row = int(np.argmax(bad))
        raise UnfitValueError(f"class index {array[row]} is not in [0, {feature.count})", row)
    return array


def _indexes(feature: ClassLabel, values: Sequence[Any]) -> Array:
    """Convert a list, which may mix names and indexes, to indexes of type int64."""
    known: dict[str, int] | None = None
    indexes = np.empty(len(values), np.int64)
    for row, value in enumerate(values):
        if isinstance(value, np.ndarray) and value.shape == () and value.dtype.kind in "iu":
            value = int(value)  # noqa: PLW2901  # a 0-d array, accepted like a NumPy scalar
        if isinstance(value, str):
            if known is None:
                known = {name: index for index, name in enumerate(feature.names or ())}
            if value not in known:
                raise UnfitValueError(_unknown(feature, value), row)
            indexes[row] = known[value]
        # bool is a subclass of int: True would be stored as class 1.
        elif isinstance(value, _WHOLE) and not isinstance(value, bool):
            if not 0 <= value < feature.count:
                raise UnfitValueError(f"class index {value} is not in [0, {feature.count})", row)
            indexes[row] = value
        else:
            raise UnfitValueError(f"{described(value)} is not a class index or name", row)
    return indexes


def _lookup(feature: ClassLabel, array: Array) -> Array:
    # An empty array would have no element for `searchsorted` to return.
    names = np.array(feature.names or ("",))
    order = np.argsort(names)
    # searchsorted returns len(names) for a name after all others.
    ranks = np.minimum(np.searchsorted(names, array, sorter=order), len(names) - 1)
    indexes: Array = order[ranks]
    unlike = names[indexes] != array
    # searchsorted returns a rank for absent names, too.
    if unlike.any() or feature.names is None:
        row = int(np.argmax(unlike))
        raise UnfitValueError(_unknown(feature, str(array[row])), row)
    return indexes


def _unknown(feature: ClassLabel, name: str) -> str:
    if feature.names is None:
        return f"class {name!r}: this feature has no names; give an index below {feature.count}"
    shown = ", ".join(map(repr, feature.names[:10])) + (", …" if feature.count > 10 else "")
    return f"unknown class {name!r}; the classes are {shown}"
