"""The JSON form of a sample, for tools in any language: parsed strictly, written without loss.

============================  ==========================================================
feature                       JSON
============================  ==========================================================
`Tensor`, `Ragged`            nested lists, or base64 of the little-endian values in C order
`ClassLabel`                  the class's name or index
`Text`                        text
`Bytes`, `Image`              base64, or a ``data:`` URI
============================  ==========================================================
"""

from __future__ import annotations

import binascii
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

import numpy as np

from registry.errors import InvalidSampleError
from registry.samples.features import Bytes, ClassLabel, Feature, Image, Ragged, Tensor

_SHOWN = 40
_SPACE = re.compile(r"[ \t\n\r]*")


def parse_json(text: str) -> Any:
    """Parse JSON strictly; raises `ValueError` with the reason.

    Unlike `json.loads`, it rejects NaN, Infinity, duplicate names, and numbers out of range.
    """
    with _reasons():
        return _decoder.decode(text)


def parse_at(text: str, start: int) -> tuple[Any, int]:
    """Parse the value that begins at an index; return it and the index after it.

    It is as strict as `parse_json`. Raises `json.JSONDecodeError`, with the index, for text that is
    not JSON; `ValueError` for JSON that is rejected; and `RecursionError`.
    """
    return _decoder.raw_decode(text, start)


def parse_items(text: str) -> Iterator[Any]:
    """Parse a JSON array item by item, as `parse_json` does, or a single document that is no array.

    The text after an item is not parsed yet when the item is yielded, so that a caller that rejects
    it need not pay for the rest. Raises `ValueError` with the reason.
    """
    start = _after_space(text, 0)
    if text[start : start + 1] != "[":
        yield parse_json(text)
        return
    end = _after_space(text, start + 1)
    delimiter = "]" if text[end : end + 1] == "]" else ","
    while delimiter == ",":
        with _reasons():
            item, end = parse_at(text, end)
        yield item
        end = _after_space(text, end)
        delimiter = text[end : end + 1]
        if delimiter == ",":
            end = _after_space(text, end + 1)
    with _reasons():
        if delimiter != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, end)
        if _after_space(text, end + 1) < len(text):
            raise json.JSONDecodeError("Extra data", text, end + 1)


@contextmanager
def _reasons() -> Iterator[None]:
    try:
        yield
    except json.JSONDecodeError as error:
        reason = error.msg.removesuffix(" at")
        raise ValueError(f"not JSON: {reason} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _after_space(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    assert space is not None
    return space.end()


def from_fields(features: Mapping[str, Feature], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a sample's JSON fields to values that its features accept.

    Values that are not JSON (bytes, arrays) are returned unchanged, and so are unknown names, which
    `Codec.encode` rejects. Raises `InvalidSampleError` for text that the feature cannot have.
    """
    values = dict(fields)
    for name, value in fields.items():
        if not isinstance(value, str) or name not in features:
            continue
        try:
            values[name] = _from_text(features[name], value)
        except ValueError as error:
            raise InvalidSampleError(str(error), feature=name) from None
    return values


def to_fields(features: Mapping[str, Feature], sample: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a sample's values to JSON fields; `from_fields` restores the same values."""
    return {name: _to_json(features[name], sample[name]) for name in features}


def from_base64(text: object) -> bytes:
    """Decode base64 text or a ``data:`` URI; raises `ValueError`."""
    if not isinstance(text, str):
        raise ValueError(f"bytes are written as base64 text, not {type(text).__name__}")  # noqa: TRY004
    if text[:5].lower() == "data:":
        head, comma, data = text.partition(",")
        if not comma:
            raise ValueError(f"{excerpt(text)} is a data: URI without a comma")
        if not head.lower().endswith(";base64"):
            return unquote_to_bytes(data)
        text = unquote_to_bytes(data).decode("latin-1")
    try:
        # Unlike base64.b64decode, this makes no copy of the text.
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise ValueError(f"{excerpt(text)} is not base64 ({error})") from None


def excerpt(text: str) -> str:
    """Quote a value for a message, truncated to 40 characters."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}…"


def describe(value: object) -> str:
    """Return a JSON value for a message: a text as its excerpt, another value by its type."""
    return excerpt(value) if isinstance(value, str) else type_name(value)


def type_name(value: object) -> str:
    """Return the type of a JSON value for a message, without its content, which may be secret."""
    names = {type(None): "null", int: "an int"}
    return names.get(type(value)) or f"a {type(value).__name__}"


def _from_text(feature: Feature, text: str) -> Any:
    if isinstance(feature, Bytes | Image):
        return from_base64(text)
    if not isinstance(feature, Tensor | Ragged):
        return text
    dtype = np.dtype(feature.dtype).newbyteorder("<")
    data, size = from_base64(text), math.prod(feature.shape)
    if isinstance(feature, Tensor):
        if len(data) != size * dtype.itemsize:
            raise ValueError(f"{len(data)} bytes of base64 are not {size} of {dtype.name} values")
    elif len(data) % (size * dtype.itemsize):
        items = f"items of {size} {dtype.name}" if feature.shape else dtype.name
        raise ValueError(f"{len(data)} bytes of base64 are not whole {items} values")
    # NumPy would accept any byte as a bool, and write it back unchanged.
    if dtype.kind == "b" and data.strip(b"\0\1"):
        raise ValueError("base64 of bool values may hold the bytes 0 and 1 only")
    shape = feature.shape if isinstance(feature, Tensor) else (-1, *feature.shape)
    return np.frombuffer(data, dtype).reshape(shape)


def _to_json(feature: Feature, value: Any) -> Any:
    if isinstance(feature, Bytes | Image):
        return binascii.b2a_base64(value, newline=False).decode()
    if isinstance(feature, ClassLabel):
        return feature.names[value] if feature.names is not None else int(value)
    if not isinstance(feature, Tensor | Ragged):
        return value
    array = np.asarray(value)
    # JSON has no NaN or infinity.
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        return binascii.b2a_base64(little.tobytes(), newline=False).decode()
    return array.tolist()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # json.loads would keep the last of two equal names, and so lose a value silently.
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"{excerpt(counts.most_common(1)[0][0])} is there twice")
    return values


def _finite(text: str) -> float:
    # Python reads 1e999 as infinity.
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{excerpt(text)} is too large for a float")
    return number


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _whole(text: str) -> int:
    # No feature accepts more than 64 bits, and int() raises an error about its own limit for
    # thousands of digits.
    if len(text) > 20:
        raise ValueError(f"{excerpt(text)} is too large for a whole number")
    return int(text)


_decoder = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_int=_whole, parse_constant=_constant
)
