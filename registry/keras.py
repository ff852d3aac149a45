"""Training Keras models on runs.

Plain ``model.fit`` learns the number of batches in its first epoch and never trains on more in a
later one, so it leaves out most of what arrives while it runs. `fit` calls it once per epoch
instead, and to callbacks it looks like one training.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, SupportsIndex

import keras

from registry.epoch import ALONE, Epoch
from registry.errors import DivergenceError
from registry.sharding import Share
from registry.tensorflow import EpochDataset
from registry.tensorflow.datasets import Worker, pair
from registry.training import Run

INTERVAL = 5.0
"""Seconds between two writings of how much was trained on."""


class Consumption(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """Records how many of a run's samples were trained on, for `StreamDataset` to go on from.

    For ``model.fit(StreamDataset(run, batch_size=…), …, callbacks=[Consumption(run, …)])``.
    ``samples`` are those of a step of all workers: ``batch_size`` times the number of shards.
    What is yielded, prefetched or thrown away does not count, only batches that were trained.
    Recorded every few seconds, and when an epoch or the training ends.

    Where `keras.callbacks.BackupAndRestore` restores an interrupted training, the run goes on at
    the sample that follows those in the restored weights: as many steps from the run's first
    sample on as the optimizer has made.
    """

    async_safe = True  # Keras may call it while the next batch is trained

    def __init__(self, run: Run, samples: SupportsIndex) -> None:
        super().__init__()
        self._run = run
        self._samples = Share.of(samples, ALONE).batch_size
        self._began = False

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        self._fresh = steps_made(model)

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        self._began = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        # Not when the training begins: a backup may be restored after this callback was told.
        if not self._began:
            self._began = True
            restored = steps_made(self.model) - self._fresh
            if restored:
                self._run.record(restored * self._samples)
            self._before = restored * self._samples if restored else self._run.consumed
            self._written = time.monotonic()
        self._at_epoch = self._before

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._before = self._at_epoch + (batch + 1) * self._samples
        if time.monotonic() - self._written > INTERVAL:
            self._write()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._write()

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002
        if self._began:
            self._write()

    def _write(self) -> None:
        self._run.record(self._before)
        self._written = time.monotonic()


class _EpochConsumption(keras.callbacks.Callback):  # type: ignore[misc]
    """Records consumption within the epoch that `fit` trains on."""

    async_safe = True

    def __init__(self, run: Run, share: Share) -> None:
        super().__init__()
        self._run = run
        self._share = share
        self._written = time.monotonic()
        self.epoch: Epoch
        self.first = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        if time.monotonic() - self._written > INTERVAL:
            trained = self.first + (batch + 1) * self._share.step
            self._write(min(trained, self.epoch.size))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._write(self.epoch.size)

    def _write(self, offset: int) -> None:
        self._run.record(self.epoch.start + offset)
        self._written = time.monotonic()


class _OneTraining(keras.callbacks.CallbackList):  # type: ignore[misc]
    """Callbacks to which many calls of ``model.fit`` are one training."""

    def begin(self) -> None:
        super().on_train_begin()

    def end(self) -> None:
        super().on_train_end(self._logs)

    def on_train_begin(self, logs: Any = None) -> None:
        pass

    def on_train_end(self, logs: Any = None) -> None:
        self._logs = logs


def fit(  # noqa: PLR0913  # as Keras's own, all but two are given by name
    model: Any,
    run: Run,
    *,
    epochs: int = 1,
    batch_size: SupportsIndex,
    x: Any = None,
    y: Any = None,
    weight: str | None = None,
    shard: Worker = ALONE,
    drop_remainder: bool = False,
    initial_epoch: int = 0,
    callbacks: Any = None,
    verbose: Any = "auto",
    dataset_arguments: dict[str, Any] | None = None,
    **fit_arguments: Any,
) -> Any:
    """Train a compiled model on epochs ``[initial_epoch, epochs)`` of a run; return its History.

    Each is pinned when it begins, so it holds what the dataset holds by then, all of it. ``x``,
    ``y``, ``weight``, ``shard`` and ``dataset_arguments`` are passed to `EpochDataset`, other
    arguments to ``model.fit``. ``run.consumed`` tells how far the training is.

    Callbacks behave as in one ``model.fit``. With `keras.callbacks.BackupAndRestore`, a training
    that was interrupted goes on at the sample that follows those in the restored weights, also in
    the middle of an epoch (``save_freq``): the optimizer's steps tell which.
    """
    share = Share.of(batch_size, pair(shard))
    options = {"batch_size": batch_size, "x": x, "y": y, "weight": weight, "shard": shard}
    options |= {"drop_remainder": drop_remainder, **(dataset_arguments or {})}
    if not model.built:
        _build(model, EpochDataset(run.epoch(initial_epoch), **options))
    recorder = _EpochConsumption(run, share)
    together = _OneTraining(
        [*_listed(callbacks), recorder],
        add_history=True,
        add_progbar=verbose != 0,
        model=model,
        verbose=verbose,
        epochs=epochs,
        steps=None,
    )
    fresh = steps_made(model)
    together.begin()
    # A restored backup names the epoch to begin with, for all later calls; the steps say more.
    model._initial_epoch = None  # noqa: SLF001  # Keras has no public name for it
    number, first = _position(run, share, initial_epoch, steps_made(model) - fresh, drop_remainder)
    model.stop_training = False
    with _unfinished(model.optimizer):
        while number < epochs and not model.stop_training:
            epoch = run.epoch(number)
            recorder.epoch, recorder.first = epoch, first
            dataset = EpochDataset(epoch, start=first, **options)
            together.set_params({**together.params, "steps": int(dataset.cardinality())})
            model.fit(
                dataset,
                initial_epoch=number,
                epochs=number + 1,
                callbacks=together,
                verbose=verbose,
                shuffle=False,
                **fit_arguments,
            )
            number, first = number + 1, 0
    together.end()
    return model.history


def steps_made(model: Any) -> int:
    """Return how many steps a model's optimizer has made."""
    optimizer = model.optimizer
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    # The first of its variables: with gradient accumulation, `iterations` counts only updates.
    return int(optimizer.variables[0])


def _position(
    run: Run, share: Share, number: int, steps: int, drop_remainder: bool
) -> tuple[int, int]:
    """Return the epoch, and the offset in it, that so many steps after an epoch's start lead to."""
    while steps:
        epoch = run.pinned(number)
        if epoch is None:
            raise DivergenceError(
                f"the restored model was trained {steps} steps beyond epoch {number - 1} of run "
                f"{run.name!r}, but this database has pinned no later one: it is older than the "
                "backup; restore the newer database, or train under another run's name"
            )
        whole, rest = divmod(epoch.size, share.step)
        inside = whole + (rest > 0 and not drop_remainder)
        if steps < inside:
            return number, steps * share.step
        number, steps = number + 1, steps - inside
    return number, 0


def _build(model: Any, dataset: EpochDataset) -> None:
    """Give a model its weights, which callbacks may want to restore, by one batch thrown away."""
    batch = next(iter(dataset))
    with model.distribute_strategy.scope():
        model(batch[0] if isinstance(batch, tuple) else batch)


def _listed(callbacks: Any) -> list[Any]:
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]


@contextmanager
def _unfinished(optimizer: Any) -> Iterator[None]:
    """Keep calls of ``model.fit`` from ending the training, as averaging of weights does."""
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
