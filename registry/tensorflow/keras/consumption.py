"""Recording what plain ``model.fit`` trains on of a stream."""

from __future__ import annotations

import operator
from typing import Any, SupportsIndex

import keras

from registry.errors import RunMismatchError
from registry.tensorflow.keras.checkpoint import Position, SavedPosition
from registry.tensorflow.keras.recorder import Recorder
from registry.training.epoch import ALONE
from registry.training.run import Run
from registry.training.sharding import Share


class Consumption(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """Records how many of a run's samples were trained on, for `StreamDataset` to continue from.

    For ``model.fit(StreamDataset(run, batch_size=…), …, callbacks=[Consumption(run, …)])``.
    ``samples`` are those of a batch of all workers: ``batch_size`` times the number of shards.
    What is yielded, prefetched or thrown away does not count, only batches that were trained.
    Recorded within a second, also after Ctrl-C, and when an epoch or the training ends.

    The position is saved with the weights. Where `keras.callbacks.BackupAndRestore` restores an
    interrupted training, the run continues at the sample that follows those in the restored
    weights, and ``run.consumed`` is set to that. ``start`` is the stream's, if it was given one.
    """

    async_safe = True  # Keras may call it while the next batch is trained

    def __init__(
        self, run: Run, samples: SupportsIndex, *, start: SupportsIndex | None = None
    ) -> None:
        super().__init__()
        self._run = run
        self._start = None if start is None else operator.index(start)
        self._samples = Share.of(samples, ALONE).batch_size
        self._recorder = Recorder(run)
        self._began = False
        self._consumed = self._before = self._trained = self._running = 0

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        self._saved = SavedPosition(self._position)
        self._saved.attach(model)

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        self._began = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        # Not when the training begins: a backup may be restored after that was said here.
        if not self._began:
            self._begin()
        self._before = self._trained

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._reach(self._before + batch * self._samples)
        # A backup may be written at the end of these batches before their end is said here.
        batches = batch + getattr(self.model, "steps_per_execution", 1)
        self._running = self._before + batches * self._samples

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._reach(self._before + (batch + 1) * self._samples)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._recorder.flush()

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002
        self._recorder.flush()
        self._saved.detach(self.model)

    def _begin(self) -> None:
        self._began = True
        self._recorder.flush()  # what an interrupted training left
        restored = self._saved.restored
        if restored is not None:
            check_run(restored, self._run)
            self._run.record(restored.furthest, rewind=True)
        self._consumed = self._run.consumed
        first = self._consumed if self._start is None else self._start
        self._trained = self._running = restored.sample if restored else first
        self._recorder = Recorder(self._run)

    def _reach(self, sample: int) -> None:
        # Keras may call from several threads, in any order.
        self._trained = max(self._trained, sample)
        self._recorder.reach(self._trained)

    def _position(self) -> Position:
        return Position(self._run.name, max(self._trained, self._running), self._consumed)


def check_run(restored: Position, run: Run) -> None:
    """Raise `RunMismatchError` if restored weights were trained on another run."""
    if restored.run != run.name:
        raise RunMismatchError(
            f"the restored backup was trained on run {restored.run!r}, not on {run.name!r}: train "
            "on that run, or give BackupAndRestore another folder"
        )
