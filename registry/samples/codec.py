"""Encoding of samples to records, and decoding. The only module that knows the layout.

A record consists of a header and a body, both without padding. The header is a little-endian
struct: the fixed-width fields in the order of the features, then a uint32 byte length for each
variable-width field, in the same order. The body is the bytes of the variable-width fields. If no
feature is variable, a page of records becomes arrays by one ``np.frombuffer``.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from functools import cached_property
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.errors import InvalidSampleError
from registry.samples.columns import plain_column
from registry.samples.features import (
    LARGEST_RECORD,
    Bytes,
    ClassLabel,
    Feature,
    Features,
    FixedFeature,
    Image,
    Ragged,
    Text,
)
from registry.samples.unfit_value import UnfitValueError
from registry.samples.validation import pack_fixed, pack_variable

Column = npt.NDArray[Any]


class Codec:
    """Encodes samples of the given features to records and decodes them. Thread-safe.

    A feature with a value in ``defaults`` may be left out of a sample that is encoded.
    """

    def __init__(self, features: Features, defaults: Mapping[str, Any] | None = None) -> None:
        self.features = features
        self.defaults: Mapping[str, Any] = defaults or {}
        self._names = frozenset(features)
        self._required = self._names - self.defaults.keys()
        fields = [(_field(i), *_storage(f)) for i, f in enumerate(features.fixed.values())]
        lengths = [(f"l{i}", "<u4", ()) for i in range(len(features.variable))]
        self.header: np.dtype[np.void] = np.dtype(fields + lengths)
        self._whole = np.dtype(f"V{self.header.itemsize}")
        self.fixed_width: bool = not lengths
        # Skips the fixed-width fields: unpacking reads the lengths alone.
        before = self.header.itemsize - 4 * len(lengths)
        self._lengths = Struct(f"<{before}x{len(lengths)}I")

    # struct.Struct cannot be pickled.
    def __reduce__(self) -> tuple[type[Codec], tuple[Features, Mapping[str, Any]]]:
        return Codec, (self.features, self.defaults)

    def default_bytes(self, name: str) -> bytes:
        """Return the bytes of a feature's default, as a record has them."""
        return self._default_bytes[name]

    @cached_property
    def _default_bytes(self) -> dict[str, bytes]:
        return {name: _packed(self.features[name], value) for name, value in self.defaults.items()}

    def to_columns(
        self, rows: Sequence[Mapping[str, Any]], keys: Sequence[str] | None = None
    ) -> dict[str, list[Any]]:
        """Turn samples into columns; raises `InvalidSampleError` for missing or unknown features.

        A feature with a default may be missing; it is no column if no sample has it.
        """
        names, required = self._names, self._required
        for row, sample in enumerate(rows):
            # The first comparison is all that most samples need.
            if not isinstance(sample, Mapping) or (
                sample.keys() != names and not required <= sample.keys() <= names
            ):
                key = keys[row] if keys is not None else None
                raise InvalidSampleError(self._mismatch(sample), row=row, key=key)
        columns = {name: [sample[name] for sample in rows] for name in required}
        for name, default in self.defaults.items():
            if any(name in sample for sample in rows):
                columns[name] = [sample.get(name, default) for sample in rows]
        return columns

    def encode(
        self,
        columns: Mapping[str, Any],
        keys: Sequence[str] | None = None,
        stored: Container[str] = (),
    ) -> list[bytes]:
        """Pack columns (by feature, one value per sample) into one record per sample.

        ``stored`` names the features whose values come from an existing record. Their images are
        not checked: they may have been stored before a check existed. Raises `InvalidSampleError`
        with the row, the key (from ``keys``) and the feature of the first value that does not fit.
        """
        count = self._count(columns)
        header = np.zeros(count, self.header)
        parts: list[list[bytes]] = []
        fixed = 0
        for name, feature in self.features.items():
            try:
                if name not in columns:
                    fixed += self._fill(header, parts, name, fixed)
                    continue
                column = plain_column(feature, columns[name])
                if isinstance(feature, FixedFeature):
                    header[_field(fixed)] = pack_fixed(feature, column, count)
                    fixed += 1
                else:
                    old_image = name in stored and isinstance(feature, Image)
                    kind = Bytes() if old_image else feature
                    values = pack_variable(kind, column, count)
                    header[f"l{len(parts)}"] = [len(value) for value in values]
                    parts.append(values)
            except UnfitValueError as error:
                key = keys[error.row] if keys is not None and error.row is not None else None
                raise InvalidSampleError(
                    error.reason, row=error.row, key=key, feature=name
                ) from None
        # As void values: tolist() keeps all bytes, where type S would strip trailing zeros.
        headers: list[bytes] = header.view(self._whole).tolist()
        if self.fixed_width:
            return headers
        records = [b"".join(row) for row in zip(headers, *parts, strict=True)]
        _check_sizes(records, keys)
        return records

    def _fill(
        self, header: npt.NDArray[Any], parts: list[list[bytes]], name: str, fixed: int
    ) -> bool:
        """Store a feature's default in all records; return whether its width is fixed."""
        default = self.default_bytes(name)
        if name in self.features.variable:
            header[f"l{len(parts)}"] = len(default)
            parts.append([default] * len(header))
            return False
        field = self.header[_field(fixed)]
        header[_field(fixed)] = np.frombuffer(default, field.base).reshape(field.shape)
        return True

    def decode(self, data: bytes | memoryview, count: int) -> dict[str, Column]:
        """Unpack ``count`` concatenated records into one column per feature.

        A fixed-width column is a contiguous, aligned array of shape ``(count, *shape)`` and the
        feature's dtype, int32 for a `ClassLabel`. A variable-width column is an object array of
        shape ``(count,)`` that holds ``str``, ``bytes`` or, for `Ragged`, arrays ``(n, *shape)``.
        """
        if self.fixed_width:
            width = self.header.itemsize
            return self.decode_rows(np.frombuffer(data, np.uint8, count * width).reshape(-1, width))
        # Slices of a memoryview do not copy: each one here extends to the end of the data.
        view, records, start = memoryview(data), [], 0
        for _ in range(count):
            records.append(view[start:])  # its length is in its header
            start += self.header.itemsize + sum(self._lengths.unpack_from(records[-1]))
        return self.decode_records(records)

    def decode_records(self, records: Sequence[bytes | memoryview]) -> dict[str, Column]:
        """Unpack records of different lengths, as `decode` does; ignore bytes after a record."""
        size, names = self.header.itemsize, self.features.variable
        headers = np.frombuffer(b"".join([record[:size] for record in records]), np.uint8)
        cuts: list[list[bytes | memoryview]] = [[] for _ in names]
        for record in records:
            start = size
            for cut, length in zip(cuts, self._lengths.unpack_from(record), strict=True):
                cut.append(record[start : start + length])
                start += length
        return self.decode_values(headers.reshape(-1, size), cuts)

    def decode_values(
        self, headers: npt.NDArray[np.uint8], values: Sequence[list[bytes | memoryview]]
    ) -> dict[str, Column]:
        """Unpack uint8 rows that begin with headers, and the values of each variable feature."""
        fixed, variable = iter(self._fixed(headers)), iter(values)
        return {
            name: next(fixed)
            if isinstance(feature, FixedFeature)
            else _unpack(feature, next(variable))
            for name, feature in self.features.items()
        }

    def decode_rows(self, rows: npt.NDArray[np.uint8]) -> dict[str, Column]:
        """Unpack fixed-width records, the first bytes of uint8 rows of shape ``(count, width)``."""
        return dict(zip(self._fixed_names, self._fixed(rows), strict=True))

    @cached_property
    def _fixed_names(self) -> tuple[str, ...]:
        return tuple(self.features.fixed)

    @cached_property
    def _fixed_fields(self) -> list[tuple[str, np.dtype[Any], tuple[int, ...], int]]:
        """The name, dtype, shape of a value and offset of each field of fixed width."""
        fields: Mapping[str, Any] = self.header.fields or {}
        named = [(name, *fields[name][:2]) for name in map(_field, range(len(self._fixed_names)))]
        return [(name, field.base, field.shape, offset) for name, field, offset in named]

    @cached_property
    def _voids(self) -> dict[int, np.dtype[Any]]:
        """The fields as void fields of rows, by the rows' width: made once, as it takes long."""
        return {}

    def _fixed(self, rows: npt.NDArray[np.uint8]) -> list[Column]:
        """Extract the columns of the fixed-width features from rows that begin with them."""
        width = rows.shape[1]
        layout = self._voids.get(width)
        if layout is None:
            layout = self._voids[width] = self._void_fields(width)
        header = np.ascontiguousarray(rows).view(layout)[:, 0]
        columns = []
        for name, base, shape, _ in self._fixed_fields:
            column = np.ascontiguousarray(header[name]).view(base)
            # Copied only if needed: a field's buffer need not be aligned for its dtype.
            if not column.flags.aligned:
                column = np.require(column, requirements="A")
            columns.append(column.reshape(-1, *shape) if shape else column)
        return columns

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
        dtype, offset = fields[_field(list(self.features.fixed).index(name))][:2]
        return dtype, offset

    def fixed_column(self, name: str, rows: npt.NDArray[np.uint8]) -> Column:
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
        column: Column = np.require(values.view(field.base), requirements="A")
        return column.reshape(-1, *field.shape)

    def variable_bytes(self, name: str, records: Sequence[bytes | memoryview]) -> list[bytes]:
        """Return the bytes of one variable-width feature in each record."""
        index, size = list(self.features.variable).index(name), self.header.itemsize
        values = []
        for record in records:
            lengths = self._lengths.unpack_from(record)
            start = size + sum(lengths[:index])
            values.append(bytes(record[start : start + lengths[index]]))
        return values

    def decode_one(self, record: bytes) -> dict[str, Any]:
        """Unpack one record into a value per feature: array, NumPy scalar, ``str`` or ``bytes``."""
        return {name: column[0] for name, column in self.decode(record, 1).items()}

    def _count(self, columns: Mapping[str, Any]) -> int:
        if not self._required <= columns.keys() <= self._names:
            raise InvalidSampleError(self._mismatch(columns))
        counts = {}
        for name, column in columns.items():
            try:
                counts[name] = len(column)
            except TypeError:
                raise InvalidSampleError(
                    "a column needs a value per sample; put a single sample in a list: [{...}]",
                    feature=name,
                ) from None
        if len(set(counts.values())) > 1:
            raise InvalidSampleError(f"columns differ in length: {counts}")
        return next(iter(counts.values()))

    def _mismatch(self, sample: object) -> str:
        if not isinstance(sample, Mapping):
            return f"a sample is a mapping of feature names to values, not {type(sample).__name__}"
        features = self.features
        missing = [name for name in features if name not in sample and name not in self.defaults]
        extra = [str(name) for name in sample if name not in features]
        problems = [f"missing {', '.join(map(repr, missing))}"] if missing else []
        problems += [f"unknown {', '.join(map(repr, extra))}"] if extra else []
        return f"{' and '.join(problems)}; the features are {', '.join(map(repr, features))}"


def _check_sizes(records: Sequence[bytes], keys: Sequence[str] | None) -> None:
    for row, record in enumerate(records):
        if len(record) > LARGEST_RECORD:
            raise InvalidSampleError(
                f"the sample takes {len(record)} bytes; at most {LARGEST_RECORD} fit in a record",
                row=row,
                key=keys[row] if keys is not None else None,
            )


def _field(index: int) -> str:
    return f"f{index}"


def _packed(feature: Feature, value: Any) -> bytes:
    if isinstance(feature, FixedFeature):
        base, _ = _storage(feature)
        return pack_fixed(feature, [value], 1).astype(base, copy=False).tobytes()
    # A default was checked when its feature was added, so that its image is not checked again.
    return pack_variable(Bytes() if isinstance(feature, Image) else feature, [value], 1)[0]


def _storage(feature: FixedFeature) -> tuple[Any, tuple[int, ...]]:
    if isinstance(feature, ClassLabel):
        return "<i4", ()
    return np.dtype(feature.dtype).newbyteorder("<"), feature.shape


def _unpack(feature: object, values: Sequence[bytes | memoryview]) -> Column:
    # Filled in place: np.array would turn ragged values of equal length into a 2-D array.
    column = np.empty(len(values), object)
    if isinstance(feature, Text):
        column[:] = [str(value, "utf-8") for value in values]
    elif isinstance(feature, Ragged):
        dtype = np.dtype(feature.dtype).newbyteorder("<")
        for row, value in enumerate(values):
            # A copy: a view would keep all values in memory.
            column[row] = np.frombuffer(bytes(value), dtype).reshape(-1, *feature.shape)
    else:
        column[:] = [bytes(value) for value in values]
    return column
