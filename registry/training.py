"""Runs and epochs as trainers hold them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from registry import runs, stream
from registry.codec import Column
from registry.cursor import Log, await_growth
from registry.errors import EpochError
from registry.features import Features
from registry.splits import Interval


class Epoch:
    """One pinned epoch of a run: a fixed set of samples in a fixed order.

    ``number``, ``since``, ``watermark``, ``chain``, ``size`` and ``start`` are as in `runs.Pin`.
    """

    def __init__(self, run: Run, pin: runs.Pin) -> None:
        self.run = run
        self.number = pin.number
        self.since = pin.since
        self.watermark = pin.watermark
        self.chain = pin.chain
        self.size = pin.size
        self.start = pin.start

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"<epoch {self.number} of run {self.run.name!r}: {self.size} samples>"

    def parts(self) -> Iterator[dict[str, Column]]:
        """Yield the epoch's samples once each, in order, as columns of any number of rows."""
        return stream.samples(self.run.log, self.run.population(self.watermark))

    def batches(
        self, batch_size: int, *, drop_remainder: bool = False
    ) -> Iterator[dict[str, Column]]:
        """Yield the epoch's samples as dicts of arrays with ``batch_size`` rows.

        The last batch is shorter where the size is no multiple, or left out.
        """
        return stream.batches(self.parts(), batch_size, drop_remainder=drop_remainder)


class Run:
    """One training run over a dataset that grows: a name, a seed, a split and a policy."""

    def __init__(self, log: Log, settings: runs.Settings, interval: Interval) -> None:
        self.log = log
        self._settings = settings
        self._interval = interval

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
    def policy(self) -> str:
        return self._settings.policy

    @property
    def features(self) -> Features:
        return self.log.codec.features

    def __repr__(self) -> str:
        return f"<run {self.name!r}: split {self.split!r}, policy {self.policy!r}>"

    def population(self, watermark: int) -> runs.Population:
        """Return the samples of the run's split that are alive at a watermark."""
        return runs.Population(self.log.dataset_id, self._interval, watermark)

    def epoch(self, number: int) -> Epoch:
        """Return an epoch: pinned at the dataset's head now, or read back if it ever was pinned.

        Raises `EpochError` if the one before is not pinned or there is no sample to train on.
        """
        pinned = runs.pin(
            self.log.engine, self._settings, number, self.log.dataset_id, self._interval
        )
        return Epoch(self, pinned)

    def parts(self) -> Iterator[dict[str, Column]]:
        """Yield the samples of epoch 0, then 1, … for ever, as columns of any number of rows.

        An epoch is pinned when the first of its samples is asked for; while there is none at all,
        this waits for one.
        """
        for number in count():
            yield from self._begin(number).parts()

    def stream(self, batch_size: int) -> Iterator[dict[str, Column]]:
        """Yield batches for ever, each of ``batch_size`` samples; they straddle epochs."""
        return stream.batches(self.parts(), batch_size)

    def _begin(self, number: int) -> Epoch:
        while True:
            head = self.log.head().position
            try:
                return self.epoch(number)
            except EpochError:
                await_growth(self.log, head)
