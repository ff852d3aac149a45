"""Reading of Parquet: a column per feature, in batches of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from registry.errors import ImportFileError
from registry.io.row import Mapped, Row, as_key, columns, fingerprint
from registry.samples.features import Features

BATCH_BYTES = 8 << 20
"""Bytes of rows that are decoded together, estimated from the sizes in the file's footer."""
_MOST_ROWS = 4096


def read(path: Path, features: Features, key: str | None, mapped: Mapped) -> Iterator[Row]:
    """Yield the file's samples; ``key`` names the column of their keys.

    Arrays are lists, or lists of lists; classes are names or indexes. Raises `ImportFileError`.
    """
    number = 0
    try:
        # Without a buffer size, whole column chunks are read into memory.
        with pq.ParquetFile(path, buffer_size=1 << 20) as file:
            where = columns(file.schema_arrow.names, features, key, mapped)
            wanted = [*where.values(), *([key] if key is not None else [])]
            for batch in file.iter_batches(_rows(file.metadata), columns=wanted):
                found = {name: values(batch.column(name)) for name in {*wanted}}
                for row in range(batch.num_rows):
                    number += 1
                    sample = {name: found[column][row] for name, column in where.items()}
                    named = as_key(found[key][row], key) if key is not None else None
                    yield Row(number, sample, named, fingerprint(sample.values()))
    except FileNotFoundError:
        raise  # `insert_file` reports it better than Arrow's message, which is an OSError, too
    except (pa.ArrowException, ValueError, OSError) as error:
        reason, *_ = str(error).splitlines() or ["it cannot be read"]
        line = number + 1 if number else None
        raise ImportFileError(reason, file=str(path), line=line, unit="row") from None


def values(column: Any) -> Sequence[Any]:
    """Return a value for each row of an Arrow array: a number, text, bytes, list or array.

    Lists of numbers without nulls become arrays, without a Python object for each number. Other
    columns take the slow path of ``to_pylist``, and keep their nulls for the codec to refuse.
    """
    kind = column.type
    # With a permutation, the axes are stored in another order than that of the shape.
    if isinstance(kind, pa.FixedShapeTensorType) and not kind.permutation:
        shape: tuple[int, ...] = tuple(kind.shape)
        inner = column.storage.flatten()
    else:
        shape, inner = (), column.storage if isinstance(kind, pa.ExtensionType) else column
        # `flatten` drops null lists, and the values after them would move to other rows.
        while pa.types.is_fixed_size_list(inner.type) and not inner.null_count:
            shape += (inner.type.list_size,)
            inner = inner.flatten()
    if not inner.null_count and not column.null_count:
        if _is_number(inner.type):
            numbers = inner.to_numpy(zero_copy_only=False)
            return numbers.reshape(len(column), *shape)  # type: ignore[no-any-return]
        if _is_list(inner.type) and not shape and _is_number(inner.type.value_type):
            return _slices(inner)
    listed: list[Any] = column.to_pylist()
    return listed


def _slices(lists: Any) -> Sequence[Any]:
    """Return the rows of an array of lists as views of one array of numbers."""
    # Not `flatten`, which starts at a slice's first value: the offsets count from the first of all.
    numbers = lists.values
    if numbers.null_count:
        listed: list[Any] = lists.to_pylist()
        return listed
    flat, ends = numbers.to_numpy(zero_copy_only=False), lists.offsets.to_numpy()
    return [flat[start:stop] for start, stop in pairwise(ends)]


def _is_number(kind: Any) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _rows(metadata: Any) -> int:
    """Return the rows of a batch, from the average row of the group where that is largest."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    width = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
    return max(1, min(_MOST_ROWS, BATCH_BYTES // max(1, width, 2 * np.dtype(float).itemsize)))
