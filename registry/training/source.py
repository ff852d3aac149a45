"""The protocol of sample sources: the mirror, or the database if there can be no mirror."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from registry.errors import ErasedError
from registry.samples.arrays import Positions, Rows
from registry.samples.codec import Column
from registry.samples.fields import Fields
from registry.samples.schema import Schema
from registry.storage.log.reader import Log
from registry.storage.mirror.index import Index
from registry.storage.mirror.local_files import LocalFiles
from registry.storage.mirror.packed import Packed
from registry.training.packed_chunk import PackedChunk
from registry.training.permutation import Permutation
from registry.training.population import (
    Population,
)
from registry.training.value_columns import Values


class Source(Protocol):
    """What an epoch reads from the log. Safe to share between threads.

    Indexes include rows that were erased; taking such a row raises `ErasedError`.
    """

    def index(
        self,
        population: Population,
        size: int | None,
        older: int | None = None,
        *,
        follow: bool = True,
    ) -> Index:
        """Return the index of a population.

        ``size`` is the size if it is known, and ``older`` the number of older samples where
        conditions and a draw make it count. A size of None means that it is not known, or that an
        index of the population that was made before must not be used. ``follow`` is whether it may
        have entries of an index of an earlier watermark.
        """

    def take_rows(self, positions: Positions, schema: Schema) -> Rows:
        """Return records of a schema of fixed width, in order.

        They are the first bytes of uint8 rows of shape ``(count, width or more)``.
        """

    def take_columns(self, positions: Positions, schema: Schema) -> dict[str, Column]:
        """Return samples of a schema of fixed width as columns, in order."""

    def take_packed(self, positions: Positions, schema: Schema) -> Packed:
        """Return records of a schema whose records differ in length, in order."""

    def values(self, feature: str, positions: Positions) -> Values:
        """Return the values at these positions, in order, of a feature that may have conditions.

        For texts they are hashes.
        """

    def local_files(self, index: Index) -> LocalFiles | None:
        """Return undamaged files with all rows and this index; None if there are none.

        Raises `MirrorError` if the index is damaged.
        """

    def erased(self, population: Population) -> Positions:
        """Return what `erased_in_database` does; empty if no row is known to be erased."""

    @property
    def record_bytes(self) -> int:
        """The approximate length of a record."""

    @property
    def log(self) -> Log:
        """The log that is read."""


def refuse_erased(samples: Sequence[tuple[int, str]]) -> None:
    """Raise `ErasedError` for these positions and keys, if there are any."""
    # `Epoch` catches it, and says which epoch holds them.
    if samples:
        raise ErasedError("what is read here", samples, "read a later version or epoch")


def drawn_ranks(population: Population, new: int, older: int) -> Positions:
    """Return the ranks, among ``older`` samples, of those that a replay draws for ``new`` ones."""
    draw = population.draw
    assert draw is not None
    # With its own purpose, so that the draw is independent of the epoch's order.
    permutation = Permutation.keyed(older, draw.seed, draw.epoch, "replay")
    return permutation(np.arange(min(older, draw.replay.draws(new))))


def read_columns(source: Source, schema: Schema, positions: Positions) -> dict[str, Column]:
    """Return the samples at these positions as columns of a schema, in order."""
    if schema.codec.fixed_width:
        return source.take_columns(positions, schema)
    return source.take_packed(positions, schema).columns(schema.codec)


def read_packed(source: Source, schema: Schema, positions: Positions) -> PackedChunk:
    """Return the samples at these positions as arrays, in order."""
    if schema.codec.fixed_width:
        return PackedChunk.of_rows(source.take_rows(positions, schema))
    return PackedChunk.of_packed(source.take_packed(positions, schema))


def read_fields(source: Source, schema: Schema, positions: Positions) -> Fields:
    """Return the samples at these positions as records taken apart, in order."""
    if schema.codec.fixed_width:
        return Fields.of_rows(source.take_rows(positions, schema))
    return source.take_packed(positions, schema).fields
