"""What `fit` trains on: the epochs of a run, or steps of a mix that are trained on like epochs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import tensorflow as tf

from registry.errors import DivergenceError
from registry.tensorflow.keras.checkpoint import Call, Position
from registry.tensorflow.keras.datasets import Datasets
from registry.training.epoch import Epoch
from registry.training.mix import Mix
from registry.training.run import Run


class EpochSource(Protocol):
    """Epochs, one after another: of a run (`Epoch`) or of a mix (`MixEpoch`)."""

    @property
    def datasets(self) -> Datasets:
        """Makes the datasets."""

    @property
    def samples_per_epoch(self) -> int | None:
        """The samples of every epoch; None if they differ."""

    def locate(self, sample: int) -> tuple[int, int]:
        """Return the epoch that a sample belongs to, and its offset in that."""

    def epoch(self, number: int, offset: int) -> Any:
        """Return an epoch to be trained on from an offset on."""

    def dataset(self, epoch: Any, offset: int) -> tf.data.Dataset[Any]:
        """Return this worker's batches of an epoch from an offset on."""

    def steps(self, epoch: Any, offset: int) -> int:
        """Return how many steps all workers can make together from an offset on."""

    def after(self, epoch: Any) -> tuple[int, int]:
        """Return the epoch and the offset to train on after an epoch."""

    def first_batches(self, number: int) -> tf.data.Dataset[Any]:
        """Return batches to build a model with that begins with an epoch."""

    def interrupted(self, call: Call, sample: int) -> Call:
        """Return what is left of an interrupted call from a sample on."""

    def check_history(self, position: Position) -> None:
        """Raise `DivergenceError` unless the epochs are pinned that a model was trained on."""

    def validation(self, run: Run, epoch: Any) -> Epoch:
        """Return the newest epoch of a run to validate on after an epoch."""


@dataclass(frozen=True)
class RunEpochs:
    """The epochs of a run, with the features that the run began with.

    ``timeout`` is how many seconds to wait for the first sample of an epoch.
    """

    run: Run
    datasets: Datasets
    timeout: float | None
    samples_per_epoch: None = None

    def locate(self, sample: int) -> tuple[int, int]:
        return self.run.locate(sample)

    def epoch(self, number: int, offset: int) -> Epoch:  # noqa: ARG002  # as `MixEpochs.epoch`
        return self.run.epoch(number, timeout=self.timeout).in_schema(self.run.schema)

    def dataset(self, epoch: Epoch, offset: int) -> tf.data.Dataset[Any]:
        return self.datasets.training(epoch, offset)

    def steps(self, epoch: Epoch, offset: int) -> int:
        return self.datasets.steps(epoch.size - offset)

    def after(self, epoch: Epoch) -> tuple[int, int]:
        return epoch.number + 1, 0

    def first_batches(self, number: int) -> tf.data.Dataset[Any]:
        # Of an epoch that is pinned, if there is any: this would pin another one before it is known
        # that the training begins with it.
        last = self.run.last
        epoch = self.epoch(number if last is None else min(number, last.number), 0)
        return self.dataset(epoch, 0)

    def interrupted(self, call: Call, sample: int) -> Call:  # noqa: ARG002
        return call

    def check_history(self, position: Position) -> None:
        if position.epoch is None:
            return
        pin = self.run.pin(position.epoch)
        if pin is None or pin.chain.hex() != position.chain:
            pinned = "has not pinned it" if pin is None else "has pinned other samples for it"
            raise DivergenceError(
                f"the restored backup was trained on epoch {position.epoch} of run "
                f"{self.run.name!r}, but this database {pinned}: it is older than the backup; "
                "restore the newer database, or train under another run's name"
            )

    def validation(self, run: Run, epoch: Epoch) -> Epoch:
        if run.log.uid != self.run.log.uid:
            return run.covering(run.log.head().position).in_schema(run.schema)
        # Workers train on the same epoch, so that they also validate on the same. Both have the
        # same features, even if the runs were opened at other times.
        return run.covering(epoch.watermark).in_schema(self.run.schema)


@dataclass(frozen=True)
class MixEpoch:
    """The places ``[start, start + size)`` of a mix."""

    number: int
    start: int
    size: int
    chain: bytes = b""


@dataclass(frozen=True)
class MixEpochs:
    """Epochs of ``steps`` steps of a mix. Epoch n begins with step ``n * steps``.

    A step of all workers is not divided: where the position is not a whole number of steps, since
    steps were of another size before, the epochs begin as much later.
    """

    mix: Mix
    datasets: Datasets
    steps_per_epoch: int

    @property
    def samples_per_epoch(self) -> int:
        return self.steps_per_epoch * self.datasets.share.step

    def locate(self, sample: int) -> tuple[int, int]:
        return divmod(sample, self.samples_per_epoch)

    def epoch(self, number: int, offset: int) -> MixEpoch:
        # Here, since in a thread of TensorFlow's this would raise another error.
        self.mix.begin(number * self.samples_per_epoch + offset)
        steps = -(-(self.samples_per_epoch - offset) // self.datasets.share.step)
        return MixEpoch(
            number, number * self.samples_per_epoch, offset + steps * self.datasets.share.step
        )

    def dataset(self, epoch: MixEpoch, offset: int) -> tf.data.Dataset[Any]:
        return self.datasets.of_mix(self.mix, epoch.start + offset, self.steps(epoch, offset))

    def steps(self, epoch: MixEpoch, offset: int) -> int:
        return (epoch.size - offset) // self.datasets.share.step

    def after(self, epoch: MixEpoch) -> tuple[int, int]:
        return divmod(epoch.start + epoch.size, self.samples_per_epoch)

    def first_batches(self, number: int) -> tf.data.Dataset[Any]:
        start = min(number * self.samples_per_epoch, self.mix.consumed)
        self.mix.begin(start)
        return self.datasets.of_mix(self.mix, start, 1)

    def interrupted(self, call: Call, sample: int) -> Call:
        # The interrupted call's epochs may have had another size.
        if call.samples_per_epoch in {None, self.samples_per_epoch}:
            return call
        number = sample // self.samples_per_epoch
        end = -(-call.end * (call.samples_per_epoch or 0) // self.samples_per_epoch)
        return replace(
            call, first=number, epochs=end - number, samples_per_epoch=self.samples_per_epoch
        )

    def check_history(self, position: Position) -> None:
        self.mix.begin(position.sample)

    def validation(self, run: Run, epoch: MixEpoch) -> Epoch:  # noqa: ARG002
        newest = run.covering(run.log.head().position)
        return newest.in_schema(self.mix.schema_of(run))


def epochs_of(
    run: Run | Mix, datasets: Datasets, timeout: float | None, steps_per_epoch: int | None
) -> EpochSource:
    """Return what to train on for the arguments of `fit`, which have been checked."""
    if isinstance(run, Run):
        return RunEpochs(run, datasets, timeout)
    assert steps_per_epoch is not None
    return MixEpochs(run, datasets, steps_per_epoch)
