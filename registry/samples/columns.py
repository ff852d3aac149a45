"""Columns of pandas, polars and Arrow as columns that the codec accepts.

No library is imported for a value of another one: a value of pandas exists only where pandas has
been imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from registry.distribution import install_extra
from registry.samples.features import ClassLabel, Feature, Tensor
from registry.samples.unfit_value import NULL, UnfitValueError, unlike_column

FILE_MEMBERS = {"bytes", "path"}
"""The members of the struct in which Hugging Face datasets keep an image or another file."""


def is_from(value: object, library: str, *names: str) -> bool:
    """Return whether a value is of one of a library's classes, without importing the library."""
    module = sys.modules.get(library)
    kinds = tuple(kind for name in names if isinstance(kind := getattr(module, name, None), type))
    return isinstance(value, kinds)


@dataclass(frozen=True)
class NamedClasses:
    """An Arrow array of class indexes, and the names that they stand for in their table."""

    indexes: Any
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.indexes)

    def slice(self, start: int, length: int) -> NamedClasses:
        return NamedClasses(self.indexes.slice(start, length), self.names)

    def values(self) -> list[str]:
        """Return the name of each; raises `UnfitValueError` for a null or an unknown index."""
        indexes = [int(index) for index in _of_arrow(self.indexes)]
        for row, index in enumerate(indexes):
            if not 0 <= index < len(self.names):
                raise UnfitValueError(
                    f"class index {index} is not in [0, {len(self.names)}), which the table has "
                    "names for",
                    row,
                )
        return [self.names[index] for index in indexes]


def plain_column(feature: Feature, column: Any) -> Any:
    """Return a column of pandas, polars or Arrow as an array or a list; others unchanged.

    Raises `UnfitValueError` for nulls and for types that no feature holds.
    """
    if isinstance(column, np.ndarray | list | tuple):
        return column
    if isinstance(column, NamedClasses):
        return column.values()
    if is_from(column, "pandas", "Series", "Index"):
        return _of_pandas(feature, column)
    if is_from(column, "pyarrow", "Array", "ChunkedArray") or hasattr(column, "__arrow_c_stream__"):
        return _of_arrow(column)
    return column


def _of_arrow(column: Any) -> Any:
    try:
        import pyarrow as pa  # noqa: PLC0415  # an extra

        from registry.samples.arrow import checked_values  # noqa: PLC0415
    except ImportError:
        raise UnfitValueError(
            f"a {type(column).__name__} is read with PyArrow: {install_extra('parquet')}"
        ) from None
    if not isinstance(column, pa.Array | pa.ChunkedArray):
        column = pa.chunked_array(column)
    return checked_values(column)


def _of_pandas(feature: Feature, column: Any) -> Any:
    dtype = column.dtype
    # The dtypes of Arrow: their lists and structs have no equal in NumPy.
    if is_from(dtype, "pandas", "ArrowDtype"):
        return _of_arrow(column.array.__arrow_array__())
    if dtype.kind in "Mm" or type(dtype).__name__ == "PeriodDtype":
        raise UnfitValueError(unlike_column(dtype))
    # A float column may hold NaN as a value, but pandas also turns integers with nulls to floats.
    if dtype.kind != "f" or not isinstance(dtype, np.dtype) or takes_whole(feature):
        missing = np.asarray(column.isna())
        if missing.any():
            raise UnfitValueError(NULL, int(np.argmax(missing)))
    if isinstance(dtype, np.dtype) and dtype.kind != "O":
        return column.to_numpy()
    # Nullable integers, floats and bools, of which no value is null.
    if isinstance(numbers := getattr(dtype, "numpy_dtype", None), np.dtype) and numbers.kind != "O":
        return column.to_numpy(dtype=numbers)
    return _contents(column.tolist())


def _contents(values: list[Any]) -> list[Any]:
    """Return a column of Python objects, with the contents of the files of Hugging Face."""
    # pandas reads lists of lists, as of Parquet, as arrays of arrays.
    values = [_nested(value) if isinstance(value, np.ndarray) else value for value in values]
    # pandas reads their struct as a dictionary.
    if not all(isinstance(value, dict) and value.keys() == FILE_MEMBERS for value in values):
        return values
    return [content_of_file(row, value["bytes"], value["path"]) for row, value in enumerate(values)]


def _nested(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        return [_nested(each) for each in value]
    return value


def content_of_file(row: int, data: bytes | None, path: str | None) -> bytes | Path:
    """Return what Hugging Face datasets keep of a file: its bytes, or the path where it is.

    Raises `UnfitValueError` if they keep neither.
    """
    if data is None and path is None:
        raise UnfitValueError("the file has neither bytes nor a path", row)
    return Path(path) if data is None and path is not None else data or b""


def takes_whole(feature: Feature) -> bool:
    """Return whether the feature's values are whole numbers, which floats do not fit."""
    return isinstance(feature, ClassLabel) or (
        isinstance(feature, Tensor) and np.dtype(feature.dtype).kind != "f"
    )
