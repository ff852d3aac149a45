"""A dataset as a table: its live samples, with their keys, groups and sources if asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.catalog.live_samples import live_samples
from registry.samples.codec import Column
from registry.samples.features import Features
from registry.storage.log.row_texts import RowText, named_texts

if TYPE_CHECKING:
    from registry.catalog.dataset import Dataset
    from registry.samples.arrow_layout import ArrowLayout


@dataclass(frozen=True)
class DatasetTable:
    """The live samples of a dataset at a version, in the order of the log: a `frames.Tabular`.

    ``names`` has the column that takes the keys, the groups or the sources.
    """

    dataset: Dataset
    names: Mapping[RowText, str]

    @classmethod
    def of(cls, dataset: Dataset, names: Mapping[RowText, str | None]) -> DatasetTable:
        """Return the table of a dataset as it is now; raises `FeatureError` for a name twice."""
        # One version with its features, for the schema and all rows.
        version = dataset.snapshot()
        return cls(version, named_texts(version.features, names))

    @property
    def features(self) -> Features:
        return self.dataset.features

    @property
    def texts(self) -> dict[str, bool]:
        return {name: text != "key" for text, name in self.names.items()}

    def batches(self, layout: ArrowLayout) -> Iterator[Any]:
        for samples in live_samples(self.dataset, [*self.names]):
            yield layout.batch(samples.codec, samples.fields, *samples.texts.values())

    def columns(self) -> Iterator[Mapping[str, Column | Sequence[str | None]]]:
        for samples in live_samples(self.dataset, [*self.names]):
            texts = {self.names[text]: column for text, column in samples.texts.items()}
            yield {**texts, **samples.columns}
