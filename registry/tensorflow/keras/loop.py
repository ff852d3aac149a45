"""Many calls of ``model.fit`` as one training, and how far it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from registry.tensorflow.keras.checkpoint import Call, Position
from registry.tensorflow.keras.recorder import Recorder
from registry.training.epoch import Epoch
from registry.training.run import Run


class Progress:
    """How far a training is in its run, counted in batches.

    ``step`` are the samples of a batch of all workers; ``call`` is the call of `fit`. If it is
    ``backed_up``, only what a backup holds is recorded while it lasts: after a crash that is what
    the training continues from.
    """

    def __init__(self, run: Run, step: int, call: Call, sample: int, *, backed_up: bool) -> None:
        self.call = call
        self._backed_up = backed_up
        self.sample = sample
        self.consumed = run.consumed
        self._run = run
        self._step = step
        self._recorder = Recorder(run)
        self._epoch: Epoch | None = None
        self._saved: int | None = None

    def begin(self, epoch: Epoch, first: int, batches: int) -> None:
        """Begin with the epoch's sample ``first``; so many batches follow."""
        self._epoch, self._first, self._batches = epoch, first, batches
        self._trained = 0
        self.sample = epoch.start + first

    def trained(self, batches: int) -> None:
        """Note that so many batches of the epoch have been trained."""
        assert self._epoch is not None
        self._trained = min(batches, self._batches)  # the last execution may be cut short
        offset = min(self._first + self._trained * self._step, self._epoch.size)
        self._reach(self._epoch.start + offset)

    def end(self) -> None:
        """Note that the epoch is over: all of it, unless the training was stopped in it."""
        assert self._epoch is not None
        if self._trained == self._batches:
            self._reach(self._epoch.start + self._epoch.size)

    def flush(self, *, over: bool = False) -> None:
        """Record how far the training is; ``over`` says that this process trains no further."""
        if over and self._epoch is not None:
            self._recorder.reach(self.sample)
        self._recorder.flush()

    def position(self) -> Position:
        """Return what is being saved with the weights."""
        self._saved = self.sample
        epoch = None if self._epoch is None else self._epoch.number
        chain = None if self._epoch is None else self._epoch.chain.hex()
        return Position(self._run.name, self.sample, self.consumed, epoch, chain, self.call)

    def _reach(self, sample: int) -> None:
        self.sample = sample
        if not self._backed_up:
            self._recorder.reach(sample)
        elif self._saved is not None:
            self._recorder.reach(self._saved)


class OneTraining(keras.callbacks.CallbackList):  # type: ignore[misc]  # Keras ships no types
    """Callbacks to which many calls of ``model.fit`` are one training.

    Counts batches before any of them is called: a backup holds what was trained when it was made.
    """

    progress: Progress
    _logs: Any = None

    @property
    def backups(self) -> list[Any]:
        """The callbacks that save and restore the training."""
        kind = keras.callbacks.BackupAndRestore
        return [each for each in self.callbacks if isinstance(each, kind)]

    def begin(self) -> None:
        super().on_train_begin()

    def end(self) -> None:
        for backup in self.backups:
            if not backup.delete_checkpoint:
                _note_end(backup, self.progress.call)
        super().on_train_end(self._logs)

    def on_train_begin(self, logs: Any = None) -> None:
        pass

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.progress.trained(batch + 1)
        super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.progress.end()
        super().on_epoch_end(epoch, logs)
        self.progress.end()  # again, since a backup may have been made
        self.progress.flush()

    def on_train_end(self, logs: Any = None) -> None:
        self._logs = logs


def ended(backups: list[Any], call: Call) -> bool:
    """Tell whether a call of `fit` went to its end, though its backup was kept."""
    paths = filter(tf.io.gfile.exists, map(_end_path, backups))
    return any(json.loads(tf.io.gfile.GFile(path).read())["ended"] == call.id for path in paths)


def _note_end(backup: Any, call: Call) -> None:
    tf.io.gfile.makedirs(backup.backup_dir)
    with tf.io.gfile.GFile(_end_path(backup), "w") as file:
        file.write(json.dumps({"ended": call.id}))


def _end_path(backup: Any) -> str:
    path: str = tf.io.gfile.join(str(backup.backup_dir), "registry.json")
    return path


@contextmanager
def unfinished(optimizer: Any) -> Iterator[None]:
    """Keep calls of ``model.fit`` from ending the training, as averaging of weights does."""
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        yield
        return
    finish = optimizer.finalize_variable_values
    held: list[Any] = []

    def postpone(variables: Any) -> None:
        held[:] = [variables]

    optimizer.finalize_variable_values = postpone
    try:
        yield
    finally:
        del optimizer.finalize_variable_values
    for variables in held:
        finish(variables)
