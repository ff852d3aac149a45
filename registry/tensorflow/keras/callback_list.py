"""Presenting many calls of ``model.fit`` to callbacks, and to the optimizer, as one training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from registry.tensorflow.keras.base_classes import CallbackList
from registry.tensorflow.keras.checkpoint import Call
from registry.tensorflow.keras.lineage import Lineage
from registry.tensorflow.keras.progress import EpochProgress


class OneTrainingCallbacks(CallbackList):
    """Callbacks that see many calls of ``model.fit`` as one training.

    Keras calls ``on_train_begin`` and ``on_train_end`` for each ``model.fit``. Here they are passed
    on by `begin` and `end` alone. Batches are counted before the callbacks are called, so that a
    backup that one of them writes has the position of its weights.
    """

    progress: EpochProgress
    _logs: Any = None

    @property
    def backups(self) -> list[Any]:
        """The callbacks of the kind `keras.callbacks.BackupAndRestore`."""
        kind = keras.callbacks.BackupAndRestore
        return [each for each in self.callbacks if isinstance(each, kind)]

    @property
    def lineages(self) -> list[Lineage]:
        return [each for each in self.callbacks if isinstance(each, Lineage)]

    def begin(self) -> None:
        for lineage in self.lineages:
            lineage.attach(self.progress.run, self.callbacks)
        super().on_train_begin()

    def end(self) -> None:
        for backup in self.backups:
            # The next call would otherwise take the kept backup for that of an interrupted call.
            if not backup.delete_checkpoint:
                _note_end(backup, self.progress.call)
        super().on_train_end(self._logs)

    def on_train_begin(self, logs: Any = None) -> None:
        """Do nothing: Keras calls this for each epoch, and `begin` has called the callbacks."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        for lineage in self.lineages:
            lineage.write(self.progress.epoch)
        super().on_epoch_begin(epoch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Before the callbacks: one of them may write a backup, with the position in it.
        self.progress.trained(batch + 1)
        super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.progress.end()
        super().on_epoch_end(epoch, logs)
        # Again, to record the position of a backup that a callback has written in between.
        self.progress.end()
        self.progress.flush()

    def on_train_end(self, logs: Any = None) -> None:
        self._logs = logs  # for `end`


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
    postponed: list[Any] = []

    def postpone(variables: Any) -> None:
        postponed[:] = [variables]

    optimizer.finalize_variable_values = postpone
    try:
        yield
    finally:
        # Removes the instance's attribute, so that the class's method is found again.
        del optimizer.finalize_variable_values
    for variables in postponed:
        finish(variables)
