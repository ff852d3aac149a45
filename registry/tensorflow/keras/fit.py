"""Training on a run, epoch after epoch, from where it stands."""

from __future__ import annotations

import operator
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, SupportsIndex

from registry.errors import DivergenceError, TrainingError
from registry.tensorflow.datasets import Worker, pair
from registry.tensorflow.elements import Names
from registry.tensorflow.keras import distribution
from registry.tensorflow.keras.arguments import check_arguments, warn_if_fresh
from registry.tensorflow.keras.checkpoint import Call, Position, SavedPosition
from registry.tensorflow.keras.consumption import check_run
from registry.tensorflow.keras.datasets import Datasets, build, scope
from registry.tensorflow.keras.loop import OneTraining, Progress, ended, unfinished
from registry.training.epoch import ALONE, Epoch
from registry.training.run import Run
from registry.training.sharding import Share


def fit(  # noqa: PLR0913  # as Keras's own, all but two are given by name
    model: Any,
    run: Run,
    *,
    epochs: SupportsIndex = 1,
    batch_size: SupportsIndex,
    x: Names | None = None,
    y: Names | None = None,
    weight: Names | None = None,
    map: Callable[..., Any] | None = None,  # noqa: A002  # as tf.data's
    shard: Worker = ALONE,
    drop_remainder: bool = False,
    initial_epoch: SupportsIndex | None = None,
    validation_run: Run | None = None,
    timeout: float | None = None,
    callbacks: Any = None,
    verbose: Any = "auto",
    dataset_arguments: dict[str, Any] | None = None,
    **fit_arguments: Any,
) -> Any:
    """Train a compiled model on a run's epochs from where the run stands; return its History.

    It begins with the first sample that was not consumed, ``run.consumed``, in the middle of its
    epoch if need be, and trains on that epoch and those after it, ``epochs`` in all. Each is
    pinned when it begins, so it holds what the dataset holds by then. Called again, it trains on
    what came since. With ``initial_epoch``, it trains on epochs ``[initial_epoch, epochs)``
    instead, as they were if they are pinned; `consumed` does not go back by that.

    ``x``, ``y``, ``weight``, ``shard`` and ``dataset_arguments`` are passed to `EpochDataset`,
    other arguments to ``model.fit``. ``map`` is called with the parts of every batch, of those
    for validation too, as by `tf.data.Dataset.map`. ``validation_run`` is validated on after each
    epoch: on the epoch of its own that was pinned when the one trained on had been. Under the
    policies "new" and `Replay`, a new sample is waited for, ``timeout`` seconds or forever, before
    `EpochError` is raised.

    Callbacks behave as in one ``model.fit``, and see the run's own epoch numbers. With
    `keras.callbacks.BackupAndRestore`, a call that was interrupted is completed: it continues at
    the sample that follows those in the restored weights, also in the middle of an epoch
    (``save_freq``), and ends where it was to end.
    """
    check_arguments(model, run, {**fit_arguments, "validation_run": validation_run})
    together = distribution.place(model)
    if together is not None and pair(shard) == ALONE:
        shard = together
    share = Share.of(batch_size, pair(shard))
    options = {"batch_size": batch_size, "x": x, "y": y, "weight": weight, "shard": shard}
    options |= {"drop_remainder": drop_remainder, **(dataset_arguments or {})}
    first = None if initial_epoch is None else operator.index(initial_epoch)
    training = _Training(
        model,
        run,
        datasets=Datasets(share, options, map),
        validation_run=validation_run,
        timeout=timeout,
        verbose=verbose,
        arguments=fit_arguments,
        several_machines=together is not None,
    )
    return training.train(operator.index(epochs), first, callbacks)


@dataclass
class _Training:
    """What stays the same in all of a call's epochs; ``arguments`` are for ``model.fit``."""

    model: Any
    run: Run
    datasets: Datasets
    validation_run: Run | None
    timeout: float | None
    verbose: Any
    arguments: dict[str, Any]
    several_machines: bool

    def train(self, epochs: int, initial_epoch: int | None, callbacks: Any) -> Any:
        run, model = self.run, self.model
        sample = run.consumed
        number, offset = run.locate(sample) if initial_epoch is None else (initial_epoch, 0)
        call = Call(uuid.uuid4().hex, number, epochs - (initial_epoch or 0))
        if not model.built:
            self._build(number)
        together = OneTraining(
            callbacks,
            add_history=True,
            add_progbar=self.verbose != 0,
            model=model,
            verbose=self.verbose,
            epochs=call.end,
            steps=None,
        )
        together.progress = Progress(
            run, self.datasets.share.step, call, sample, backed_up=bool(together.backups)
        )
        saved = SavedPosition(together.progress.position)
        if together.backups:
            saved.attach(model)
        try:
            if self._restore(together, saved):
                number, offset = self._resume(together, saved, epochs, initial_epoch)
            elif initial_epoch is None:
                warn_if_fresh(model, run, sample)
            with unfinished(model.optimizer):
                self._train_epochs(together, number, offset)
        finally:
            together.progress.flush(over=True)
            saved.detach(model)
        together.end()
        return model.history

    def _build(self, number: int) -> None:
        """Build the model with a batch of an epoch that is pinned, if there is any."""
        last = self.run.last
        number = number if last is None else min(number, last.number)
        epoch = self.run.epoch(number, timeout=self.timeout)
        build(self.model, self.datasets.training(epoch, 0))

    def _restore(self, together: OneTraining, saved: SavedPosition) -> bool:
        """Begin the training as callbacks see it; tell whether one of them restored a backup."""
        # A restored backup names the epoch to begin with, for all later calls, too.
        self.model._initial_epoch = None  # noqa: SLF001  # Keras has no public name for it
        with scope(self.model):  # restoring a backup makes the optimizer's variables
            together.begin()
        restored, self.model._initial_epoch = self.model._initial_epoch, None  # noqa: SLF001
        if restored is not None and saved.restored is None:
            raise TrainingError(
                "the restored backup does not say how far its model was trained on a run, because "
                "fit did not write it: load its weights by model.load_weights, and remove it"
            )
        return saved.restored is not None

    def _resume(
        self, together: OneTraining, saved: SavedPosition, epochs: int, initial_epoch: int | None
    ) -> tuple[int, int]:
        """Go to the position of restored weights; return its epoch and the offset there."""
        position, run, progress = saved.restored, self.run, together.progress
        assert position is not None
        check_run(position, run)
        _check_history(position, run)
        number, offset = run.locate(position.sample)
        run.record(position.furthest, rewind=True)
        progress.sample, progress.consumed = position.sample, position.consumed
        if initial_epoch is not None:
            progress.call = Call(progress.call.id, number, epochs - number)
        elif position.call is None or ended(together.backups, position.call):
            progress.call = Call(progress.call.id, number, epochs)
        else:
            progress.call = position.call
        return number, offset

    def _train_epochs(self, together: OneTraining, number: int, offset: int) -> None:
        progress = together.progress
        self.model.stop_training = False
        while number < progress.call.end and not self.model.stop_training:
            epoch = self.run.epoch(number, timeout=self.timeout)
            dataset = self.datasets.training(epoch, offset)
            batches = int(dataset.cardinality())
            if self.several_machines:
                batches = self.datasets.steps(epoch.size - offset)
            progress.begin(epoch, offset, batches)
            if batches:
                together.set_params(
                    {**together.params, "epochs": progress.call.end, "steps": batches}
                )
                self._fit(together, epoch, dataset, batches)
            else:  # a small epoch need not have samples for every worker
                progress.end()
            number, offset = number + 1, 0

    def _fit(self, together: OneTraining, epoch: Epoch, dataset: Any, batches: int) -> None:
        spread, arguments = dataset, self._validation(epoch)
        if self.several_machines:
            size = self.datasets.share.batch_size
            spread = distribution.spread(self.model, dataset.take(batches), size)
            arguments["steps_per_epoch"] = batches
            if "validation_data" in arguments:
                arguments["validation_steps"] = int(arguments["validation_data"].cardinality())
                arguments["validation_data"] = distribution.spread(
                    self.model, arguments["validation_data"], size
                )
        with distribution.adapted(self.model, dataset, several_machines=self.several_machines):
            self.model.fit(
                spread,
                initial_epoch=epoch.number,
                epochs=epoch.number + 1,
                callbacks=together,
                verbose=self.verbose,
                shuffle=False,
                **self.arguments,
                **arguments,
            )

    def _validation(self, epoch: Epoch) -> dict[str, Any]:
        run = self.validation_run
        if run is None:
            return {}
        # Workers train on the same epoch, so that they also validate on the same.
        same = run.log.uid == self.run.log.uid
        newest = run.covering(epoch.watermark if same else run.log.head().position)
        return {"validation_data": self.datasets.validation(newest)}


def _check_history(position: Position, run: Run) -> None:
    """Raise `DivergenceError` unless the database has the epoch that a model was trained on."""
    if position.epoch is None:
        return
    pin = run.pin(position.epoch)
    if pin is None or pin.chain.hex() != position.chain:
        pinned = "has not pinned it" if pin is None else "has pinned other samples for it"
        raise DivergenceError(
            f"the restored backup was trained on epoch {position.epoch} of run {run.name!r}, but "
            f"this database {pinned}: it is older than the backup; restore the newer database, or "
            "train under another run's name"
        )
