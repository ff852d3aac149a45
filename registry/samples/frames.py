"""Samples as tables of Arrow, pandas and polars, whose libraries are imported here, when used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from registry.distribution import install_extra
from registry.errors import RegistryError
from registry.samples.codec import Column
from registry.samples.features import ClassLabel, Features, Tensor

if TYPE_CHECKING:
    from registry.samples.arrow_layout import ArrowLayout


class Tabular(Protocol):
    """Samples in an order, which are read a few MiB at a time.

    Each read begins at the first sample. ``texts`` are the columns before those of the features, by
    name; the value says whether it may be null.
    """

    @property
    def features(self) -> Features: ...

    @property
    def texts(self) -> dict[str, bool]: ...

    def batches(self, layout: ArrowLayout) -> Iterator[Any]:
        """Yield the samples as record batches of PyArrow."""

    def columns(self) -> Iterator[Mapping[str, Column | Sequence[str | None]]]:
        """Yield the samples as columns by name, in the order of the table."""


def arrow_table(data: Tabular) -> Any:
    """Return samples as a `pyarrow.Table` with the metadata of Hugging Face."""
    pa, layout = _layout(data, huggingface=True)
    return pa.Table.from_batches(data.batches(layout), layout.schema)


def arrow_reader(data: Tabular) -> Any:
    """Return a `pyarrow.RecordBatchReader` that reads samples when it is read."""
    pa, layout = _layout(data, huggingface=True)
    return pa.RecordBatchReader.from_batches(layout.schema, data.batches(layout))


def polars_frame(data: Tabular) -> Any:
    """Return samples as a `polars.DataFrame`; float16 as float32 where polars lacks it."""
    pl = _library("polars")
    pa, layout = _layout(data, huggingface=False)
    # Versions without this type would abort.
    layout = replace(layout, float16=hasattr(pl, "Float16"))
    return pl.from_arrow(pa.Table.from_batches(data.batches(layout), layout.schema))


def pandas_frame(data: Tabular) -> Any:
    """Return samples as a `pandas.DataFrame`."""
    pd = _library("pandas")
    parts: dict[str, list[Any]] = {name: [] for name in (*data.texts, *data.features)}
    for columns in data.columns():
        for name, column in columns.items():
            parts[name].append(column)
    features = data.features
    return pd.DataFrame(
        {
            name: _pandas_column(pd, features, name, columns)
            if name in features
            else pd.Series([text for column in columns for text in column], dtype="object")
            for name, columns in parts.items()
        }
    )


def _pandas_column(pd: Any, features: Features, name: str, columns: Iterable[Column]) -> Any:
    feature = features[name]
    values = np.concatenate([*columns] or [np.empty(0, object)])
    if isinstance(feature, ClassLabel) and feature.names is not None:
        return pd.Series(pd.Categorical.from_codes(values.astype(np.int32), feature.names))
    if isinstance(feature, Tensor) and feature.shape:
        # An array for each row; pandas has no columns of more than one dimension.
        rows = np.empty(len(values), object)
        for row, value in enumerate(values):
            rows[row] = value
        return pd.Series(rows)
    return pd.Series(values)


def _layout(data: Tabular, *, huggingface: bool) -> tuple[Any, ArrowLayout]:
    pa = _library("pyarrow")
    from registry.samples.arrow_layout import ArrowLayout  # noqa: PLC0415  # needs PyArrow

    return pa, ArrowLayout(data.features, data.texts, huggingface)


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        command = install_extra("parquet") if name == "pyarrow" else f"pip install {name}"
        raise RegistryError(f"this table needs {name}; run: {command}") from None
