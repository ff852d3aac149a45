"""Where a trainer's samples come from: the mirror, or the database where there can be none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from registry.errors import ErasedError
from registry.samples.arrays import Positions, Rows
from registry.samples.codec import Codec, Column
from registry.storage.log.reader import Log
from registry.storage.mirror.index import Index
from registry.storage.mirror.local_files import LocalFiles
from registry.training.permutation import Permutation
from registry.training.population import (
    Population,
)

Record = bytes | memoryview


class Source(Protocol):
    """What an epoch needs of the log. Safe to share between threads.

    Rows that were erased are counted, but taking them raises `ErasedError`.
    """

    def index(self, population: Population, size: int | None) -> Index:
        """Return the index of a population, of which the size may be known."""

    def take_rows(self, positions: Positions) -> Rows:
        """Return fixed-width records as uint8, shape ``(count, their width or more)``."""

    def take_records(self, positions: Positions) -> Sequence[Record]:
        """Return records that differ in length."""

    def local_files(self, index: Index) -> LocalFiles | None:
        """Return files with rows of fixed width, free of damage, and with this index.

        None where there are none.
        """

    def erased(self, population: Population) -> list[tuple[int, str]]:
        """Return as `erased_in_database` does; nothing where no row at all is known as erased."""

    @property
    def record_bytes(self) -> int:
        """The length of a record, about."""

    @property
    def log(self) -> Log:
        """The log itself."""


def refuse(samples: Sequence[tuple[int, str]]) -> None:
    """Raise `ErasedError` if there are any."""
    if samples:
        raise ErasedError("what is read here", samples, "read a later version or epoch")


def drawn(population: Population, new: int, older: int) -> Positions:
    """Return the ranks, among the older samples, of those that a replay draws."""
    draw = population.draw
    assert draw is not None
    permutation = Permutation.keyed(older, draw.seed, draw.epoch, "replay")
    return permutation(np.arange(min(older, draw.replay.draws(new))))


def columns(source: Source, codec: Codec, positions: Positions) -> dict[str, Column]:
    """Return the samples at some positions as columns, in that order."""
    if codec.fixed_width:
        return codec.decode_rows(source.take_rows(positions))
    return codec.decode_records(source.take_records(positions))
