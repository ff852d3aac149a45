"""One epoch of a run: its samples, in its order."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import chain
from typing import Any, NoReturn, SupportsIndex, TypeVar

import numpy as np

from registry.errors import DivergenceError, EpochError, ErasedError, MirrorError
from registry.samples.arrays import Positions, Rows
from registry.samples.codec import Codec, Column
from registry.samples.features import Features
from registry.storage.mirror.index import Index
from registry.storage.mirror.local_files import LocalFiles
from registry.training import batching as stream
from registry.training import run_store as runs
from registry.training.mirror_source import Sources
from registry.training.permutation import Permutation
from registry.training.population import Population
from registry.training.sharding import CHUNK_ROWS, Shard, Share
from registry.training.source import Source, columns

T = TypeVar("T")
_OPENED = {"source", "index"}
"""What belongs to one process."""
ALONE: Shard = (0, 1)
CACHED_BYTES = 3 << 19
"""Bytes that are gathered at a time, or one sample: more would leave the processor's cache."""
COPIED_BYTES = 3 << 21
"""As many where they differ in length, and so are copied one by one: less Python for each."""


class Epoch:
    """One pinned epoch of a run: a fixed set of samples in a fixed order.

    ``run`` are the run's settings; ``number``, ``since``, ``watermark``, ``chain``, ``size`` and
    ``start`` are as in `runs.Pin`.
    Samples are named by their offset in the epoch's order, ``[0, size)``. Safe to share between
    threads.

    Raises `ErasedError` where samples of it were erased: when it is opened, or when they are met.
    One that was pickled is opened again when its samples are asked for.
    """

    def __init__(
        self,
        run: runs.Settings,
        pin: runs.Pin,
        codec: Codec,
        population: Population,
        sources: Sources,
        source: Source,
    ) -> None:
        self.run = run
        self.codec = codec
        self.number = pin.number
        self.since = pin.since
        self.watermark = pin.watermark
        self.chain = pin.chain
        self.size = pin.size
        self.start = pin.start
        self.order = Permutation.keyed(pin.size, run.seed, pin.number)
        self.source = source
        self._population = population
        self._sources = sources
        self.index = self._find(pin.size)
        self._refuse_erased()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _OPENED}

    @cached_property
    def source(self) -> Source:
        """Where the samples come from."""
        return self._sources.at(self.watermark, self.chain)

    @cached_property
    def index(self) -> Index:
        """Which of the log's positions are the epoch's."""
        return self._find(self.size)

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"<epoch {self.number} of run {self.run.name!r}: {self.size} samples>"

    @property
    def features(self) -> Features:
        return self.codec.features

    def positions(self, offsets: Positions) -> Positions:
        """Return the log's positions of the samples at these offsets."""
        ranks = self.order(offsets)
        try:
            return self.index.positions(ranks)
        except MirrorError:
            self.index = self._find(None)
            return self.index.positions(ranks)

    def local_files(self) -> LocalFiles | None:
        """Return files that can be read without Python, free of damage; None where there are none.

        They are kept for as long as what is returned, and the epoch, live.
        """
        self._refuse_erased()
        if not self.codec.fixed_width:
            return None
        try:
            self.index.check()
        except MirrorError:
            self.index = self._find(None)
        files = self.source.local_files(self.index)
        return None if files is None or self._among(files.withheld) else files

    def rows(self, offsets: Positions) -> Iterator[Rows]:
        """Yield fixed-width samples as bytes, uint8 of shape ``(count, their width or more)``."""
        return self._gathered(self.source.take_rows, offsets)

    def columns(self, offsets: Positions) -> Iterator[dict[str, Column]]:
        """Yield the samples at these offsets as columns, in their order."""
        return self._gathered(partial(columns, self.source, self.codec), offsets)

    def samples(
        self, offsets: Positions, batch_size: int
    ) -> Iterator[tuple[Positions, dict[str, Column]]]:
        """Yield what `columns` does, as whole batches, with each sample's position in the log."""
        return self._gathered(
            lambda positions: (positions, columns(self.source, self.codec, positions)),
            offsets,
            batch_size,
        )

    def _gathered(
        self, take: Callable[[Positions], T], offsets: Positions, batch_size: int = 1
    ) -> Iterator[T]:
        positions, rows = self.positions(offsets), self.chunk_rows(batch_size)
        for after in range(0, len(positions), rows):
            with self._telling():
                part = take(positions[after : after + rows])
            yield part

    def chunks(
        self, share: Share, start: int = 0, *, drop_remainder: bool = False
    ) -> Iterator[Positions]:
        """Yield the offsets of a worker's samples from ``start`` on, `Share.chunk` at a time."""
        if not 0 <= start <= self.size:
            raise EpochError(f"epoch {self.number} has samples [0, {self.size}), not {start}")
        length = self.size - start
        size = share.size(length, drop_remainder=drop_remainder)
        for after in range(0, size, share.chunk):
            yield share.bounded(after, min(size, after + share.chunk), length) + start

    def chunk_rows(self, batch_size: int = 1) -> int:
        """Return how many samples to gather at a time: whole batches, a few MiB."""
        size = CACHED_BYTES if self.codec.fixed_width else COPIED_BYTES
        rows = min(CHUNK_ROWS, size // max(1, self.source.record_bytes))
        return max(1, rows // batch_size) * batch_size

    def batches(
        self,
        batch_size: int,
        *,
        shard: Shard = ALONE,
        start: SupportsIndex = 0,
        drop_remainder: bool = False,
    ) -> Iterator[dict[str, Column]]:
        """Yield the epoch's samples as dicts of arrays with ``batch_size`` rows.

        With ``shard=(index, count)``, only that worker's part of every ``batch_size * count``
        samples; ``start`` is the offset of the first sample, of all shards. The last batch is
        shorter where the size is no multiple, or left out.
        """
        share = Share.of(batch_size, shard)
        chunks = self.chunks(share, operator.index(start), drop_remainder=drop_remainder)
        return stream.batches(chain.from_iterable(map(self.columns, chunks)), share.batch_size)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Say of an erased sample which epoch held it."""
        try:
            yield
        except ErasedError as error:
            self._refuse_erased()
            self._refuse(list(zip(error.positions, error.keys, strict=True)))

    def _refuse_erased(self) -> None:
        """Raise `ErasedError` if any sample of the epoch is known to be erased."""
        found = self.source.erased(self._population)
        if found and self._population.draw is not None:
            drawn = self._among(np.array([position for position, _ in found]))
            found = [sample for sample in found if sample[0] in drawn]
        if found:
            self._refuse(found)

    def _among(self, positions: Positions) -> set[int]:
        """Return which of these positions are those of samples of the epoch."""
        found: set[int] = set()
        for after in range(0, self.size if len(positions) else 0, CHUNK_ROWS):
            ranks = np.arange(after, min(self.size, after + CHUNK_ROWS))
            found.update(np.intersect1d(self.index.positions(ranks), positions).tolist())
        return found

    def _refuse(self, erased: list[tuple[int, str]]) -> NoReturn:
        end = self.start + self.size
        raise ErasedError(
            f"epoch {self.number} of run {self.run.name!r}",
            erased,
            "it cannot be replayed; go on with the next epoch: "
            f"run.record(consumed={end}), then run.epoch({self.number + 1}) or run.stream(…)",
        ) from None

    def _find(self, size: int | None) -> Index:
        index = self.source.index(self._population, size)
        if index.size != self.size:
            raise DivergenceError(
                f"{self!r} was pinned with {self.size} samples, but the log has {index.size} for it"
            )
        return index
