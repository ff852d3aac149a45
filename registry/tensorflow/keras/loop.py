"""Presenting many calls of ``model.fit`` as one training, and recording its progress."""

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

    ``step`` is the number of samples in a batch of all workers, ``call`` the call of `fit`. If the
    training is ``backed_up``, only the samples in the last backup are recorded while it runs,
    because after a crash the training continues from the backup.
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
        """Begin an epoch at the offset ``first``, to be trained on in ``batches`` batches."""
        self._epoch, self._first, self._batches = epoch, first, batches
        self._trained = 0
        self.sample = epoch.start + first

    def trained(self, batches: int) -> None:
        """Note that the first ``batches`` batches of the epoch have been trained on."""
        assert self._epoch is not None
        self._trained = min(batches, self._batches)  # the last execution may be cut short
        offset = min(self._first + self._trained * self._step, self._epoch.size)
        self._reach(self._epoch.start + offset)

    def end(self) -> None:
        """Note the end of the epoch. If all batches were trained on, all its samples count.

        Otherwise a callback stopped the training within the epoch.
        """
        assert self._epoch is not None
        # With `drop_remainder` or several workers, batches do not cover the last samples.
        if self._trained == self._batches:
            self._reach(self._epoch.start + self._epoch.size)

    def flush(self, *, over: bool = False) -> None:
        """Record the progress in the database; ``over`` if this process trains no further.

        Then samples after the last backup are recorded, too.
        """
        if over and self._epoch is not None:
            self._recorder.reach(self.sample)
        self._recorder.flush()

    def position(self) -> Position:
        """Return the position to save with the weights, and note that a backup holds it."""
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
    """Callbacks that see many calls of ``model.fit`` as one training.

    Keras calls ``on_train_begin`` and ``on_train_end`` for each ``model.fit``. Here they are passed
    on by `begin` and `end` alone. Batches are counted before the callbacks are called, so that a
    backup that one of them writes has the position of its weights.
    """

    progress: Progress
    _logs: Any = None

    @property
    def backups(self) -> list[Any]:
        """The callbacks of the kind `keras.callbacks.BackupAndRestore`."""
        kind = keras.callbacks.BackupAndRestore
        return [each for each in self.callbacks if isinstance(each, kind)]

    def begin(self) -> None:
        super().on_train_begin()

    def end(self) -> None:
        for backup in self.backups:
            # The next call would otherwise take the kept backup for that of an interrupted call.
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
        # Again, to record the position of a backup that a callback has written in between.
        self.progress.end()
        self.progress.flush()

    def on_train_end(self, logs: Any = None) -> None:
        self._logs = logs


def ended(backups: list[Any], call: Call) -> bool:
    """Return whether a call of `fit` ran to its end, though its backup was kept."""
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
    """Delay the end of the optimizer's training from each ``model.fit`` to the end of the block.

    With averaged weights, ``finalize_variable_values`` replaces the weights by their average. After
    each epoch, it would have the next epoch train on from the average.
    """
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
        # Removes the instance's attribute, so that the class's method is found again.
        del optimizer.finalize_variable_values
    for variables in held:
        finish(variables)
