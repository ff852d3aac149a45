"""An epoch as a table: its samples in its order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.samples.arrays import Positions
from registry.samples.codec import Column
from registry.samples.features import Features
from registry.training.sharding import ALONE, Share

if TYPE_CHECKING:
    from registry.samples.arrow_layout import ArrowLayout
    from registry.training.epoch import Epoch


@dataclass(frozen=True)
class EpochTable:
    """The samples of an epoch: a `frames.Tabular`."""

    epoch: Epoch

    @property
    def features(self) -> Features:
        return self.epoch.features

    @property
    def texts(self) -> dict[str, bool]:
        return {}

    def batches(self, layout: ArrowLayout) -> Iterator[Any]:
        for offsets in self._offsets():
            for fields in self.epoch.fields(offsets):
                yield layout.batch(self.epoch.codec, fields)

    def columns(self) -> Iterator[Mapping[str, Column]]:
        for offsets in self._offsets():
            yield from self.epoch.columns(offsets)

    def _offsets(self) -> Iterator[Positions]:
        return self.epoch.chunks(Share.of(1, ALONE))
