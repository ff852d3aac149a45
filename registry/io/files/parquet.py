"""Parquet: a column per feature, read in batches of rows.

The columns are written with types that every reader of Parquet supports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from registry.errors import ImportFileError
from registry.io.live_samples import Samples
from registry.io.row import FieldMapping, FileRow, as_key, columns_of, fingerprint
from registry.samples.arrow import values_of
from registry.samples.features import (
    Bytes,
    ClassLabel,
    Feature,
    Features,
    Image,
    Ragged,
    Tensor,
    Text,
)

BATCH_BYTES = 8 << 20
"""Bytes of rows that are decoded together, estimated from the sizes in the file's footer."""
_MOST_ROWS = 4096


def read(
    path: Path, features: Features, key: str | None, mapping: FieldMapping
) -> Iterator[FileRow]:
    """Yield the file's samples; ``key`` names the column of their keys.

    Arrays are lists, or lists of lists; classes are names or indexes; bytes and images are binary,
    or texts that `with_media` loads. Raises `ImportFileError`.
    """
    number = 0
    try:
        # Without a buffer size, whole column chunks are read into memory.
        with pq.ParquetFile(path, buffer_size=1 << 20) as file:
            columns = columns_of(file.schema_arrow.names, features, key, mapping)
            needed = [*columns.values(), *([key] if key is not None else [])]
            for batch in file.iter_batches(_batch_rows(file.metadata), columns=needed):
                # A set: several features may have the same column, which is converted once.
                by_column = {name: values_of(batch.column(name)) for name in {*needed}}
                for row in range(batch.num_rows):
                    number += 1
                    values = {name: by_column[column][row] for name, column in columns.items()}
                    row_key = as_key(by_column[key][row], key) if key is not None else None
                    yield FileRow(number, values, row_key, fingerprint(values.values()))
    except FileNotFoundError:
        raise  # `insert_file` reports it better than Arrow's message, which is an OSError, too
    except (pa.ArrowException, ValueError, OSError) as error:
        reason, *_ = str(error).splitlines() or ["it cannot be read"]
        line = number + 1 if number else None
        raise ImportFileError(reason, file=str(path), line=line, unit="row") from None


def _batch_rows(metadata: Any) -> int:
    """Return the rows of a batch, from the average row of the group where that is largest."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    # The largest average, not that of the file: one group may have much larger rows than others.
    width = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
    return max(1, min(_MOST_ROWS, BATCH_BYTES // max(1, width, 2 * np.dtype(float).itemsize)))


@contextmanager
def writer(path: Path, features: Features, key: str) -> Iterator[Callable[[Samples], None]]:
    """Write a column of keys, then one per feature.

    Arrays are nested lists of fixed size. Classes are dictionary-encoded names or, without names,
    int32 indexes.
    """
    types = {key: pa.string(), **{name: _type(feature) for name, feature in features.items()}}
    schema = pa.schema([pa.field(name, each, nullable=False) for name, each in types.items()])
    with path.open("xb") as file, pq.ParquetWriter(file, schema) as parquet:

        def write(samples: Samples) -> None:
            columns = [_column(features[name], column) for name, column in samples.columns.items()]
            keys = pa.array(samples.keys, pa.string())
            parquet.write_batch(pa.record_batch([keys, *columns], schema=schema))

        yield write


def _type(feature: Feature) -> Any:
    match feature:
        case Tensor(dtype, shape):
            arrow_type = _number(dtype)
            # From the innermost axis outwards.
            for side in reversed(shape):
                arrow_type = pa.list_(arrow_type, side)
            return arrow_type
        case ClassLabel(names=None):
            return pa.int32()
        case ClassLabel():
            return pa.dictionary(pa.int32(), pa.string())
        case Ragged(dtype, shape):
            return pa.list_(_type(Tensor(dtype, shape)))
        case Text():
            return pa.string()
        case Bytes() | Image():
            return pa.binary()


def _number(dtype: str) -> Any:
    return pa.from_numpy_dtype(np.dtype(dtype))


def _column(feature: Feature, values: Any) -> Any:
    match feature:
        case Tensor(dtype, shape):
            # Arrow accepts only arrays in the byte order of this machine.
            array = pa.array(np.ascontiguousarray(values, np.dtype(dtype)).reshape(-1))
            # From the innermost axis outwards: each step wraps the values in lists of one axis.
            for side in reversed(shape):
                array = pa.FixedSizeListArray.from_arrays(array, side)
            return array
        case ClassLabel(names=None):
            return pa.array(np.ascontiguousarray(values, np.int32))
        case ClassLabel(names=names):
            indexes = pa.array(np.ascontiguousarray(values, np.int32))
            return pa.DictionaryArray.from_arrays(indexes, pa.array(names, pa.string()))
        case Ragged(dtype, shape):
            # 32 bits are enough: a page has few MiB of records, or one record.
            offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
            # `concatenate` raises for an empty list: the empty array prevents that.
            items = np.concatenate([*values, np.empty((0, *shape), dtype)])
            return pa.ListArray.from_arrays(pa.array(offsets), _column(Tensor(dtype, shape), items))
        case _:
            return pa.array(list(values), _type(feature))
