"""The layout of a record: where the bytes of each feature's value are.

A record consists of a header and a body, both without padding. The header is a little-endian
struct: the fixed-width fields in the order of the features, then a uint32 byte length for each
variable-width field, in the same order. The body is the bytes of the variable-width fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.samples.features import ClassLabel, Features, FixedFeature

RowField = tuple[str, npt.NDArray[Any], np.dtype[Any], tuple[int, ...]]
"""The name of a feature, its values in rows as voids, their dtype, and the shape of each."""


class RecordLayout:
    """Where the values of the given features are in a record. Thread-safe."""

    def __init__(self, features: Features) -> None:
        self.features: Features = features
        fields = [(field_name(i), *storage(f)) for i, f in enumerate(features.fixed.values())]
        lengths = [(f"l{i}", "<u4", ()) for i in range(len(features.variable))]
        self.header: np.dtype[np.void] = np.dtype(fields + lengths)
        # Skips the fixed-width fields: unpacking reads the lengths alone.
        before = self.header.itemsize - 4 * len(lengths)
        self.lengths: Callable[[bytes | memoryview], tuple[int, ...]] = Struct(
            f"<{before}x{len(lengths)}I"
        ).unpack_from
        """Returns how many bytes each variable-width value of a record has."""

    @cached_property
    def fixed_names(self) -> tuple[str, ...]:
        return tuple(self.features.fixed)

    @cached_property
    def _fixed_fields(self) -> list[tuple[str, np.dtype[Any], tuple[int, ...], int]]:
        """The name, dtype, shape of a value and offset of each field of fixed width."""
        fields: Mapping[str, Any] = self.header.fields or {}
        names = map(field_name, range(len(self.fixed_names)))
        named = [(name, *fields[name][:2]) for name in names]
        return [(name, field.base, field.shape, offset) for name, field, offset in named]

    @cached_property
    def _voids(self) -> dict[int, np.dtype[Any]]:
        """The fields as void fields of rows, by the rows' width: made once, as it takes long."""
        return {}

    def fixed_columns(self, rows: npt.NDArray[np.uint8]) -> list[npt.NDArray[Any]]:
        """Extract the columns of the fixed-width features from rows that begin with them."""
        columns = []
        for _, field, base, shape in self.fields_of_rows(np.ascontiguousarray(rows)):
            column = np.ascontiguousarray(field).view(base)
            # Copied only if needed: a field's buffer need not be aligned for its dtype.
            if not column.flags.aligned:
                column = np.require(column, requirements="A")
            columns.append(column.reshape(-1, *shape) if shape else column)
        return columns

    def fields_of_rows(self, rows: npt.NDArray[np.uint8]) -> list[RowField]:
        """Return the fields of fixed width of contiguous rows that begin with records."""
        width = rows.shape[1]
        layout = self._voids.get(width)
        if layout is None:
            layout = self._voids[width] = self._void_fields(width)
        header = rows.view(layout)[:, 0]
        names = zip(self.fixed_names, self._fixed_fields, strict=True)
        return [(name, header[key], base, shape) for name, (key, base, shape, _) in names]

    def _void_fields(self, width: int) -> np.dtype[Any]:
        # NumPy copies these several times as fast as typed fields or single bytes.
        fields = self._fixed_fields
        return np.dtype(
            {
                "names": [name for name, *_ in fields],
                "formats": [f"V{base.itemsize * math.prod(shape)}" for _, base, shape, _ in fields],
                "offsets": [offset for *_, offset in fields],
                "itemsize": width,
            }
        )

    def fixed_field(self, name: str) -> tuple[np.dtype[Any], int]:
        """Return the dtype of a fixed-width feature in a record, and the offset of its bytes."""
        fields: Mapping[str, Any] = self.header.fields or {}
        dtype, offset = fields[field_name(list(self.features.fixed).index(name))][:2]
        return dtype, offset

    def fixed_column(self, name: str, rows: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """Extract the column of one fixed-width feature from uint8 rows that begin with headers."""
        field, offset = self.fixed_field(name)
        layout = np.dtype(
            {
                "names": ["value"],
                "formats": [f"V{field.itemsize}"],
                "offsets": [offset],
                "itemsize": rows.shape[1],
            }
        )
        values = np.ascontiguousarray(np.ascontiguousarray(rows).view(layout)["value"][:, 0])
        column: npt.NDArray[Any] = np.require(values.view(field.base), requirements="A")
        return column.reshape(-1, *field.shape)

    def variable_bytes(self, name: str, records: Sequence[bytes | memoryview]) -> list[bytes]:
        """Return the bytes of one variable-width feature in each record."""
        index, size = list(self.features.variable).index(name), self.header.itemsize
        values = []
        for record in records:
            lengths = self.lengths(record)
            start = size + sum(lengths[:index])
            values.append(bytes(record[start : start + lengths[index]]))
        return values


def copied_columns(fields: Sequence[RowField]) -> dict[str, npt.NDArray[Any]]:
    """Return columns of fields of rows, as copies of them."""
    columns = {}
    for name, field, base, shape in fields:
        column = field.copy().view(base)
        columns[name] = column.reshape(-1, *shape) if shape else column
    return columns


def field_name(index: int) -> str:
    return f"f{index}"


def storage(feature: FixedFeature) -> tuple[Any, tuple[int, ...]]:
    """Return the dtype and the shape in which a feature is stored."""
    if isinstance(feature, ClassLabel):
        return "<i4", ()
    return np.dtype(feature.dtype).newbyteorder("<"), feature.shape
