"""The endless stream of a run's samples, epoch by epoch.

The epochs of a run follow one another without a gap: sample n of the run is in the epoch with
``start <= n < start + size``, so that one number says how far a run has come.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import chain, count, pairwise

import numpy as np

from registry.errors import DivergenceError, EpochError
from registry.samples.arrays import Positions
from registry.samples.schema import Schema
from registry.storage.log.reader import Log
from registry.training import pin_store
from registry.training.epoch import Epoch
from registry.training.pinning import Epochs
from registry.training.run_store import RunSettings
from registry.training.sharding import Share


@dataclass(frozen=True)
class RunStream:
    """The samples of a run, in the order of its epochs; all of them have one schema."""

    log: Log
    run: RunSettings
    schema: Schema
    epochs: Epochs

    def locate(self, sample: int) -> tuple[int, int]:
        """Return the number of the epoch that a sample belongs to, and its offset there."""
        if sample < 0:
            raise EpochError(f"a run's samples count from 0, so it has no sample {sample}")
        pin = pin_store.find_at(self.log.engine, self.run, sample)
        end = pin.end if pin else 0
        if pin is not None and sample < end:
            return pin.number, sample - pin.start
        if sample == end:
            return (pin.number + 1 if pin else 0), 0
        raise DivergenceError(
            f"run {self.run.name!r} is to continue at sample {sample}, but the epochs that this "
            f"database has pinned end at sample {end}: it is older than the training; restore the "
            "newer database, or start another run"
        )

    def chunks(
        self, share: Share, start: int, patience: float | None
    ) -> Iterator[tuple[Epoch, Positions] | None]:
        """Yield epochs and the offsets in them of a worker's samples, as `Run.chunks` does."""
        epoch = yield from self._await(self.locate(start)[0], patience)
        # The first chunk is a single batch, so that training begins soon.
        for after, until in pairwise(chain([0], count(share.batch_size, share.chunk))):
            samples = share.stream_offsets(after, until) + start
            # A chunk may span several epochs, each of which has its own order.
            while len(samples):
                inside = int(np.searchsorted(samples, epoch.start + epoch.size))
                if inside:
                    yield epoch, samples[:inside] - epoch.start
                # Only when a sample of it is due: an epoch that is pinned early would lack the rows
                # that come before training reaches it.
                if inside < len(samples):
                    epoch = yield from self._await(epoch.number + 1, patience)
                samples = samples[inside:]

    def _await(self, number: int, patience: float | None) -> Generator[None, None, Epoch]:
        while (epoch := self.epochs.find_or_pin(number, patience)) is None:
            yield None
        return epoch.in_schema(self.schema)
