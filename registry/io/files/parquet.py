"""Parquet: a column per feature, read in batches of rows.

The columns are written with types that every reader of Parquet supports or, as the format
``huggingface``, with those of the library ``datasets``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from registry.catalog.live_samples import Samples
from registry.errors import ImportFileError
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
from registry.samples.arrow_layout import ArrowLayout
from registry.samples.features import ClassLabel, Feature, Features, Text

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
    path: Path,
    features: Features,
    key: str,
    group: str | None = None,
    *,
    huggingface: bool = False,
) -> Iterator[Callable[[Samples], None]]:
    """Write a column of keys, one of groups if it has a name, then one per feature.

    With ``huggingface``, ``datasets`` reads the file with all its features (`ArrowLayout`).
    """
    names = {key: False, **({} if group is None else {group: True})}
    layout = ArrowLayout(features, names, huggingface)
    with path.open("xb") as file, pq.ParquetWriter(file, layout.schema) as parquet:

        def write(samples: Samples) -> None:
            texts = [samples.keys, *([] if group is None else [samples.groups])]
            parquet.write_batch(layout.batch(samples.codec, samples.fields, *texts))

        yield write
