"""Arrow arrays as columns that the codec accepts. Imports PyArrow, which is an extra."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from registry.samples.columns import FILE_MEMBERS, content_of_file
from registry.samples.unfit_value import NULL, UnfitValueError, unlike_column


def values_of(column: Any) -> Sequence[Any]:
    """Return a value for each row of an Arrow array: a number, text, bytes, list or array.

    Lists of numbers without nulls become arrays, without a Python object for each number. Other
    columns take the slow path of ``to_pylist``, and keep their nulls for the codec to refuse.
    """
    arrow_type = column.type
    # With a permutation, the axes are stored in another order than that of the shape.
    if isinstance(arrow_type, pa.FixedShapeTensorType) and not arrow_type.permutation:
        shape: tuple[int, ...] = tuple(arrow_type.shape)
        inner = column.storage.flatten()
    else:
        storage = column.storage if isinstance(arrow_type, pa.ExtensionType) else column
        inner, shape = _without_fixed_lists(storage)
    if not inner.null_count and not column.null_count:
        if _is_number(inner.type):
            numbers = inner.to_numpy(zero_copy_only=False)
            return numbers.reshape(len(column), *shape)  # type: ignore[no-any-return]
        if _is_list(inner.type) and not shape:
            return _slices(inner)
    values: list[Any] = column.to_pylist()
    return values


def checked_values(column: Any) -> Sequence[Any]:
    """Return the values of an Arrow array of a table, without nulls.

    The struct ``{bytes, path}`` of Hugging Face becomes bytes or, where it has none, a `Path`.
    Raises `UnfitValueError`, with the row if there is one, for nulls and for types that no feature
    holds.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if _is_unlike(column.type):
        raise UnfitValueError(unlike_column(column.type))
    if (row := _null_row(column)) is not None:
        raise UnfitValueError(NULL, row)
    return _files(column) if is_file(column.type) else values_of(column)


def is_file(arrow_type: Any) -> bool:
    """Return whether a type is the struct in which Hugging Face datasets keep images and files."""
    return pa.types.is_struct(arrow_type) and {field.name for field in arrow_type} == FILE_MEMBERS


def class_names(schema: Any) -> dict[str, list[str]]:
    """Return the names of the classes of each column that Hugging Face's metadata has names for."""
    try:
        document = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        columns = document["info"]["features"]
        return {
            name: [*kind["names"]]
            for name, kind in columns.items()
            if isinstance(kind, Mapping) and kind.get("_type") == "ClassLabel" and kind.get("names")
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        # Metadata is free text: without the names, the column holds indexes.
        return {}


def _without_fixed_lists(array: Any) -> tuple[Any, tuple[int, ...]]:
    """Return the values within lists of fixed size, and the sizes, from outside inwards."""
    shape: tuple[int, ...] = ()
    # `flatten` drops null lists, and the values after them would move to other rows.
    while pa.types.is_fixed_size_list(array.type) and not array.null_count:
        shape += (array.type.list_size,)
        array = array.flatten()
    return array, shape


def _slices(lists: Any) -> Sequence[Any]:
    """Return the rows of an array of lists as views of one array of numbers, if they are that."""
    # Not `flatten`, which starts at a slice's first value: the offsets count from the first of all.
    numbers, shape = _without_fixed_lists(lists.values)
    if not _is_number(numbers.type) or numbers.null_count:
        # NumPy has no nulls: they would become NaN.
        values: list[Any] = lists.to_pylist()
        return values
    flat = numbers.to_numpy(zero_copy_only=False).reshape(-1, *shape)
    return [flat[start:stop] for start, stop in pairwise(lists.offsets.to_numpy())]


def _files(column: Any) -> list[Any]:
    names = [field.name for field in column.type]
    # Not `field`, which ignores where the struct itself is null.
    fields = dict(zip(names, column.flatten(), strict=True))
    pairs = zip(fields["bytes"].to_pylist(), fields["path"].to_pylist(), strict=True)
    return [content_of_file(row, data, path) for row, (data, path) in enumerate(pairs)]


def _null_row(column: Any) -> int | None:
    """Return the first row that is null or holds one within its lists; None if there is none."""
    if column.null_count:
        return int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
    inner = column
    while _is_list(inner.type) or pa.types.is_fixed_size_list(inner.type):
        inner = inner.flatten()
        if inner.null_count:
            return next(row for row, value in enumerate(column.to_pylist()) if _holds_null(value))
    return None


def _holds_null(value: Any) -> bool:
    return value is None or (isinstance(value, list) and any(map(_holds_null, value)))


def _is_unlike(arrow_type: Any) -> bool:
    return bool(pa.types.is_temporal(arrow_type) or pa.types.is_decimal(arrow_type))


def _is_number(arrow_type: Any) -> bool:
    types = pa.types
    return bool(
        types.is_integer(arrow_type)
        or types.is_floating(arrow_type)
        or types.is_boolean(arrow_type)
    )


def _is_list(arrow_type: Any) -> bool:
    return bool(pa.types.is_list(arrow_type) or pa.types.is_large_list(arrow_type))
