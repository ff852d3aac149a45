"""Runs and epochs as trainers hold them."""

from __future__ import annotations

import operator
import time
from collections.abc import Iterator
from itertools import count
from typing import SupportsIndex

import numpy as np

from registry import runs, stream
from registry.codec import Codec, Column
from registry.cursor import Log, await_growth
from registry.errors import DivergenceError, EpochError, MirrorError
from registry.features import Features
from registry.order import Permutation
from registry.pins import PinMemory
from registry.policies import Policy, Replay
from registry.population import Draw, Population
from registry.seals import Positions, Rows
from registry.sharding import Shard, Share
from registry.source import Index, Source, Sources, columns
from registry.splits import Interval

ALONE: Shard = (0, 1)
CHUNK_BYTES = 1 << 22
CHUNK_ROWS = 1 << 14


class Epoch:
    """One pinned epoch of a run: a fixed set of samples in a fixed order.

    ``number``, ``since``, ``watermark``, ``chain``, ``size`` and ``start`` are as in `runs.Pin`.
    Samples are named by their offset in the epoch's order, ``[0, size)``. Safe to share between
    threads.
    """

    def __init__(self, run: Run, pin: runs.Pin, source: Source) -> None:
        self.run = run
        self.number = pin.number
        self.since = pin.since
        self.watermark = pin.watermark
        self.chain = pin.chain
        self.size = pin.size
        self.start = pin.start
        self.order = Permutation.keyed(pin.size, run.seed, pin.number)
        self.source = source
        self.index = self._find(pin.size)

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"<epoch {self.number} of run {self.run.name!r}: {self.size} samples>"

    @property
    def codec(self) -> Codec:
        return self.run.log.codec

    def positions(self, offsets: Positions) -> Positions:
        """Return the log's positions of the samples at these offsets."""
        ranks = self.order(offsets)
        try:
            return self.index.positions(ranks)
        except MirrorError:
            self.index = self._find(None)
            return self.index.positions(ranks)

    def scan(self) -> None:
        """Look for damage in local files before they are read without Python, and mend it."""
        try:
            self.index.check()
        except MirrorError:
            self.index = self._find(None)
        self.source.scan()

    def rows(self, offsets: Positions) -> Rows:
        """Return fixed-width samples as bytes, uint8 of shape ``(count, their width or more)``."""
        return self.source.take_rows(self.positions(offsets))

    def columns(self, offsets: Positions) -> dict[str, Column]:
        """Return the samples at these offsets as columns, in their order."""
        return columns(self.source, self.codec, self.positions(offsets))

    def chunks(
        self, share: Share, start: int = 0, *, drop_remainder: bool = False
    ) -> Iterator[Positions]:
        """Yield the offsets of a worker's samples from ``start`` on, some batches at a time."""
        if not 0 <= start <= self.size:
            raise EpochError(f"epoch {self.number} has samples [0, {self.size}), not {start}")
        length = self.size - start
        size = share.size(length, drop_remainder=drop_remainder)
        chunk = self.chunk_rows(share.batch_size)
        for after in range(0, size, chunk):
            yield share.bounded(after, min(size, after + chunk), length) + start

    def chunk_rows(self, batch_size: int) -> int:
        """Return how many samples to gather at a time: whole batches, about `CHUNK_BYTES`."""
        rows = min(CHUNK_ROWS, CHUNK_BYTES // max(1, self.source.record_bytes))
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
        return stream.batches(map(self.columns, chunks), share.batch_size)

    def _find(self, size: int | None) -> Index:
        index = self.source.index(
            self.run.population(self.number, self.since, self.watermark), size
        )
        if index.size != self.size:
            raise DivergenceError(
                f"{self!r} was pinned with {self.size} samples, but the log has {index.size} for it"
            )
        return index


class Run:
    """One training run over a dataset that grows: a name, a seed, a split and a policy."""

    def __init__(self, log: Log, settings: runs.Settings, interval: Interval) -> None:
        self.log = log
        self._settings = settings
        self._interval = interval
        self._sources = Sources(log)
        self._memory = PinMemory(log, settings, self._sources)

    @property
    def name(self) -> str:
        return self._settings.name

    @property
    def seed(self) -> int:
        return self._settings.seed

    @property
    def split(self) -> str | None:
        return self._settings.split

    @property
    def policy(self) -> Policy:
        return self._settings.policy

    @property
    def features(self) -> Features:
        return self.log.codec.features

    @property
    def consumed(self) -> int:
        """How many of the run's samples have been trained on, as far as was recorded."""
        return runs.consumed(self.log.engine, self._settings)

    @property
    def last(self) -> runs.Pin | None:
        """The last epoch that is pinned, as the database holds it; None before the first."""
        return runs.last(self.log.engine, self._settings)

    def record(self, consumed: SupportsIndex) -> None:
        """Store that the run's first ``consumed`` samples have been trained on."""
        if (samples := operator.index(consumed)) < 0:
            raise EpochError(f"{samples} samples cannot have been consumed")
        runs.record(self.log.engine, self._settings, samples)

    def __repr__(self) -> str:
        return f"<run {self.name!r}: split {self.split!r}, policy {self.policy!r}>"

    def population(self, number: int, since: int, watermark: int) -> Population:
        """Return which samples an epoch between two watermarks holds."""
        if self.policy == "all":
            return Population(watermark, self._interval)
        draw = Draw(self.policy, self.seed, number) if isinstance(self.policy, Replay) else None
        return Population(watermark, self._interval, since, draw)

    def epoch(self, number: SupportsIndex, *, timeout: float | None = None) -> Epoch:
        """Return an epoch: pinned at the dataset's head now, or read back if it ever was pinned.

        Under the policies "new" and `Replay`, waits until there is something new, for ``timeout``
        seconds or for ever. Raises `EpochError` if the epoch before is not pinned or there is no
        sample to train on, and `DivergenceError` if the database holds another history than the
        one that this machine has trained the run on.
        """
        if (number := operator.index(number)) < 0:
            raise EpochError(f"epoch {number}: epochs count from 0")
        if epoch := self.pinned(number):
            return epoch
        until = None if timeout is None else time.monotonic() + timeout
        return self._open(self._pin(number, wait=self.policy != "all", until=until))

    def pinned(self, number: int) -> Epoch | None:
        """Return an epoch if it is pinned."""
        self._memory.check()
        pin = runs.find(self.log.engine, self._settings, number)
        return self._open(pin) if pin else None

    def at(self, sample: int) -> Epoch:
        """Return the epoch that a sample of the run belongs to; pins it if it is the next one."""
        pin = runs.find_at(self.log.engine, self._settings, sample)
        end = pin.start + pin.size if pin else 0
        if pin is not None and sample < end:
            self._memory.check()
            return self._open(pin)
        if sample == end:
            return self.begin(pin.number + 1 if pin else 0)
        raise DivergenceError(
            f"run {self.name!r} is to go on at sample {sample}, but the epochs that this database "
            f"has pinned end at sample {end}: it is older than the training; restore the newer "
            "database, or start another run"
        )

    def begin(self, number: int) -> Epoch:
        """Return an epoch as `epoch` does, but wait for a first sample under any policy."""
        return self.pinned(number) or self._open(self._pin(number, wait=True))

    def chunks(self, share: Share, start: int) -> Iterator[tuple[Epoch, Positions]]:
        """Yield the epochs and offsets of a worker's samples from ``start`` on, for ever.

        An epoch is pinned when the first of its samples is reached; while there is none at all,
        this waits for one.
        """
        epoch = self.at(start)
        for after in count(0, chunk := epoch.chunk_rows(share.batch_size)):
            wanted = share.endless(after, after + chunk) + start
            while len(wanted):
                inside = int(np.searchsorted(wanted, epoch.start + epoch.size))
                if inside:
                    yield epoch, wanted[:inside] - epoch.start
                if inside < len(wanted):
                    epoch = self.begin(epoch.number + 1)
                wanted = wanted[inside:]

    def stream(
        self,
        batch_size: int,
        *,
        shard: Shard = ALONE,
        start: SupportsIndex | None = None,
    ) -> Iterator[dict[str, Column]]:
        """Yield batches for ever, each of ``batch_size`` samples; they straddle epochs.

        ``start`` counts the run's samples before the first one, of all shards; None goes on
        after those recorded as consumed. ``shard`` is as in `Epoch.batches`.
        """
        share = Share.of(batch_size, shard)
        first = self.consumed if start is None else operator.index(start)
        parts = (epoch.columns(offsets) for epoch, offsets in self.chunks(share, first))
        return stream.batches(parts, share.batch_size)

    def _open(self, pin: runs.Pin) -> Epoch:
        epoch = Epoch(self, pin, self._sources.at(pin.watermark, pin.chain))
        self._memory.remember(pin)
        return epoch

    def _pin(self, number: int, *, wait: bool, until: float | None = None) -> runs.Pin:
        """Pin an epoch at the first head that has samples for it."""
        before = runs.find(self.log.engine, self._settings, number - 1) if number else None
        if before is None and number:
            raise EpochError(
                f"epoch {number} of run {self.name!r} cannot begin before epoch {number - 1} has"
            )
        since, start = (before.watermark, before.start + before.size) if before else (0, 0)
        while True:
            head = self.log.head()
            source = self._sources.at(head.position, head.chain)
            size = source.index(self.population(number, since, head.position), None).size
            if size:
                made = runs.Pin(number, since, head.position, head.chain, size, start)
                return runs.pin(self.log.engine, self._settings, made)
            # Another worker may have seen samples that were retracted since, and pinned them.
            if pinned := runs.find(self.log.engine, self._settings, number):
                return pinned
            if not wait:
                break
            if await_growth(self.log, head.position, until) is None:
                break
        place = "dataset" if self.split is None else f"split {self.split!r}"
        what = "no sample yet" if self.policy == "all" else "nothing new"
        raise EpochError(f"epoch {number} of run {self.name!r}: the {place} holds {what}")
