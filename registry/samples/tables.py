"""Tables of pandas, polars, Arrow and Hugging Face datasets, read a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from registry.distribution import install_extra
from registry.errors import InvalidSampleError
from registry.samples.columns import NamedClasses, is_from, takes_whole
from registry.samples.features import ClassLabel, Features, Text

_HF_ROWS = 256
"""Rows that are read together from a Hugging Face dataset, of images for example."""


_NO_TABLES = (list, dict, tuple)
"""The types of most rows and columns; a subclass, such as Hugging Face's splits, may be a table."""


class Table(Protocol):
    """A table that exports its rows as an Arrow stream, such as a frame of pandas or polars."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


@dataclass(frozen=True)
class TablePart:
    """Consecutive rows of a table, of which `slice` returns some as columns by name."""

    rows: int
    slice: Callable[[int, int], Mapping[str, Any]]


def is_table(data: object) -> bool:
    """Return whether `parts_of` reads the data; any other data are rows, columns or a mistake."""
    return type(data) not in _NO_TABLES and (
        is_from(data, "pandas", "DataFrame")
        or _is_hugging_face(data)
        # A column of one library, or an array, exports a stream as well.
        or (hasattr(data, "__arrow_c_stream__") and not _is_column(data))
        or is_from(data, "pyarrow", "StructArray")
    )


def is_hugging_face_splits(data: object) -> bool:
    """Return whether the data are a mapping of splits, which could be taken for one of columns."""
    return is_from(data, "datasets", "DatasetDict", "IterableDatasetDict")


def length_of(table: Any) -> int | None:
    """Return the number of a table's rows; None for a stream, which does not know it."""
    try:
        return len(table)
    except (TypeError, NotImplementedError):
        return None


def parts_of(table: Any, features: Features) -> Iterator[TablePart]:
    """Yield a table's rows in parts, in order.

    A column of class indexes to which Hugging Face's metadata gives names becomes one of names, for
    text and for classes with names, whose order may be another. Raises `InvalidSampleError`.
    """
    if is_from(table, "pandas", "DataFrame"):
        yield _pandas_part(table, features)
        return
    for batch in _arrow_batches(table):
        columns = _named_classes(batch, features)
        yield TablePart(
            batch.num_rows,
            lambda start, stop, columns=columns: {  # type: ignore[misc]
                name: column.slice(start, stop - start) for name, column in columns.items()
            },
        )


def _pandas_part(frame: Any, features: Features) -> TablePart:
    columns = {name: frame[name] for name in _checked_names([*frame.columns])}
    for name, column in columns.items():
        # pandas keeps whole numbers with nulls among them as floats. As nullable whole numbers, the
        # codec refuses the null, and not the type of the first row.
        if name in features and takes_whole(features[name]) and column.dtype == np.float64:
            with suppress(TypeError, ValueError):
                columns[name] = column.astype("Int64") if column.hasnans else column
    return TablePart(
        len(frame),
        lambda start, stop: {name: column.iloc[start:stop] for name, column in columns.items()},
    )


def _arrow_batches(table: Any) -> Iterator[Any]:
    try:
        import pyarrow as pa  # noqa: PLC0415  # an extra
    except ImportError:
        raise InvalidSampleError(
            f"a {type(table).__name__} is read with PyArrow: {install_extra('parquet')}"
        ) from None
    if _is_hugging_face(table):
        # Not its table: that lacks what `select`, `shuffle` and `filter` did.
        for part in table.with_format("arrow").iter(_HF_ROWS):
            yield from part.to_batches()
        return
    if is_from(table, "polars", "DataFrame"):
        _check_polars(table)
    try:
        if hasattr(table, "__arrow_c_stream__"):
            yield from pa.RecordBatchReader.from_stream(table)
        else:
            yield pa.RecordBatch.from_struct_array(table)
    except (pa.ArrowException, ValueError, TypeError) as error:
        reason, *_ = str(error).splitlines() or ["it cannot be read"]
        raise InvalidSampleError(f"the {type(table).__name__} is no table: {reason}") from None


def _check_polars(frame: Any) -> None:
    for name, dtype in frame.schema.items():
        # Exported, they are addresses in memory, which would be stored as bytes.
        if str(dtype) == "Object":
            raise InvalidSampleError(
                f"the column {name!r} holds Python objects, which polars cannot export; give the "
                f"columns as lists: {{name: frame[name].to_list() for name in frame.columns}}"
            )


def _named_classes(batch: Any, features: Features) -> dict[str, Any]:
    """Return a batch's columns by name, with the names of classes in place of their indexes."""
    from registry.samples.arrow import class_names  # noqa: PLC0415  # an extra

    columns = dict(zip(_checked_names(batch.schema.names), batch.columns, strict=True))
    for name, classes in class_names(batch.schema).items():
        feature = features.get(name)
        takes_names = isinstance(feature, Text) or (
            isinstance(feature, ClassLabel) and feature.names not in (None, tuple(classes))
        )
        if name in columns and takes_names:
            columns[name] = NamedClasses(columns[name], classes)
    return columns


def _checked_names(names: Sequence[Any]) -> list[Any]:
    """Return the names; raises `InvalidSampleError` if there is one twice."""
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise InvalidSampleError(f"the table has the column {twice[0]!r} twice")
    return [*names]


def _is_hugging_face(data: object) -> bool:
    return is_from(data, "datasets", "Dataset", "IterableDataset")


def _is_column(data: object) -> bool:
    return (
        is_from(data, "pandas", "Series", "Index")
        or is_from(data, "polars", "Series")
        or is_from(data, "pyarrow", "Array", "ChunkedArray")
    )


def refusal(data: object) -> str:
    """Return why data are neither rows, columns nor a table, and what to give instead."""
    return (
        "samples come as a list, as a mapping of columns, or as a table (pandas, polars, Arrow, "
        f"Hugging Face), not as {type(data).__name__}; {_way(data)}"
    )


def _way(data: object) -> str:
    if is_hugging_face_splits(data):
        return "insert one of its splits: data['train']"
    if is_from(data, "polars", "LazyFrame"):
        return "collect() it first"
    if isinstance(data, np.ndarray) and data.dtype.names:
        return "give its fields as columns: {name: array[name] for name in array.dtype.names}"
    if isinstance(data, np.ndarray) or _is_column(data):
        return "give it as the column of a feature: {'feature': column}"
    if hasattr(data, "as_numpy_iterator"):  # a dataset of TensorFlow
        return "batch() it and insert each batch of its as_numpy_iterator()"
    return "list its samples: [{'feature': x, …} for x, … in data]"
