"""A dataset as a table of DuckDB. Imports PyArrow, which is an extra."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as arrow_dataset

from registry.catalog.dataset import Dataset
from registry.catalog.live_samples import Samples, live_samples
from registry.samples.arrow_layout import ArrowLayout
from registry.samples.splits import Interval
from registry.storage.log.row_texts import RowText

_TEXTS: tuple[RowText, ...] = ("key", "group_key", "source")
_POSITION, _SPLIT = "position", "split"

if TYPE_CHECKING:

    class _InMemoryDataset:  # without it, type checkers know nothing of the class below
        def __init__(self, *arguments: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

else:
    _InMemoryDataset = arrow_dataset.InMemoryDataset


class SqlTable(_InMemoryDataset):
    """The live samples of a dataset at a version, of which DuckDB scans the columns that it needs.

    ``error`` is the error of the last scan, of which DuckDB passes on the text alone.
    """

    error: Exception | None = None

    def __init__(self, dataset: Dataset) -> None:
        # One version for all scans of a query.
        self._version = dataset.snapshot()
        features = self._version.features
        self._layout = ArrowLayout(features, float16=False)
        own = {
            _POSITION: pa.int64(),
            **dict.fromkeys(_TEXTS, pa.string()),
            _SPLIT: pa.string(),
        }
        fields = [pa.field(name, kind) for name, kind in own.items() if name not in features]
        self._columns = pa.schema([*fields, *self._layout.schema])
        # DuckDB scans what is a dataset of PyArrow; it is asked for rows by `scanner` alone.
        super().__init__(self._columns.empty_table())

    def scanner(
        self,
        columns: Sequence[str] | None = None,
        filter: Any = None,  # noqa: A002  # PyArrow's name
        **_options: Any,
    ) -> Any:
        """Return what DuckDB reads: an object whose ``to_reader`` returns the columns, in order.

        ``filter`` is a `pyarrow.dataset.Expression`, which may use other columns.
        """
        return _Scan(self, [*columns] if columns is not None else self._columns.names, filter)

    def reader(self, columns: list[str], condition: Any) -> Any:
        """Return a `pyarrow.RecordBatchReader` of the columns of the samples that meet a condition.

        None is no condition.
        """
        schema = pa.schema([self._columns.field(name) for name in columns])
        return pa.RecordBatchReader.from_batches(schema, self._batches(schema, condition))

    def _batches(self, schema: Any, condition: Any) -> Iterator[Any]:
        try:
            needed = schema.names
            if condition is not None:
                needed = [n for n in self._columns.names if n in needed or self._uses(condition, n)]
            texts = [
                text for text in _TEXTS if text in needed and text not in self._layout.features
            ]
            for samples in live_samples(self._version, texts):
                batch = self._batch(samples, needed)
                if condition is not None:
                    batch = batch.filter(condition)
                yield batch.select(schema.names)
        except Exception as error:
            self.error = error
            raise

    def _batch(self, samples: Samples, needed: list[str]) -> Any:
        features = self._layout.features
        read = {name: features[name] for name in needed if name in features}
        batch = ArrowLayout(read, float16=False).batch(samples.codec, samples.fields)
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        for name in needed:
            if name in features:
                continue
            if name == _POSITION:
                columns[name] = pa.array(samples.positions)
            elif name == _SPLIT:
                columns[name] = _splits(self._version.splits, samples.buckets)
            else:
                columns[name] = pa.array(dict(samples.texts)[name], pa.string())  # type: ignore[index]
        schema = pa.schema([self._columns.field(name) for name in needed])
        return pa.RecordBatch.from_arrays([columns[name] for name in needed], schema=schema)

    def _uses(self, condition: Any, name: str) -> bool:
        """Return whether a condition uses a column: an expression does not list them."""
        others = pa.schema([field for field in self._columns if field.name != name])
        try:
            arrow_dataset.Scanner.from_batches(iter(()), schema=others, filter=condition)
        except pa.ArrowInvalid:
            return True
        return False


class _Scan:
    """One scan of a table, of which DuckDB calls `to_reader`."""

    def __init__(self, table: SqlTable, columns: list[str], condition: Any) -> None:
        self._table = table
        self._columns = columns
        self._condition = condition

    def to_reader(self) -> Any:
        return self._table.reader(self._columns, self._condition)


def _splits(splits: dict[str, Interval], buckets: npt.NDArray[np.uint16]) -> Any:
    """Return the name of each bucket's split as an Arrow array, null where there is none."""
    indexes = np.full(len(buckets), len(splits), np.int32)
    for index, (start, stop) in enumerate(splits.values()):
        indexes[(buckets >= start) & (buckets < stop)] = index
    return pa.array([*splits, None], pa.string()).take(pa.array(indexes))
