"""How far a training is in its run, and the recording of that.

`Progress` counts samples, and goes back to the position of restored weights. `Consumption` uses it
for a stream, and `fit` uses `EpochProgress`, which counts the batches of whole epochs.
"""

from __future__ import annotations

from registry.errors import RunMismatchError
from registry.tensorflow.keras.checkpoint import Call, Position
from registry.tensorflow.keras.recorder import Recorder
from registry.training.epoch import Epoch
from registry.training.mix import Mix
from registry.training.run import Run


class Progress:
    """How many of a run's samples were trained on, recorded in the background.

    ``sample`` is the number of the run's first samples that were trained on, and ``consumed`` the
    number that were consumed before the training began.
    """

    def __init__(self, run: Run | Mix, sample: int = 0, consumed: int = 0) -> None:
        self.run = run
        self.sample: int = sample
        self.consumed: int = consumed
        self._recorder = Recorder(run)

    def restore(self, position: Position) -> None:
        """Continue at the position of restored weights, and rewind the run to it."""
        self.run.record(position.furthest, rewind=True)
        self.sample, self.consumed = position.sample, position.consumed
        # A recorder only moves forward, and the restored position may be behind the last one's.
        self._recorder = Recorder(self.run)

    def reach(self, sample: int) -> None:
        """Note that the run's first ``sample`` samples have been trained on."""
        self.sample = sample
        self._recorder.reach(sample)

    def flush(self) -> None:
        """Record what was reached now, in this thread. Raises the database's errors."""
        self._recorder.flush()

    def position(self) -> Position:
        """Return the position to save with the weights."""
        return Position(self.run.name, self.sample, self.consumed)


class EpochProgress(Progress):
    """How far a training on whole epochs is, counted in batches.

    ``step`` is the number of samples in a batch of all workers, ``call`` the call of `fit`. If the
    training is ``backed_up``, only the samples in the last backup are recorded while it runs,
    because after a crash the training continues from the backup.
    """

    def __init__(
        self, run: Run | Mix, sample: int, call: Call, step: int, *, backed_up: bool
    ) -> None:
        super().__init__(run, sample, run.consumed)
        self.call = call
        self._step = step
        self._backed_up = backed_up
        self._epoch: Epoch | None = None
        self._saved: int | None = None

    @property
    def epoch(self) -> Epoch:
        """The epoch that is trained on. There must be one."""
        assert self._epoch is not None
        return self._epoch

    def begin(self, epoch: Epoch, first: int, batches: int) -> None:
        """Begin an epoch at the offset ``first``, to be trained on in ``batches`` batches."""
        self._epoch, self._first, self._batches = epoch, first, batches
        self._trained = 0
        self.sample = epoch.start + first

    def trained(self, batches: int) -> None:
        """Note that the first ``batches`` batches of the epoch have been trained on."""
        assert self._epoch is not None
        self._trained = min(batches, self._batches)  # the last execution may be cut short
        offset = min(self._first + self._trained * self._step, self._epoch.size)
        self.reach(self._epoch.start + offset)

    def end(self) -> None:
        """Note the end of the epoch. If all batches were trained on, all its samples count.

        Otherwise a callback stopped the training within the epoch.
        """
        assert self._epoch is not None
        # With `drop_remainder` or several workers, batches do not cover the last samples.
        if self._trained == self._batches:
            self.reach(self._epoch.start + self._epoch.size)

    def finish(self) -> None:
        """Record all samples, also those after the last backup: this process trains no further."""
        if self._epoch is not None:
            self._recorder.reach(self.sample)
        self.flush()

    def reach(self, sample: int) -> None:
        self.sample: int = sample
        if not self._backed_up:
            self._recorder.reach(sample)
        # Samples after the backup are not recorded: if the process is killed, the weights that
        # learned them are lost.
        elif self._saved is not None:
            self._recorder.reach(self._saved)

    def position(self) -> Position:
        """Return the position to save with the weights, and note that a backup holds it."""
        self._saved = self.sample
        epoch = None if self._epoch is None else self._epoch.number
        chain = None if self._epoch is None else self._epoch.chain.hex()
        return Position(self.run.name, self.sample, self.consumed, epoch, chain, self.call)


def check_run(position: Position, run: Run | Mix) -> None:
    """Raise `RunMismatchError` if restored weights were trained on another run."""
    if position.run != run.name:
        raise RunMismatchError(
            f"the restored backup was trained on run {position.run!r}, not on {run.name!r}: train "
            "on that run, or give BackupAndRestore another folder"
        )
