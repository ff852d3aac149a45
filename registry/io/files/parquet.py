"""Parquet: a column per feature, read in batches of rows.

The columns are written with types that every reader of Parquet supports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from registry.errors import ImportFileError
from registry.io.live_samples import Samples
from registry.io.row import (
    FieldMapping,
    FileRow,
    as_group,
    as_key,
    columns_of,
    encodable_name,
    fingerprint,
    line_key,
)
from registry.samples.arrow import class_names, is_file, values_of
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
    path: Path,
    features: Features,
    key: str | None,
    mapping: FieldMapping,
    group: str | None = None,
) -> Iterator[FileRow]:
    """Yield the samples of a file or, in the order of their names, of a folder's files.

    ``key`` and ``group`` name the columns of their keys and groups; a null is no group. Arrays are
    lists, or lists of lists; classes are names or indexes; bytes and images are binary, texts that
    `with_media` loads, or the structs of Hugging Face. A sample of a folder has the key that it has
    if its file is imported alone. Raises `ImportFileError` with the file and the row.
    """
    if not path.is_dir():
        yield from _rows(path, features, key, mapping, group)
        return
    for file in shards(path):
        name = encodable_name(file)
        for row in _rows(file, features, key, mapping, group):
            row_key = line_key(name, row.line, row.raw) if row.key is None else row.key
            yield row._replace(key=row_key)


def shards(folder: Path) -> list[Path]:
    """Return the Parquet files below a folder, sorted by their paths."""
    files = sorted(each for each in folder.rglob("*.parquet") if each.is_file())
    if not files:
        raise ImportFileError("it holds no .parquet files", file=str(folder))
    return files


def _rows(
    path: Path,
    features: Features,
    key: str | None,
    mapping: FieldMapping,
    group: str | None,
) -> Iterator[FileRow]:
    number = 0
    try:
        # Without a buffer size, whole column chunks are read into memory.
        with pq.ParquetFile(path, buffer_size=1 << 20) as file:
            columns = columns_of(file.schema_arrow.names, features, key, mapping, group)
            others = [name for name in (key, group) if name is not None]
            needed = [*columns.values(), *others]
            names = {name: (*each,) for name, each in class_names(file.schema_arrow).items()}
            for batch in file.iter_batches(_batch_rows(file.metadata), columns=needed):
                # A set: several features may have the same column, which is converted once.
                by_column = {name: _values(batch.column(name)) for name in {*needed}}
                by_feature = {
                    name: _named(features[name], by_column[column], names.get(column))
                    for name, column in columns.items()
                }
                for row in range(batch.num_rows):
                    number += 1
                    values = {name: each[row] for name, each in by_feature.items()}
                    row_key = as_key(by_column[key][row], key) if key is not None else None
                    row_group = (
                        as_group(by_column[group][row], group) if group is not None else None
                    )
                    raw = fingerprint(values.values())
                    yield FileRow(number, values, row_key, raw, group=row_group)
    except FileNotFoundError:
        raise  # `insert_file` reports it better than Arrow's message, which is an OSError, too
    except (pa.ArrowException, ValueError, OSError) as error:
        reason, *_ = str(error).splitlines() or ["it cannot be read"]
        line = number + 1 if number else None
        raise ImportFileError(reason, file=str(path), line=line, unit="row") from None


def _values(column: Any) -> Sequence[Any]:
    """Return the values of an Arrow array; a file without bytes is the text of its path."""
    if not is_file(column.type):
        return values_of(column)
    return [None if file is None else _content(file) for file in column.to_pylist()]


def _content(file: Mapping[str, Any]) -> bytes | str | None:
    content: bytes | str | None = file["path"] if file["bytes"] is None else file["bytes"]
    return content


def _named(feature: Feature, values: Sequence[Any], names: Sequence[str] | None) -> Sequence[Any]:
    """Return the names of classes in place of indexes, which count in the file's names."""
    takes_names = isinstance(feature, Text) or (
        isinstance(feature, ClassLabel) and feature.names not in (None, names)
    )
    if names is None or not takes_names:
        return values
    # -1 stands for no class: it is left to the codec, which refuses it.
    return [
        names[int(each)] if isinstance(each, int | np.integer) and 0 <= each < len(names) else each
        for each in values
    ]


def _batch_rows(metadata: Any) -> int:
    """Return the rows of a batch, from the average row of the group where that is largest."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    # The largest average, not that of the file: one group may have much larger rows than others.
    width = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
    return max(1, min(_MOST_ROWS, BATCH_BYTES // max(1, width, 2 * np.dtype(float).itemsize)))


@contextmanager
def writer(
    path: Path, features: Features, key: str, group: str | None = None
) -> Iterator[Callable[[Samples], None]]:
    """Write a column of keys, one of groups if it has a name, then one per feature.

    Arrays are nested lists of fixed size. Classes are dictionary-encoded names or, without names,
    int32 indexes.
    """
    types = {key: pa.string(), **({} if group is None else {group: pa.string()})}
    types |= {name: arrow_type(feature) for name, feature in features.items()}
    schema = pa.schema(
        [pa.field(name, each, nullable=name == group) for name, each in types.items()]
    )
    with open_writer(path, schema, features, arrow_column, group) as write:
        yield write


@contextmanager
def open_writer(
    path: Path,
    schema: Any,
    features: Features,
    column_of: Callable[[Feature, Any], Any],
    group: str | None,
) -> Iterator[Callable[[Samples], None]]:
    """Write batches with a schema: keys, groups if they have a name, and features.

    ``column_of`` returns the Arrow array of a feature's values.
    """
    with path.open("xb") as file, pq.ParquetWriter(file, schema) as parquet:

        def write(samples: Samples) -> None:
            columns = [column_of(features[name], each) for name, each in samples.columns.items()]
            if group is not None:
                columns.insert(0, pa.array(samples.groups, pa.string()))
            keys = pa.array(samples.keys, pa.string())
            parquet.write_batch(pa.record_batch([keys, *columns], schema=schema))

        yield write


def arrow_type(feature: Feature) -> Any:
    """Return the Arrow type of a feature's values."""
    match feature:
        case Tensor(dtype, shape):
            array_type = _number(dtype)
            # From the innermost axis outwards.
            for side in reversed(shape):
                array_type = pa.list_(array_type, side)
            return array_type
        case ClassLabel(names=None):
            return pa.int32()
        case ClassLabel():
            return pa.dictionary(pa.int32(), pa.string())
        case Ragged(dtype, shape):
            return pa.list_(arrow_type(Tensor(dtype, shape)))
        case Text():
            return pa.string()
        case Bytes() | Image():
            return pa.binary()


def _number(dtype: str) -> Any:
    return pa.from_numpy_dtype(np.dtype(dtype))


def arrow_column(feature: Feature, values: Any) -> Any:
    """Return the Arrow array of a feature's values."""
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
            return pa.ListArray.from_arrays(
                pa.array(offsets), arrow_column(Tensor(dtype, shape), items)
            )
        case _:
            return pa.array(list(values), arrow_type(feature))
