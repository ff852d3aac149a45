"""Writing of Parquet, with types that every reader of Parquet supports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from registry.io.live_samples import Samples
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


@contextmanager
def writer(path: Path, features: Features, key: str) -> Iterator[Callable[[Samples], None]]:
    """Write a column of keys, then one per feature.

    Arrays are nested lists of fixed size. Classes are dictionary-encoded names or, without names,
    int32 indexes.
    """
    fields = [(key, pa.string()), *((name, _type(feature)) for name, feature in features.items())]
    schema = pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields])
    with path.open("xb") as file, pq.ParquetWriter(file, schema) as out:

        def write(samples: Samples) -> None:
            columns = [_column(features[name], column) for name, column in samples.columns.items()]
            keys = pa.array(samples.keys, pa.string())
            out.write_batch(pa.record_batch([keys, *columns], schema=schema))

        yield write


def _type(feature: Feature) -> Any:
    match feature:
        case Tensor(dtype, shape):
            kind = _number(dtype)
            for side in reversed(shape):
                kind = pa.list_(kind, side)
            return kind
        case ClassLabel(names=None):
            return pa.int32()
        case ClassLabel():
            return pa.dictionary(pa.int32(), pa.string())
        case Ragged(dtype):
            return pa.list_(_number(dtype))
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
            found = pa.array(np.ascontiguousarray(values, np.dtype(dtype)).reshape(-1))
            # From the innermost axis outwards: each step wraps the values in lists of one axis.
            for side in reversed(shape):
                found = pa.FixedSizeListArray.from_arrays(found, side)
            return found
        case ClassLabel(names=None):
            return pa.array(np.ascontiguousarray(values, np.int32))
        case ClassLabel(names=names):
            indexes = pa.array(np.ascontiguousarray(values, np.int32))
            return pa.DictionaryArray.from_arrays(indexes, pa.array(names, pa.string()))
        case Ragged(dtype):
            # 32 bits are enough: a page has few MiB of records, or one record.
            ends = np.cumsum([0, *map(len, values)], dtype=np.int32)
            # `concatenate` raises for an empty list: the empty array prevents that.
            numbers = np.concatenate([*values, np.empty(0, dtype)]).astype(dtype, copy=False)
            return pa.ListArray.from_arrays(pa.array(ends), pa.array(numbers))
        case _:
            return pa.array(list(values), _type(feature))
