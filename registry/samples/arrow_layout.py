"""Samples as Arrow tables: their types, and arrays from the bytes of records.

Imports PyArrow, which is an extra. Values of fixed width keep the memory of their NumPy array, and
those of variable width are copied once, without a Python object for each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from registry.samples.codec import Codec
from registry.samples.features import (
    Bytes,
    ClassLabel,
    Feature,
    FixedFeature,
    Image,
    Ragged,
    Tensor,
    Text,
)
from registry.samples.fields import Fields

_FILE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
"""The struct in which Hugging Face datasets keep an image."""


@dataclass(frozen=True)
class ArrowLayout:
    """The columns of a table: ``texts``, such as keys, by name, and then those of the features.

    The value of a text is whether it may be null. With ``huggingface``, the types and the metadata
    are those of the library ``datasets``: a class is its index, and an image a struct ``{bytes,
    path}``. Otherwise every reader supports the types: a class is its name if it has one, and its
    index otherwise, and an image is binary. Arrays are nested lists of fixed size. Without
    ``float16``, values of this type become float32.
    """

    features: Mapping[str, Feature]
    texts: Mapping[str, bool] = field(default_factory=dict)
    huggingface: bool = False
    float16: bool = True

    @cached_property
    def schema(self) -> Any:
        """The schema of the table."""
        fields = [pa.field(name, pa.string(), nullable=n) for name, n in self.texts.items()]
        fields += [
            pa.field(name, self._type(feature), nullable=False)
            for name, feature in self.features.items()
        ]
        if not self.huggingface:
            return pa.schema(fields)
        kinds = dict.fromkeys(self.texts, _value("string"))
        kinds |= {name: _kind(feature) for name, feature in self.features.items()}
        metadata = {"huggingface": json.dumps({"info": {"features": kinds}})}
        # Nullable: ``datasets`` ignores its metadata for a column that is not.
        return pa.schema([each.with_nullable(True) for each in fields], metadata=metadata)

    def batch(self, codec: Codec, fields: Fields, *texts: Sequence[str | None]) -> Any:
        """Return records as a `pyarrow.RecordBatch`; ``texts`` are the columns of texts.

        The features of the table are all or some of the codec's.
        """
        columns = [pa.array(column, pa.string()) for column in texts]
        variable = [*codec.features.variable]
        for name, feature in self.features.items():
            if isinstance(feature, FixedFeature):
                columns.append(
                    self._fixed(feature, codec.layout.fixed_column(name, fields.headers))
                )
            else:
                columns.append(self._variable(feature, _values(fields, variable.index(name))))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _type(self, feature: Feature) -> Any:
        if isinstance(feature, Tensor):
            array_type = pa.from_numpy_dtype(self._dtype(feature))
            # From the innermost axis outwards.
            for side in reversed(feature.shape):
                array_type = pa.list_(array_type, side)
            return array_type
        if isinstance(feature, Ragged):
            return pa.list_(self._type(Tensor(feature.dtype, feature.shape)))
        if isinstance(feature, ClassLabel):
            return self._class_type(feature)
        if isinstance(feature, Text):
            return pa.string()
        return _FILE if self.huggingface and isinstance(feature, Image) else pa.binary()

    def _class_type(self, label: ClassLabel) -> Any:
        if self.huggingface:
            return pa.int64()
        return pa.int32() if label.names is None else pa.dictionary(pa.int32(), pa.string())

    def _dtype(self, feature: Tensor | Ragged) -> np.dtype[Any]:
        name = feature.dtype
        return np.dtype("float32" if name == "float16" and not self.float16 else name)

    def _fixed(self, feature: FixedFeature, values: Any) -> Any:
        if isinstance(feature, Tensor):
            return _nested(values, feature.shape, self._dtype(feature))
        if self.huggingface:
            return pa.array(values.astype(np.int64))
        indexes = pa.array(np.ascontiguousarray(values, np.int32))
        if feature.names is None:
            return indexes
        return pa.DictionaryArray.from_arrays(indexes, pa.array(feature.names, pa.string()))

    def _variable(self, feature: Feature, values: Any) -> Any:
        if isinstance(feature, Text):
            return values.cast(pa.string())
        if isinstance(feature, Ragged):
            return _lists(feature, values, self._dtype(feature))
        if isinstance(feature, Image) and self.huggingface:
            return pa.StructArray.from_arrays(
                [values, pa.nulls(len(values), pa.string())], type=_FILE
            )
        return values


def _values(fields: Fields, index: int) -> Any:
    """Return the bytes of the ``index``-th value of variable width of each record, as binary."""
    count = len(fields)
    starts, lengths = fields.starts[:, index], fields.lengths[:, index]
    # Arrow has no array of parts of a buffer with gaps between them. With the gaps as elements of
    # their own it is one, from which Arrow copies every second element. 32 bits are enough: records
    # that are read together have few MiB, or are one record.
    offsets = np.empty(2 * count, np.int32)
    offsets[::2], offsets[1::2] = starts, starts + lengths
    if not count:
        return pa.array([], pa.binary())
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(fields.data)]
    parts = pa.Array.from_buffers(pa.binary(), 2 * count - 1, buffers)
    return parts.take(pa.array(np.arange(0, 2 * count, 2)))


def _nested(values: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Return a NumPy array of shape ``(count, *shape)`` as lists of fixed size.

    It is not copied, unless it has another dtype or another byte order than this machine.
    """
    array = pa.array(np.ascontiguousarray(values, dtype).reshape(-1))
    # From the innermost axis outwards: each step wraps the values in lists of one axis.
    for side in reversed(shape):
        array = pa.FixedSizeListArray.from_arrays(array, side)
    return array


def _lists(feature: Ragged, values: Any, dtype: np.dtype[Any]) -> Any:
    """Return the values of a `Ragged`, which are binary, as lists of items."""
    _, offsets, data = values.buffers()
    stored = np.dtype(feature.dtype).newbyteorder("<")
    ends = np.frombuffer(offsets, np.int32, len(values) + 1)
    items = np.frombuffer(data or b"", stored, ends[-1] // stored.itemsize)
    ends = ends // (stored.itemsize * math.prod(feature.shape))
    return pa.ListArray.from_arrays(pa.array(ends), _nested(items, feature.shape, dtype))


def _kind(feature: Feature) -> Any:
    """Return the JSON form of a feature in ``datasets``."""
    if isinstance(feature, Ragged):
        return _list(_kind(Tensor(feature.dtype, feature.shape)), -1)
    if isinstance(feature, Tensor):
        kind = _value(feature.dtype)
        # From the innermost axis outwards.
        for side in reversed(feature.shape):
            kind = _list(kind, side)
        return kind
    if isinstance(feature, ClassLabel) and feature.names is not None:
        return {"names": [*feature.names], "_type": "ClassLabel"}
    if isinstance(feature, Image):
        return {"_type": "Image"}
    return _value({Text: "string", Bytes: "binary", ClassLabel: "int64"}[type(feature)])


def _value(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "_type": "Value"}


def _list(kind: dict[str, Any], length: int) -> dict[str, Any]:
    # Newer versions call it List, and read this name, too.
    return {"feature": kind, "length": length, "_type": "Sequence"}
