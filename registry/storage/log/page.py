"""A page of a log: consecutive rows, as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from registry.samples.codec import Codec, Column
from registry.storage.log.hash_chain import NONE, extend_past

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class Page:
    """The log's rows at positions ``[start, stop)``.

    ``page["image"]`` is a feature's column: one array of shape ``(rows, *shape)`` with a row for
    each record, in position order, as `Codec.decode` describes; ``positions`` (int64) says where
    each stands. Retractions have no record: their positions are in ``retracted``; nor have rows
    that were erased, whose positions are in ``erased``. Positions in ``superseding`` replace the
    older revisions at ``supersedes``, pair by pair. ``buckets`` (uint16) has one value per
    position, those without a record included. ``sizes`` are the records' lengths in bytes, None
    where all have the codec's.
    """

    start: int
    stop: int
    data: bytes
    buckets: npt.NDArray[np.uint16]
    superseding: Positions
    supersedes: Positions
    retracted: Positions
    codec: Codec
    sizes: Positions | None = None
    erased: Positions = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return self.stop - self.start

    def __repr__(self) -> str:
        return f"<page [{self.start}, {self.stop})>"

    def __getitem__(self, feature: str) -> Column:
        return self.columns[feature]

    @cached_property
    def columns(self) -> dict[str, Column]:
        """Every feature's column, by name."""
        return self.codec.decode(self.data, int(self.held.sum()))

    @property
    def held(self) -> npt.NDArray[np.bool_]:
        """Which of the rows have a record, one bool each."""
        held = np.ones(len(self), bool)
        held[self.retracted - self.start] = False
        held[self.erased - self.start] = False
        return held

    @cached_property
    def positions(self) -> Positions:
        """The position of each record."""
        return np.flatnonzero(self.held) + self.start

    def chain_values(self, chain: bytes, known: Mapping[int, bytes] | None = None) -> list[bytes]:
        """Compute the chain after each of the rows, from the value before the first.

        ``known`` has the value after each row that was erased, by position.
        """
        supersedes = np.full(len(self), NONE, np.int64)
        supersedes[self.superseding - self.start] = self.supersedes
        at = {position - self.start: value for position, value in (known or {}).items()}
        return extend_past(at, chain, supersedes, self.buckets, list(self._records()))

    def _records(self) -> Iterator[bytes | None]:
        without = {*self.retracted.tolist(), *self.erased.tolist()}
        width = self.codec.header.itemsize
        sizes = iter(self.sizes.tolist() if self.sizes is not None else ())
        start = 0
        for position in range(self.start, self.stop):
            if position in without:
                yield None
                continue
            stop = start + next(sizes, width)
            yield self.data[start:stop]
            start = stop
