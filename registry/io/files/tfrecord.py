"""TFRecord files of ``tf.train.Example``, read and written without TensorFlow.

A record is its length (8 bytes, little-endian), the checksum of these bytes, the data, and the
checksum of the data.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from registry.catalog.live_samples import Samples
from registry.errors import ImportFileError
from registry.io.files.tf_example_pb2 import Example
from registry.io.row import FieldMapping, FileRow, as_group, as_key, columns_of
from registry.samples.features import (
    LARGEST_RECORD,
    Bytes,
    ClassLabel,
    Feature,
    Features,
    Image,
    Ragged,
    Tensor,
    Text,
)

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_HEAD_BYTES = _LENGTH.size + _CRC.size


def read(
    path: Path,
    features: Features,
    key: str | None,
    mapping: FieldMapping,
    group: str | None = None,
) -> Iterator[FileRow]:
    """Yield the file's samples.

    ``key`` and ``group`` name the examples' features that hold their keys and groups. An empty list
    is no group. A list of numbers fills an array in C order. A list of bytes holds the
    little-endian values of an array, or text, the name of a class, bytes or an image. Raises
    `ImportFileError` with the number of the record.
    """
    for number, raw in enumerate(records(path), start=1):
        row_key = row_group = name = None
        try:
            example = Example.FromString(raw).features.feature
            # Before any lookup: a protobuf map inserts an empty value for a missing name instead of
            # raising.
            columns = columns_of(example, features, key, mapping, group)
            if key is not None:
                row_key = as_key(_text(_values(example[key])), key)
            if group is not None and len(listed := _values(example[group])):
                row_group = as_group(_text(listed), group)
            values = {}
            for name, column in columns.items():
                values[name] = _value(features[name], _values(example[column]))
        except (DecodeError, ValueError) as error:
            is_decoding = isinstance(error, DecodeError)
            reason = "not a tf.train.Example" if is_decoding else str(error)
            raise ImportFileError(
                reason, file=str(path), line=number, key=row_key, feature=name, unit="record"
            ) from None
        # Without a key, one is made of these bytes: an example that is serialized again with its
        # features in another order is another sample.
        yield FileRow(number, values, row_key, raw, group=row_group)


@contextmanager
def writer(
    path: Path, features: Features, key: str, group: str | None = None
) -> Iterator[Callable[[Samples], None]]:
    """Write a record per sample: the key, the group if it has a name, then a list per feature.

    Whole numbers and bools are int64 lists, and floats of up to 32 bits are float lists, in C
    order. Arrays that neither represents exactly (uint64, float64, some NaNs) are one string of
    the little-endian values, which ``tf.io.decode_raw`` reads (uint64 as int64). Classes are names
    or, without names, indexes.
    """
    with path.open("xb") as file:

        def write(samples: Samples) -> None:
            for row, row_key in enumerate(samples.keys):
                example = Example()
                example.features.feature[key].bytes_list.value.append(row_key.encode())
                if group is not None:
                    row_group = samples.groups[row]
                    # An empty list: a feature without one could not be read.
                    example.features.feature[group].bytes_list.SetInParent()
                    named = [] if row_group is None else [row_group.encode()]
                    example.features.feature[group].bytes_list.value.extend(named)
                for name, column in samples.columns.items():
                    _put(example.features.feature[name], features[name], column[row])
                # Otherwise the order of the features may differ from record to record.
                data = example.SerializeToString(deterministic=True)
                head = _LENGTH.pack(len(data))
                file.write(head + checksum(head) + data + checksum(data))

        yield write


def records(path: Path) -> Iterator[bytes]:
    """Yield the data of the file's records; raises `ImportFileError` for a wrong checksum."""
    # The file's size at the beginning: records that are appended meanwhile are not read.
    number, bytes_left = 0, path.stat().st_size
    with path.open("rb") as file:
        while bytes_left:
            number += 1
            try:
                data = _record(file, bytes_left)
            except ValueError as error:
                raise ImportFileError(
                    str(error), file=str(path), line=number, unit="record"
                ) from None
            yield data
            bytes_left -= _HEAD_BYTES + len(data) + _CRC.size


def _record(file: IO[bytes], bytes_left: int) -> bytes:
    """Read a record from a file of which ``bytes_left`` remain; raises `ValueError`."""
    head = file.read(_HEAD_BYTES)
    if len(head) < _HEAD_BYTES:
        raise ValueError("the file ends within the record's head")
    # Checked before the length is used: a damaged length would be that of other records, too.
    if head[_LENGTH.size :] != checksum(head[: _LENGTH.size]):
        raise ValueError("the checksum of its length is wrong: a damaged file, or no TFRecord")
    length: int = _LENGTH.unpack(head[: _LENGTH.size])[0]
    # Checked before the data is read: `read` would allocate whatever the length claims.
    if (missing := _HEAD_BYTES + length + _CRC.size - bytes_left) > 0:
        raise ValueError(f"the file ends {missing:,} bytes before the record does")
    if length > LARGEST_RECORD:
        raise ValueError(f"a record of {length:,} bytes; at most {LARGEST_RECORD:,} are taken")
    data = file.read(length)
    # Protobuf would parse many damaged records without an error, with other values.
    if file.read(_CRC.size) != checksum(data):
        raise ValueError("the record's checksum is not that of its bytes")
    return data


def checksum(data: bytes) -> bytes:
    """Return the masked CRC32C of TFRecord: 4 bytes, little-endian."""
    # The format rotates the CRC and adds a constant, because a CRC over data that contains CRCs is
    # weak. Python's integers do not wrap, so the result is cut to 32 bits.
    crc = google_crc32c.value(data)
    return _CRC.pack(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _values(feature: Any) -> Any:
    """Return the values of an example's feature: a list of bytes, or a float32 or int64 array."""
    kind = feature.WhichOneof("kind")
    if kind is None:
        raise ValueError("it is empty")
    values = getattr(feature, kind).value
    if kind == "bytes_list":
        return list(values)
    return np.array(values, np.float32 if kind == "float_list" else np.int64)


def _value(feature: Feature, values: Any) -> Any:
    if isinstance(feature, Tensor | Ragged):
        return _array(feature, values)
    if len(values) != 1:
        raise ValueError(f"{len(values)} values, where the feature takes one")
    if isinstance(feature, Text) or (isinstance(feature, ClassLabel) and isinstance(values, list)):
        return _text(values)
    if isinstance(feature, Bytes | Image) and not isinstance(values, list):
        raise ValueError("numbers, where the feature takes bytes")  # noqa: TRY004
    return values[0]


def _text(values: Any) -> Any:
    try:
        only = isinstance(values, list) and len(values) == 1
        return values[0].decode() if only else values[0]
    except UnicodeDecodeError:
        raise ValueError("the bytes are not UTF-8") from None
    except IndexError:
        raise ValueError("it is empty") from None


def _array(feature: Tensor | Ragged, values: Any) -> np.ndarray[Any, Any]:
    dtype = np.dtype(feature.dtype)
    if isinstance(values, list):
        data = b"".join(values)
        # NumPy would take any byte for a bool, also one that is neither 0 nor 1.
        if len(data) % dtype.itemsize or (dtype.kind == "b" and data.strip(b"\0\1")):
            raise ValueError(f"{len(data)} bytes are no {dtype.name} values")
        array = np.frombuffer(data, dtype.newbyteorder("<"))
    else:
        array = values
        # Examples have no bools, and the codec does not take integers for them.
        if dtype.kind == "b" and array.dtype.kind == "i" and np.isin(array, (0, 1)).all():
            array = array.astype(bool)
    size, shape = math.prod(feature.shape), feature.shape
    if isinstance(feature, Tensor):
        if array.size != size:
            raise ValueError(f"{array.size} values do not fill the shape {shape}")
    elif array.size % size:
        raise ValueError(f"{array.size} values do not fill items of the shape {shape}")
    else:
        shape = (-1, *shape)
    reshaped: np.ndarray[Any, Any] = array.reshape(shape)
    return reshaped


def _put(target: Any, feature: Feature, value: Any) -> None:
    if isinstance(feature, Tensor | Ragged):
        _put_array(target, np.asarray(value).reshape(-1))
    elif isinstance(feature, ClassLabel) and feature.names is None:
        target.int64_list.value.append(int(value))
    else:
        text = feature.names[value] if isinstance(feature, ClassLabel) else value  # type: ignore[index]
        target.bytes_list.value.append(text.encode() if isinstance(text, str) else text)


def _put_array(target: Any, array: npt.NDArray[Any]) -> None:
    if array.dtype.kind in "bi" or (array.dtype.kind == "u" and array.dtype.itemsize < 8):
        # An empty list would leave the kind unset, and the reader refuses a feature without one.
        target.int64_list.SetInParent()
        target.int64_list.value.extend(array.astype(np.int64).tolist())
    elif array.dtype.kind == "f" and array.dtype.itemsize < 8 and _survives(array):
        target.float_list.SetInParent()
        target.float_list.value.extend(array.tolist())
    else:
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        target.bytes_list.value.append(little.tobytes())


def _survives(array: npt.NDArray[Any]) -> bool:
    """Return whether the bits survive conversion to Python's floats; those of some NaNs do not."""
    if not np.isnan(array).any():
        return True
    converted = np.array(array.tolist(), np.float32).astype(array.dtype)
    return converted.tobytes() == array.tobytes()
