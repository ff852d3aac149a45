"""An epoch as a table: its samples in its order, with their keys and sources if asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.samples.arrays import Positions
from registry.samples.codec import Column
from registry.samples.features import Features
from registry.storage.database.transactions import read
from registry.storage.log.row_texts import RowText, named_texts, texts_at
from registry.training.sharding import ALONE, Share

if TYPE_CHECKING:
    from registry.samples.arrow_layout import ArrowLayout
    from registry.training.epoch import Epoch


@dataclass(frozen=True)
class EpochTable:
    """The samples of an epoch: a `frames.Tabular`.

    ``names`` has the column that takes the keys, the groups or the sources. These are in no mirror,
    and are read from the database.
    """

    epoch: Epoch
    names: Mapping[RowText, str]

    @classmethod
    def of(cls, epoch: Epoch, names: Mapping[RowText, str | None]) -> EpochTable:
        """Return the table of an epoch; raises `FeatureError` for a name twice."""
        return cls(epoch, named_texts(epoch.features, names))

    @property
    def features(self) -> Features:
        return self.epoch.features

    @property
    def texts(self) -> dict[str, bool]:
        return {name: text != "key" for text, name in self.names.items()}

    def batches(self, layout: ArrowLayout) -> Iterator[Any]:
        for offsets in self._offsets():
            for fields in self.epoch.fields(offsets):
                yield layout.batch(self.epoch.codec, fields, *self._texts(offsets))

    def columns(self) -> Iterator[Mapping[str, Column | Sequence[str | None]]]:
        for offsets in self._offsets():
            for columns in self.epoch.columns(offsets):
                yield {
                    **dict(zip(self.names.values(), self._texts(offsets), strict=True)),
                    **columns,
                }

    def _texts(self, offsets: Positions) -> Sequence[Sequence[str | None]]:
        if not self.names:
            return ()
        log, positions = self.epoch.source.log, self.epoch.positions(offsets)
        return read(log.engine, texts_at, log.dataset_id, [*self.names], positions)

    def _offsets(self) -> Iterator[Positions]:
        """Yield the offsets of the samples, as many at a time as are read at once."""
        rows = self.epoch.chunk_rows()
        for offsets in self.epoch.chunks(Share.of(1, ALONE)):
            for after in range(0, len(offsets), rows):
                yield offsets[after : after + rows]
