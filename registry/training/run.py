"""Training runs: their epochs, their endless stream of samples, and how far they have come.

An epoch is pinned in the database by the worker that reaches it first (`pinning`). One number says
how far a run has come (`run_stream`).
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, SupportsIndex

from registry.errors import (
    EpochError,
    ErasedError,
    RewindError,
)
from registry.html.card import card_html
from registry.samples.arrays import Positions
from registry.samples.codec import Column
from registry.samples.features import Features
from registry.samples.schema import Schema
from registry.samples.splits import Interval
from registry.storage.log.entries import Entry
from registry.storage.log.reader import Log
from registry.storage.log.version import Version
from registry.storage.mirror.local_files import LocalFiles
from registry.training import pin_store, run_store
from registry.training.chunks import batches_of
from registry.training.conditions import Conditions
from registry.training.consumed import consumed_count
from registry.training.epoch import Epoch
from registry.training.lineage import EpochLineage, entries_of, lineage_of
from registry.training.not_an_array import NotAnArray
from registry.training.pin_store import Pin, PinnedEpoch
from registry.training.pinning import Epochs
from registry.training.policy import Policy
from registry.training.population import Population
from registry.training.run_store import RunSettings
from registry.training.run_stream import RunStream
from registry.training.sharding import ALONE, CHUNK_ROWS, Shard, Share
from registry.training.sources import Sources


class Run(NotAnArray):
    """A training run over a growing dataset: a name, a seed, a split and a policy.

    Its stream has the features that the dataset had when the run was opened (``schema``), or those
    of the version that it is on. Epochs have those that the dataset had when they were pinned.
    """

    def __init__(
        self, log: Log, settings: RunSettings, interval: Interval, sources: Sources, dataset: str
    ) -> None:
        self.log = log
        self.dataset = dataset
        """The dataset's name when the run was opened."""
        number, schemas = settings.schema, log.schemas
        self.schema: Schema = schemas.newest if number is None else schemas.numbered(number)
        self._settings = settings
        self._epochs = Epochs(log, settings, interval, sources)
        self._stream = RunStream(log, settings, self.schema, self._epochs)

    @property
    def settings(self) -> RunSettings:
        """The run's row, but for what was consumed."""
        return self._settings

    @property
    def name(self) -> str:
        return self._settings.name

    @property
    def seed(self) -> int:
        return self._settings.seed

    @property
    def created_at(self) -> datetime:
        """When the run was created, in UTC."""
        return self._settings.created_at

    @property
    def split(self) -> str | None:
        return self._settings.split

    @property
    def policy(self) -> Policy:
        return self._settings.policy

    @property
    def version(self) -> Version | None:
        """The version that all epochs of the run hold; None for a run that grows."""
        return self._settings.version(self.dataset)

    @property
    def where(self) -> dict[str, Any]:
        """The conditions that all samples of the run meet, as `Dataset.run` takes them."""
        return self._settings.conditions.where

    @property
    def conditions(self) -> Conditions:
        """The conditions, with a text and a JSON form; false if there are none."""
        return self._settings.conditions

    @property
    def logs(self) -> Sequence[Log]:
        """The log, as a mix has those of its runs."""
        return [self.log]

    @property
    def features(self) -> Features:
        """The features of the stream, those of the dataset when the run was opened."""
        return self.schema.features

    @property
    def consumed(self) -> int:
        """How many of the run's samples are recorded as trained on; read from the database."""
        return run_store.consumed(self.log.engine, self._settings)

    @property
    def last(self) -> Pin | None:
        """The last pinned epoch, read from the database; None before the first."""
        return pin_store.last(self.log.engine, self._settings)

    def epochs(self, count: int) -> list[PinnedEpoch]:
        """Read the last ``count`` pinned epochs from the database, in their order."""
        return pin_store.newest(self.log.engine, self._settings, count)

    def epochs_before(self, number: int | None, count: int) -> list[PinnedEpoch]:
        """Read the last ``count`` pinned epochs before a number, in their order; None: of all."""
        return pin_store.newest(self.log.engine, self._settings, count, number)

    def lineage(self, number: SupportsIndex) -> EpochLineage:
        """Return what a pinned epoch was made of: its version, and its samples by their origin.

        It takes time that grows with the epoch, and pins nothing. Raises `EpochError` if the epoch
        is not pinned.
        """
        pinned = pin_store.pinned(self.log.engine, self._settings, operator.index(number))
        return lineage_of(self._epochs.unopened(pinned.pin), pinned, self.dataset)

    def entries(self, number: SupportsIndex) -> Iterator[Entry]:
        """Yield the log's row of each sample that a pinned epoch held, in the order of the log.

        Rows are read a few thousand at a time. Those that a replay drew come last. Raises
        `EpochError` if the epoch is not pinned.
        """
        pinned = pin_store.pinned(self.log.engine, self._settings, operator.index(number))
        return entries_of(self._epochs.unopened(pinned.pin))

    def positions(self, number: SupportsIndex) -> Iterator[Positions]:
        """Yield where in the log the samples of a pinned epoch are, as `entries` does, in parts."""
        pin = pin_store.pinned(self.log.engine, self._settings, operator.index(number)).pin
        return self._epochs.unopened(pin).ranked(CHUNK_ROWS)

    def record(self, consumed: SupportsIndex, *, rewind: bool = False) -> None:
        """Store that the run's first ``consumed`` samples have been trained on.

        Raises `RewindError` if more are recorded already, unless ``rewind`` is true.
        """
        samples = consumed_count(consumed)
        stored = run_store.record(self.log.engine, self._settings, samples, rewind=rewind)
        if stored != samples:
            raise RewindError(f"run {self.name!r}", stored, samples)

    def record_at_least(self, consumed: SupportsIndex) -> None:
        """Store that the first ``consumed`` samples were trained on, unless more are recorded."""
        run_store.record(self.log.engine, self._settings, consumed_count(consumed))

    def advance(self, samples: SupportsIndex) -> int:
        """Add to the number of samples that have been trained on; return the new number.

        Concurrent calls add up. If the connection is lost meanwhile, the samples may or may not
        have been added: read ``consumed`` before trying again.
        """
        consumed = run_store.advance(self.log.engine, self._settings, consumed_count(samples))
        if consumed is None:
            raise EpochError(f"{samples} more samples cannot have been consumed")
        return consumed

    def __repr__(self) -> str:
        version = f", version {str(self.version)!r}" if self.version else ""
        return f"<run {self.name!r}: split {self.split!r}, policy {self.policy!r}{version}>"

    def _repr_html_(self) -> str | None:
        from registry.training.cards import run_card  # noqa: PLC0415

        return card_html("Run", self.name, lambda: run_card(self))

    def population(self, number: int, since: int, watermark: int) -> Population:
        """Return the samples that an epoch with these watermarks holds."""
        return self._epochs.population(number, since, watermark)

    def epoch(self, number: SupportsIndex, *, timeout: float | None = None) -> Epoch:
        """Return an epoch: as it was pinned, or else pinned now at the dataset's head.

        Under the policies "new" and `Replay`, waits for new samples for at most ``timeout``
        seconds, or indefinitely if it is None. Raises `EpochError` if the previous epoch is not
        pinned or there is no sample to train on, and `DivergenceError` if the database holds
        another history than the one that this machine has trained the run on.
        """
        if (number := operator.index(number)) < 0:
            raise EpochError(f"epoch {number}: epochs count from 0")
        # Under "all", an epoch is empty only if the whole split is: nobody waits for that.
        patience = 0.0 if self.policy == "all" else timeout
        if epoch := self._epochs.find_or_pin(number, patience):
            return epoch
        lack = self._lack("no sample yet" if self.policy == "all" else "nothing new")
        raise EpochError(f"epoch {number} of run {self.name!r}: {lack}")

    def pinned(self, number: int) -> Epoch | None:
        """Return an epoch if it is pinned, else None. Raises `DivergenceError` as `epoch` does."""
        return self._epochs.find(number)

    def pin(self, number: int) -> Pin | None:
        """Read an epoch's pin from the database; None while it is not pinned."""
        return pin_store.find(self.log.engine, self._settings, number)

    def local_files(self, pin: Pin) -> LocalFiles | None:
        """Make the local files of a pinned epoch, as `Epoch.local_files` does.

        Unlike `epoch`, this does not count as training on it.
        """
        return self._epochs.unopened(pin).local_files()

    def covering(self, watermark: int) -> Epoch:
        """Return the first epoch that was pinned at or after a watermark; pin one if none was.

        If there is nothing new to pin, return the last epoch. No epoch of a run on a version is
        newer than that.
        """
        if self._settings.watermark is not None:
            watermark = min(watermark, self._settings.watermark.position)
        pin = pin_store.find_covering(self.log.engine, self._settings, watermark)
        if pin is not None:
            with suppress(ErasedError):  # then a newer epoch is returned, or pinned
                return self.epoch(pin.number)
        last = self.last
        if last is None:
            return self.epoch(0, timeout=0)
        return self._epochs.find_or_pin(last.number + 1, 0) or self.epoch(last.number)

    def at(self, sample: int) -> Epoch:
        """Return the epoch that a sample of the run belongs to; pin it if it is the next one."""
        return self.epoch(self.locate(sample)[0])

    def locate(self, sample: int) -> tuple[int, int]:
        """Return the number of the epoch that a sample of the run belongs to, and its offset there.

        The sample just past the pinned epochs is the first one of the next epoch. Raises
        `DivergenceError` for samples after that.
        """
        return self._stream.locate(sample)

    def begin(self, number: int, timeout: float | None = None) -> Epoch | None:
        """Return an epoch as `epoch` does, but wait for a first sample under any policy.

        Returns None if there is none after ``timeout`` seconds, which is unlimited if it is None.
        """
        return self._epochs.find_or_pin(number, timeout)

    def repeat(self, number: int) -> Epoch:
        """Return an epoch as a mix takes it: as it was pinned, or else pinned now, without a wait.

        If nothing is new under the policies "new" and `Replay`, it repeats the newest samples.
        Raises `EpochError` if there is no sample at all.
        """
        epoch = self._epochs.find_or_repeat(number)
        if epoch is None:
            raise EpochError(
                f"run {self.name!r} of dataset {self.dataset!r} has no sample to begin epoch "
                f"{number} with: {self._lack('no sample' if number else 'no sample yet')}; insert "
                "one, or leave the run out of the mix"
            )
        return epoch

    def pin_until(self, sample: int) -> None:
        """Pin epochs as a mix does until they have the run's first ``sample`` samples."""
        last = self.last
        end, number = (last.end, last.number + 1) if last else (0, 0)
        while end < sample:
            epoch = self.repeat(number)
            end, number = epoch.start + epoch.size, number + 1

    def _lack(self, lack: str) -> str:
        """Say, for a message, that the run's dataset or split holds ``lack``."""
        holder = "dataset" if self.split is None else f"split {self.split!r}"
        conditions = self._settings.conditions
        return f"the {holder} holds {lack}{f' where {conditions}' if conditions else ''}"

    def chunks(
        self, share: Share, start: int, patience: float | None = None
    ) -> Iterator[tuple[Epoch, Positions] | None]:
        """Yield epochs and the offsets in them of a worker's samples from ``start`` on, endlessly.

        The samples of all epochs are in the run's schema.
        An epoch is pinned when the first of its samples is reached. While there is no sample for
        it, this waits, and yields None each time ``patience`` seconds have passed, so that the
        caller can stop.
        """
        return self._stream.chunks(share, start, patience)

    def stream(
        self,
        batch_size: int,
        *,
        shard: Shard = ALONE,
        start: SupportsIndex | None = None,
        decode_images: bool = False,
        channels: int = 3,
    ) -> Iterator[dict[str, Column]]:
        """Yield batches of ``batch_size`` samples endlessly; a batch may span two epochs.

        ``start`` is the number of the run's samples to skip, counted over all shards; None
        continues after those recorded as consumed. Other arguments are as in `Epoch.batches`.
        """
        share = Share.of(batch_size, shard)
        first = self.consumed if start is None else operator.index(start)
        chunks = filter(None, self.chunks(share, first))
        decoded = channels if decode_images else None
        return batches_of(chunks, share.batch_size, self.logs, self.features, decoded)
