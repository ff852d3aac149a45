"""Reading of TFRecord files of ``tf.train.Example``, without TensorFlow.

A record is its length (8 bytes, little-endian), the checksum of these bytes, the data, and the
checksum of the data.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import google_crc32c
import numpy as np
from google.protobuf.message import DecodeError

from registry.errors import ImportFileError
from registry.io.files.tf_example import Example
from registry.io.row import Mapped, Row, as_key, columns
from registry.samples.features import (
    LARGEST_RECORD,
    Bytes,
    ClassLabel,
    Features,
    Image,
    Ragged,
    Tensor,
    Text,
)
from registry.samples.features import Feature as Kind

LENGTH = struct.Struct("<Q")
CRC = struct.Struct("<I")
HEAD = LENGTH.size + CRC.size


def read(path: Path, features: Features, key: str | None, mapped: Mapped) -> Iterator[Row]:
    """Yield the file's samples; ``key`` names the examples' feature that holds their keys.

    A list of numbers fills an array in C order. A list of bytes holds the little-endian values of
    an array, or text, the name of a class, bytes or an image. Raises `ImportFileError` with the
    number of the record.
    """
    for number, raw in enumerate(records(path), start=1):
        named = name = None
        try:
            example = Example.FromString(raw).features.feature
            # Before any lookup: a protobuf map inserts an empty value for a missing name instead of
            # raising.
            where = columns(example, features, key, mapped)
            if key is not None:
                named = as_key(_text(_values(example[key])), key)
            values = {}
            for name, column in where.items():
                values[name] = _value(features[name], _values(example[column]))
        except (DecodeError, ValueError) as error:
            said = "not a tf.train.Example" if isinstance(error, DecodeError) else str(error)
            raise ImportFileError(
                said, file=str(path), line=number, key=named, feature=name, unit="record"
            ) from None
        yield Row(number, values, named, raw)


def records(path: Path) -> Iterator[bytes]:
    """Yield the data of the file's records; raises `ImportFileError` for a wrong checksum."""
    number, left = 0, path.stat().st_size
    with path.open("rb") as file:
        while left:
            number += 1
            try:
                data = _record(file, left)
            except ValueError as error:
                raise ImportFileError(
                    str(error), file=str(path), line=number, unit="record"
                ) from None
            yield data
            left -= HEAD + len(data) + CRC.size


def _record(file: IO[bytes], left: int) -> bytes:
    """Read a record from a file of which ``left`` bytes remain; raises `ValueError`."""
    head = file.read(HEAD)
    if len(head) < HEAD:
        raise ValueError("the file ends within the record's head")
    if head[LENGTH.size :] != checksum(head[: LENGTH.size]):
        raise ValueError("the checksum of its length is wrong: a damaged file, or no TFRecord")
    length: int = LENGTH.unpack(head[: LENGTH.size])[0]
    # Checked before the data is read: `read` would allocate whatever the length claims.
    if (missing := HEAD + length + CRC.size - left) > 0:
        raise ValueError(f"the file ends {missing:,} bytes before the record does")
    if length > LARGEST_RECORD:
        raise ValueError(f"a record of {length:,} bytes; at most {LARGEST_RECORD:,} are taken")
    data = file.read(length)
    if file.read(CRC.size) != checksum(data):
        raise ValueError("the record's checksum is not that of its bytes")
    return data


def checksum(data: bytes) -> bytes:
    """Return the masked CRC32C of TFRecord: 4 bytes, little-endian."""
    # The format rotates the CRC and adds a constant, because a CRC over data that contains CRCs is
    # weak. Python's integers do not wrap, so the result is cut to 32 bits.
    crc = google_crc32c.value(data)
    return CRC.pack(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _values(feature: Any) -> Any:
    """Return the values of an example's feature: a list of bytes, or a float32 or int64 array."""
    kind = feature.WhichOneof("kind")
    if kind is None:
        raise ValueError("it is empty")
    listed = getattr(feature, kind).value
    if kind == "bytes_list":
        return list(listed)
    return np.array(listed, np.float32 if kind == "float_list" else np.int64)


def _value(feature: Kind, found: Any) -> Any:
    if isinstance(feature, Tensor | Ragged):
        return _array(feature, found)
    if len(found) != 1:
        raise ValueError(f"{len(found)} values, where the feature takes one")
    if isinstance(feature, Text) or (isinstance(feature, ClassLabel) and isinstance(found, list)):
        return _text(found)
    if isinstance(feature, Bytes | Image) and not isinstance(found, list):
        raise ValueError("numbers, where the feature takes bytes")  # noqa: TRY004
    return found[0]


def _text(found: Any) -> Any:
    try:
        return found[0].decode() if isinstance(found, list) and len(found) == 1 else found[0]
    except UnicodeDecodeError:
        raise ValueError("the bytes are not UTF-8") from None
    except IndexError:
        raise ValueError("it is empty") from None


def _array(feature: Tensor | Ragged, found: Any) -> np.ndarray[Any, Any]:
    dtype = np.dtype(feature.dtype)
    if isinstance(found, list):
        data = b"".join(found)
        # NumPy would take any byte for a bool, also one that is neither 0 nor 1.
        if len(data) % dtype.itemsize or (dtype.kind == "b" and data.strip(b"\0\1")):
            raise ValueError(f"{len(data)} bytes are no {dtype.name} values")
        found = np.frombuffer(data, dtype.newbyteorder("<"))
    # Examples have no bools, and the codec does not take integers for them.
    elif dtype.kind == "b" and found.dtype.kind == "i" and np.isin(found, (0, 1)).all():
        found = found.astype(bool)
    shape = feature.shape if isinstance(feature, Tensor) else found.shape
    if found.size != math.prod(shape):
        raise ValueError(f"{found.size} values do not fill the shape {shape}")
    reshaped: np.ndarray[Any, Any] = found.reshape(shape)
    return reshaped
