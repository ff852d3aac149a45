"""A page of a log: consecutive rows as arrays, in position order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from registry.html.card import card_html
from registry.samples.codec import Codec, Column
from registry.samples.schema import Schema
from registry.storage.log.hash_chain import NONE, extend_past

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class Page:
    """The log's rows at positions ``[start, stop)``.

    ``page["image"]`` is a feature's column: one array of shape ``(records, *shape)`` in position
    order, as `Codec.decode` describes. ``positions`` (int64) has the position of each record.
    Retractions and erased rows have no record; their positions are in ``retracted`` and ``erased``.
    The rows at ``superseding`` replace the older revisions at ``supersedes``, pair by pair.
    ``buckets`` (uint16) has one value per position, those without a record included. ``data`` has
    the records one after another, and ``sizes`` their lengths in bytes, None where all have the
    codec's fixed width. ``schema`` is in force at all of the positions.
    """

    start: int
    stop: int
    data: bytes
    buckets: npt.NDArray[np.uint16]
    superseding: Positions
    supersedes: Positions
    retracted: Positions
    schema: Schema
    sizes: Positions | None = None
    erased: Positions = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def codec(self) -> Codec:
        """The codec of the page's schema."""
        return self.schema.codec

    def __len__(self) -> int:
        return self.stop - self.start

    def __repr__(self) -> str:
        return f"<page [{self.start}, {self.stop})>"

    def _repr_html_(self) -> str | None:
        from registry.storage.log.page_card import page_card  # noqa: PLC0415

        return card_html("Page of a log", repr(self), lambda: page_card(self))

    def __getitem__(self, feature: str) -> Column:
        return self.columns[feature]

    @cached_property
    def columns(self) -> dict[str, Column]:
        """Every feature's column, by name; decoded on the first access."""
        return self.codec.decode(self.data, int(self.held.sum()))

    @property
    def held(self) -> npt.NDArray[np.bool_]:
        """Whether each row has a record, as an array of bool with one item per position."""
        held = np.ones(len(self), bool)
        held[self.retracted - self.start] = False
        held[self.erased - self.start] = False
        return held

    @cached_property
    def positions(self) -> Positions:
        """The position (int64) of each record."""
        return np.flatnonzero(self.held) + self.start

    def chain_values(self, chain: bytes, known: Mapping[int, bytes] | None = None) -> list[bytes]:
        """Compute the chain value after each row, from ``chain``, the value before the first row.

        ``known`` has the stored value after each erased row, by position.
        """
        supersedes = np.full(len(self), NONE, np.int64)
        supersedes[self.superseding - self.start] = self.supersedes
        # An erased row no longer has the record that its value was computed from.
        at = {position - self.start: value for position, value in (known or {}).items()}
        return extend_past(at, chain, supersedes, self.buckets, list(self._records()))

    def _records(self) -> Iterator[bytes | None]:
        without = {*self.retracted.tolist(), *self.erased.tolist()}
        width = self.codec.header.itemsize
        # One size per record, not per row: it must advance only where there is a record.
        sizes = iter(self.sizes.tolist() if self.sizes is not None else ())
        start = 0
        for position in range(self.start, self.stop):
            if position in without:
                yield None
                continue
            stop = start + next(sizes, width)
            yield self.data[start:stop]
            start = stop
