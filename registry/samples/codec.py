"""Encoding of samples to records, and decoding.

If no feature is variable, a page of records becomes arrays by one ``np.frombuffer``.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.errors import InvalidSampleError
from registry.samples.columns import plain_column
from registry.samples.features import (
    LARGEST_RECORD,
    Bytes,
    Feature,
    Features,
    FixedFeature,
    Image,
    Ragged,
    Text,
)
from registry.samples.record_layout import RecordLayout, field_name, storage
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
        self.layout: RecordLayout = RecordLayout(features)
        self.header: np.dtype[np.void] = self.layout.header
        self._whole = np.dtype(f"V{self.header.itemsize}")
        self.fixed_width: bool = not features.variable

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
                    header[field_name(fixed)] = pack_fixed(feature, column, count)
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
        field = self.header[field_name(fixed)]
        header[field_name(fixed)] = np.frombuffer(default, field.base).reshape(field.shape)
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
            start += self.header.itemsize + sum(self.layout.lengths(records[-1]))
        return self.decode_records(records)

    def decode_records(self, records: Sequence[bytes | memoryview]) -> dict[str, Column]:
        """Unpack records of different lengths, as `decode` does; ignore bytes after a record."""
        size, names = self.header.itemsize, self.features.variable
        headers = np.frombuffer(b"".join([record[:size] for record in records]), np.uint8)
        cuts: list[list[bytes | memoryview]] = [[] for _ in names]
        for record in records:
            start = size
            for cut, length in zip(cuts, self.layout.lengths(record), strict=True):
                cut.append(record[start : start + length])
                start += length
        return self.decode_values(headers.reshape(-1, size), cuts)

    def decode_values(
        self, headers: npt.NDArray[np.uint8], values: Sequence[list[bytes | memoryview]]
    ) -> dict[str, Column]:
        """Unpack uint8 rows that begin with headers, and the values of each variable feature."""
        fixed, variable = iter(self.layout.fixed_columns(headers)), iter(values)
        return {
            name: next(fixed)
            if isinstance(feature, FixedFeature)
            else _unpack(feature, next(variable))
            for name, feature in self.features.items()
        }

    def decode_rows(self, rows: npt.NDArray[np.uint8]) -> dict[str, Column]:
        """Unpack fixed-width records, the first bytes of uint8 rows of shape ``(count, width)``."""
        return dict(zip(self.layout.fixed_names, self.layout.fixed_columns(rows), strict=True))

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


def _packed(feature: Feature, value: Any) -> bytes:
    if isinstance(feature, FixedFeature):
        base, _ = storage(feature)
        return pack_fixed(feature, [value], 1).astype(base, copy=False).tobytes()
    # A default was checked when its feature was added, so that its image is not checked again.
    return pack_variable(Bytes() if isinstance(feature, Image) else feature, [value], 1)[0]


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
