"""Recording how many samples of a stream plain ``model.fit`` has trained on."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any, SupportsIndex

from registry.tensorflow.keras.base_classes import Callback
from registry.tensorflow.keras.checkpoint import Position, SavedPosition
from registry.tensorflow.keras.progress import Progress, check_run
from registry.training.mix import Mix
from registry.training.run import Run
from registry.training.sharding import ALONE, Share


class Consumption(Callback):
    """Records how many of a run's samples were trained on, for `StreamDataset` to continue from.

    For ``model.fit(StreamDataset(run, batch_size=…), …, callbacks=[Consumption(run, …)])``.
    ``run`` may be a mix. ``samples`` is the number of samples in a batch of all workers:
    ``batch_size`` times the number of shards. ``start`` is the stream's, if it was given one.

    Only batches that were trained on count, not those that were yielded, prefetched or discarded.
    The number is recorded within a second, also after Ctrl-C, and when an epoch or the training
    ends.

    The position is saved with the weights. If `keras.callbacks.BackupAndRestore` restores an
    interrupted training, the run continues at the sample after those that the restored weights
    were trained on, and ``run.consumed`` is set to that sample.
    """

    # Lets Keras call this while the next batch is trained. Otherwise every batch waits for it.
    async_safe = True

    def __init__(
        self, run: Run | Mix, samples: SupportsIndex, *, start: SupportsIndex | None = None
    ) -> None:
        super().__init__()
        self._run = run
        self._start = None if start is None else operator.index(start)
        self._samples = Share.of(samples, ALONE).batch_size
        self._progress = Progress(run)
        self._began = False
        self._epoch_start = self._running = 0

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        self._saved = SavedPosition(self._position)
        self._saved.attach(model)

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        self._began = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        # Not in `on_train_begin`: BackupAndRestore may come later in the list of callbacks, and it
        # restores the position in its own `on_train_begin`.
        if not self._began:
            self._begin()
        self._epoch_start = self._progress.sample

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._reach(self._epoch_start + batch * self._samples)
        # A backup may be saved at the end of these batches before `on_train_batch_end` is called
        # here. The position in it must count them, or they would be trained on twice.
        batches = batch + getattr(self.model, "steps_per_execution", 1)
        self._running = self._epoch_start + batches * self._samples

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._reach(self._epoch_start + (batch + 1) * self._samples)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._progress.flush()

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002
        self._progress.flush()
        self._saved.detach(self.model)

    def _begin(self) -> None:
        self._began = True
        self._progress.flush()  # what an interrupted training has not recorded yet
        self._progress = Progress(self._run)
        restored = self._saved.restored
        if restored is None:
            self._progress.consumed = self._run.consumed
            first = self._progress.consumed if self._start is None else self._start
            self._progress.sample = first
        else:
            check_run(restored, self._run)
            self._progress.restore(restored)
        self._running = self._progress.sample

    def _reach(self, sample: int) -> None:
        # Keras may call from several threads, in any order: never go back.
        self._progress.reach(max(self._progress.sample, sample))

    def _position(self) -> Position:
        position = self._progress.position()
        return replace(position, sample=max(position.sample, self._running))
