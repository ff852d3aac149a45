"""Defaults of features that were added to a dataset, as JSON and as values."""

from __future__ import annotations

import binascii
import reprlib
from typing import Any

import numpy as np

from registry.errors import FeatureError, InvalidSampleError
from registry.samples.codec import Codec
from registry.samples.features import Feature, Features, Ragged, Tensor
from registry.samples.json_codec import from_base64, from_fields, to_fields

_LARGEST_EXACT = 2.0**53
"""Databases may return a larger float as a whole number that no float feature accepts."""


def checked_default(name: str, feature: Feature, default: Any) -> Any:
    """Return the JSON value of a default; raises `FeatureError` if it does not fit."""
    try:
        if isinstance(feature, Tensor) and np.ndim(default) == 0:
            # Stored as one number, however large the tensor is.
            return _form(Tensor(feature.dtype), default)
        return _form(feature, default)
    except (InvalidSampleError, ValueError) as error:
        reason = error.reason if isinstance(error, InvalidSampleError) else str(error)
        raise FeatureError(
            f"the default {reprlib.repr(default)} does not fit the new feature {name!r}: {reason}"
        ) from None


def _form(feature: Feature, default: Any) -> Any:
    codec = Codec(Features({"default": feature}))
    value = codec.decode_one(codec.encode({"default": [default]})[0])["default"]
    if isinstance(feature, Tensor | Ragged) and not _survives_json(np.asarray(value)):
        value = np.asarray(value).astype(np.dtype(feature.dtype).newbyteorder("<"))
        return binascii.b2a_base64(value.tobytes(), newline=False).decode()
    return to_fields(codec.features, {"default": value})["default"]


def _survives_json(array: np.ndarray[Any, Any]) -> bool:
    """Return whether a database's JSON keeps the values: PostgreSQL's drops the sign of -0.0."""
    if array.dtype.kind != "f":
        return True
    wide = array.astype(np.float64)
    return bool((np.abs(wide) < _LARGEST_EXACT).all() and not np.signbit(wide[wide == 0]).any())


def default_value(feature: Feature, form: Any) -> Any:
    """Return the value of a default's JSON form, with one number as all items of a Tensor."""
    if isinstance(feature, Tensor) and feature.shape and _is_scalar(feature, form):
        scalar = from_fields({"default": Tensor(feature.dtype)}, {"default": form})["default"]
        return np.full(feature.shape, scalar, feature.dtype)
    return from_fields({"default": feature}, {"default": form})["default"]


def _is_scalar(feature: Tensor, form: Any) -> bool:
    if isinstance(form, str):
        return len(from_base64(form)) == np.dtype(feature.dtype).itemsize
    return not isinstance(form, list)
