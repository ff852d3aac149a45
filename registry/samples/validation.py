"""Validation and packing of users' values: a value fits its feature exactly, or is rejected.

No value is wrapped or guessed, and none is rounded with one exception: a float may be rounded to
a narrower float type, as a float32 feature asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.samples.class_labels import pack_labels
from registry.samples.features import (
    ClassLabel,
    FixedFeature,
    Image,
    Ragged,
    Tensor,
    Text,
    VariableFeature,
)
from registry.samples.image_values import image_file
from registry.samples.text import encode_text
from registry.samples.unfit_value import UnfitValueError, described

Array = npt.NDArray[Any]

_ORDERED = (list, np.ndarray, tuple)
_UNORDERED = (str, bytes, bytearray, AbstractSet, Mapping)


def pack_fixed(feature: FixedFeature, values: Any, count: int) -> Array:
    """Return an array of shape ``(count, *shape)`` to store; raises `UnfitValueError`."""
    _check_column(values, count)
    if isinstance(feature, ClassLabel):
        return pack_labels(feature, values, count)
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError):
        array = None
    # A float64 array that NumPy made of a list may have been rounded from large integers.
    if array is not None and array.dtype == np.float64 and array is not values:
        array = _wide(array, values, feature.dtype)
    if array is None or array.dtype == object or array.shape != (count, *feature.shape):
        raise _first_unfit(feature, values)
    return _cast(array, feature.dtype, values)


def _check_column(values: Any, count: int) -> None:
    """Reject columns without an order, and masked arrays, which np.asarray would unmask."""
    # Most columns are arrays or lists: the check for the abstract classes takes longer.
    if not isinstance(values, _ORDERED) and isinstance(values, _UNORDERED):
        raise UnfitValueError(f"a column of {count} values is a list, not {type(values).__name__}")
    if isinstance(values, np.ma.MaskedArray):
        raise UnfitValueError(
            "masked arrays are not accepted; fill the masked values, or leave them out"
        )
    if not isinstance(values, np.ndarray):
        for row, value in enumerate(values):
            if isinstance(value, np.ma.MaskedArray):
                raise UnfitValueError("masked arrays are not accepted; fill the masked values", row)


def _wide(array: Array, values: Any, dtype: str) -> Array:
    """Restore integers that NumPy converted to float64, as it mixes int64 with uint64."""
    if _little_endian(dtype).kind in "iu":
        numbers = np.asarray(values, object)
        if all(type(number) is int for number in numbers.flat):
            with suppress(OverflowError):
                return numbers.astype(dtype)
    return array


def pack_variable(feature: VariableFeature, values: Any, count: int) -> list[bytes]:
    """Return the bytes of each value; raises `UnfitValueError` with the first unfit row."""
    _check_column(values, count)
    if isinstance(values, np.ndarray) and values.dtype.kind == "S":
        # The zeros are lost already: the array's elements do not have them.
        raise UnfitValueError(
            "NumPy drops trailing zero bytes from such arrays; give a list of bytes"
        )
    packed = []
    for row, value in enumerate(values):
        try:
            packed.append(_pack_one(feature, value))
        except UnfitValueError as error:
            raise UnfitValueError(error.reason, row) from None
    return packed


def _pack_one(feature: VariableFeature, value: Any) -> bytes:
    if isinstance(feature, Text):
        return _text(value)
    if isinstance(feature, Ragged):
        return _ragged(feature, value)
    if isinstance(feature, Image):
        try:
            return image_file(value, feature.encoding)
        except ValueError as error:
            raise UnfitValueError(str(error)) from None
    if not isinstance(value, bytes | bytearray | memoryview):
        raise UnfitValueError(f"{described(value)} is not bytes")
    return bytes(value)


def _text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise UnfitValueError(f"{described(value)} is not text")
    try:
        return encode_text(value)
    except ValueError as error:
        raise UnfitValueError(f"text {error}") from None


def _ragged(feature: Ragged, value: Any) -> bytes:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        array = np.empty((), object)
    if array.shape == (0,):  # float64, whatever the feature's dtype
        return b""
    if array.dtype == np.float64 and array is not value:
        array = _wide(array, value, feature.dtype)
    if array.shape[1:] != feature.shape or array.ndim == 0 or array.dtype == object:
        raise UnfitValueError(_ragged_problem(feature, value, array))
    if isinstance(value, list | tuple) and any(
        isinstance(item, np.ma.MaskedArray) for item in value
    ):
        raise UnfitValueError("masked arrays are not accepted; fill the masked values")
    return _cast(array, feature.dtype, value).tobytes()


def _ragged_problem(feature: Ragged, value: Any, array: Array) -> str:
    if not feature.shape:
        return f"{described(value)} is not a one-dimensional array of {feature.dtype}"
    wanted = f"(n, {', '.join(map(str, feature.shape))})"
    if array.dtype != object:
        return f"shape {array.shape} is not {wanted}"
    # The first item that differs: NumPy says only that some do.
    for number, item in enumerate(value if isinstance(value, Sequence) else ()):
        with suppress(ValueError, TypeError, OverflowError):
            if (shape := np.asarray(item).shape) != feature.shape:
                return f"item {number} has shape {shape}, which is not {feature.shape}"
    return f"{described(value)} is not an array of {feature.dtype} and shape {wanted}"


def _cast(array: Array, dtype: str, values: Any) -> Array:
    """Cast to little-endian without loss (floats may round); raises `UnfitValueError`."""
    target = _little_endian(dtype)
    if array.dtype == target:  # without the range checks, which this need not pay for
        return array.astype(target, copy=False)
    source, kind = array.dtype.kind, target.kind
    if source == "b" or (source in "iu" and kind in "iuf"):
        allowed = kind != "b" or source == "b"
    else:
        allowed = source == kind == "f"
    if not allowed:
        raise _first_unlike(array, target, values)
    # The cast wraps integers and turns large floats into infinity, silently; the checks that follow
    # find those values.
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(target)
    if source == kind == "f":
        bad = np.isinf(cast)
        if bad.any():
            bad &= np.isfinite(array)
    elif kind == "f":
        bad = _inexact(array, cast)
    else:
        bounds = np.iinfo(target)
        bad = (
            (array < bounds.min) | (array > bounds.max)
            if kind in "iu" and source != "b"
            else (np.zeros(1, bool))
        )
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        raise UnfitValueError(f"{array[index]!s} does not fit {target.name} exactly", index[0])
    return cast


@cache
def _little_endian(dtype: str) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("<")


def _inexact(array: Array, cast: Array) -> npt.NDArray[np.bool_]:
    """Return a mask of the integers that differ from their float; Python compares these exactly."""
    # All integers below 2**digits are exact; comparing only the others is faster.
    digits = np.finfo(cast.dtype).nmant + 1
    suspects = np.abs(array.astype(np.float64)) >= 2.0**digits
    if suspects.any():
        suspects[suspects] = [
            int(whole) != _whole(near)
            for whole, near in zip(array[suspects].tolist(), cast[suspects].tolist(), strict=True)
        ]
    return suspects


def _whole(number: float) -> int | None:
    return int(number) if np.isfinite(number) else None


def _first_unlike(array: Array, target: np.dtype[Any], values: Any) -> UnfitValueError:
    """Find the row whose type cannot be cast: one float makes NumPy convert the whole column."""
    row = 0
    if array.dtype.kind == "f":
        nan = np.isnan(array)
        if nan.any():
            return UnfitValueError(f"NaN does not fit {target.name}", int(np.argwhere(nan)[0][0]))
    if not isinstance(values, np.ndarray):
        kinds = [np.asarray(value).dtype.kind for value in values]
        alike = "iub" if target.kind in "iu" else "b" if target.kind == "b" else "iubf"
        row = next((i for i, kind in enumerate(kinds) if kind not in alike), 0)
        array = np.asarray(values[row])
    return UnfitValueError(
        f"{array.dtype.name} does not fit {target.name} without loss; convert it", row
    )


def _first_unfit(feature: Tensor, values: Any) -> UnfitValueError:
    """Find the first row that is not an array of the feature's shape and dtype."""
    # Row by row: NumPy's error for the whole column does not say which row is ragged.
    for row, value in enumerate(values):
        try:
            one = np.asarray(value)
        except (ValueError, TypeError, OverflowError):
            return UnfitValueError(
                f"{described(value)} is not an array of shape {feature.shape}", row
            )
        if one.shape != feature.shape:
            return UnfitValueError(f"shape {one.shape} is not {feature.shape}", row)
        if one.dtype == object:
            return UnfitValueError(f"{described(value)} is not {feature.dtype}", row)
    return UnfitValueError(f"the values do not form an array of {feature.dtype}")
