"""Training on a run or a mix, epoch after epoch, from its recorded position.

1. Begin: the model is built, and `OneTrainingCallbacks` calls ``on_train_begin`` of the callbacks
   once. BackupAndRestore restores weights there, and `SavedPosition` the position that they belong
   to.
2. Resume: if a position was restored, the run is rewound to it. Otherwise the training starts at
   ``run.consumed``, or at ``initial_epoch``.
3. Train: for each epoch, an `EpochSource` makes its dataset, and ``model.fit`` is called with that
   alone. `EpochProgress` counts the trained batches, and records them for the run.
4. End: `OneTrainingCallbacks` calls ``on_train_end`` of the callbacks once.
"""

from __future__ import annotations

import operator
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex

from registry.errors import TrainingError
from registry.tensorflow.datasets import Worker, as_shard
from registry.tensorflow.elements import Names
from registry.tensorflow.keras import distribution
from registry.tensorflow.keras.arguments import check_arguments, warn_if_fresh
from registry.tensorflow.keras.callback_list import OneTrainingCallbacks, ended, unfinished
from registry.tensorflow.keras.checkpoint import Call, SavedPosition
from registry.tensorflow.keras.datasets import Datasets, build, scope
from registry.tensorflow.keras.epoch_sources import EpochSource, epochs_of
from registry.tensorflow.keras.progress import EpochProgress, check_run
from registry.training.mix import Mix
from registry.training.run import Run
from registry.training.sharding import ALONE, Share


def fit(  # noqa: PLR0913  # as Keras's own, all but two are given by name
    model: Any,
    run: Run | Mix,
    *,
    epochs: SupportsIndex = 1,
    steps_per_epoch: SupportsIndex | None = None,
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
    """Train a compiled model on a run's epochs from the run's position; return its History.

    It begins with the first sample that was not consumed, ``run.consumed``, even in the middle of
    an epoch. It trains on that epoch and those after it, ``epochs`` in all. Each epoch is pinned
    when it begins, so it holds what the dataset holds at that time, with the features that the
    dataset had when the run was opened. A later call trains on the samples that came since. With
    ``initial_epoch``, it trains on epochs ``[initial_epoch, epochs)`` instead. Those that are
    pinned hold the samples that they held before, and ``run.consumed`` does not go back.

    ``x``, ``y``, ``weight``, ``shard`` and ``dataset_arguments`` are passed to `EpochDataset`,
    other arguments to ``model.fit``. ``map`` is called with the parts of every batch, also of
    those for validation, as by `tf.data.Dataset.map`. After each epoch, the model is validated on
    ``validation_run``: on the epoch of that run which was pinned when the trained epoch had been.
    Under the policies "new" and `Replay`, an epoch waits for a new sample, for ``timeout`` seconds
    or, with None, without limit. After that time it raises `EpochError`.

    Instead of a run, ``run`` may be a mix. It has no epochs itself, and is trained on in epochs
    of ``steps_per_epoch`` steps: epoch n begins with step ``n * steps_per_epoch`` of the mix. It
    waits for nothing. ``validation_run`` is validated on the epoch that it pins by then.

    Callbacks behave as in one ``model.fit``, and see the run's own epoch numbers. With
    `keras.callbacks.BackupAndRestore`, a call completes one that was interrupted. It continues at
    the sample after those that the restored weights were trained on, also in the middle of an
    epoch (``save_freq``), and ends where the interrupted call would have ended.
    """
    given = {"steps_per_epoch": steps_per_epoch, "validation_run": validation_run}
    check_arguments(model, run, {**fit_arguments, **given})
    worker = distribution.worker_shard(model)
    if worker is not None and as_shard(shard) == ALONE:
        shard = worker
    share = Share.of(batch_size, as_shard(shard))
    options = {"batch_size": batch_size, "x": x, "y": y, "weight": weight, "shard": shard}
    options |= {"drop_remainder": drop_remainder, **(dataset_arguments or {})}
    first = None if initial_epoch is None else operator.index(initial_epoch)
    steps = None if steps_per_epoch is None else operator.index(steps_per_epoch)
    training = _Training(
        model,
        run,
        epochs_of(run, Datasets(share, options, map), timeout, steps),
        validation_run=validation_run,
        verbose=verbose,
        arguments=fit_arguments,
        several_machines=worker is not None,
    )
    return training.train(operator.index(epochs), first, callbacks)


@dataclass
class _Training:
    """The parameters of a call that are the same in all its epochs.

    ``arguments`` are for ``model.fit``.
    """

    model: Any
    run: Run | Mix
    source: EpochSource
    validation_run: Run | None
    verbose: Any
    arguments: dict[str, Any]
    several_machines: bool

    def train(self, epochs: int, initial_epoch: int | None, callbacks: Any) -> Any:
        run, model, source = self.run, self.model, self.source
        sample = run.consumed
        number, offset = source.locate(sample) if initial_epoch is None else (initial_epoch, 0)
        call = Call(
            uuid.uuid4().hex, number, epochs - (initial_epoch or 0), source.samples_per_epoch
        )
        # Before the callbacks begin: those that restore a backup need weights to restore into.
        if not model.built:
            build(model, source.first_batches(number))
        callback_list = OneTrainingCallbacks(
            callbacks,
            add_history=True,
            add_progbar=self.verbose != 0,
            model=model,
            verbose=self.verbose,
            epochs=call.end,
            steps=None,
        )
        progress = EpochProgress(
            run, sample, call, source.datasets.share.step, backed_up=bool(callback_list.backups)
        )
        callback_list.progress = progress
        saved = SavedPosition(progress.position)
        # Without a backup, no call would restore the position.
        if callback_list.backups:
            saved.attach(model)
        try:
            if self._restore(callback_list, saved):
                number, offset = self._resume(callback_list, saved, epochs, initial_epoch)
            elif initial_epoch is None:
                warn_if_fresh(model, run, sample)
            with unfinished(model.optimizer):
                self._train_epochs(callback_list, number, offset)
        finally:
            # Also after Ctrl-C or an error. If the layer stayed in the user's model, the next save
            # of the model would write the position of this training.
            progress.finish()
            saved.detach(model)
        callback_list.end()
        return model.history

    def _restore(self, callback_list: OneTrainingCallbacks, saved: SavedPosition) -> bool:
        """Begin the training for callbacks; return whether one of them restored a backup."""
        # A restored backup sets the epoch to begin with, in an attribute that Keras prefers to the
        # argument of every later call. So the attribute is read and cleared.
        self.model._initial_epoch = None  # noqa: SLF001  # Keras has no public name for it
        with scope(self.model):  # restoring a backup makes the optimizer's variables
            callback_list.begin()
        restored, self.model._initial_epoch = self.model._initial_epoch, None  # noqa: SLF001
        if restored is not None and saved.restored is None:
            raise TrainingError(
                "the restored backup does not say how far its model was trained on a run, because "
                "fit did not write it: load its weights by model.load_weights, and remove it"
            )
        return saved.restored is not None

    def _resume(
        self,
        callback_list: OneTrainingCallbacks,
        saved: SavedPosition,
        epochs: int,
        initial_epoch: int | None,
    ) -> tuple[int, int]:
        """Rewind the run to the position of restored weights; return its epoch and offset.

        Raises `RunMismatchError` or `DivergenceError` if the weights were trained on other samples.
        """
        position, progress = saved.restored, callback_list.progress
        assert position is not None
        check_run(position, self.run)
        self.source.check_history(position)
        number, offset = self.source.locate(position.sample)
        progress.restore(position)
        if initial_epoch is not None:
            progress.call = replace(progress.call, first=number, epochs=epochs - number)
        # A backup may be kept after its call has ended. Then this call is new, and trains on all of
        # its epochs; otherwise it completes the interrupted call.
        elif position.call is None or ended(callback_list.backups, position.call):
            progress.call = replace(progress.call, first=number, epochs=epochs)
        else:
            progress.call = self.source.interrupted(position.call, position.sample)
        return number, offset

    def _train_epochs(self, callback_list: OneTrainingCallbacks, number: int, offset: int) -> None:
        progress = callback_list.progress
        self.model.stop_training = False
        while number < progress.call.end and not self.model.stop_training:
            epoch = self.source.epoch(number, offset)
            dataset = self.source.dataset(epoch, offset)
            batches = int(dataset.cardinality())
            if self.several_machines:
                batches = self.source.steps(epoch, offset)
            progress.begin(epoch, offset, batches)
            if batches:
                callback_list.set_params(
                    {**callback_list.params, "epochs": progress.call.end, "steps": batches}
                )
                self._fit(callback_list, epoch, dataset, batches)
            else:  # a small epoch may lack samples for some worker, so that there is no step
                progress.end()
            number, offset = self.source.after(epoch)

    def _fit(
        self, callback_list: OneTrainingCallbacks, epoch: Any, dataset: Any, batches: int
    ) -> None:
        spread, arguments = dataset, self._validation(epoch)
        if self.several_machines:
            size = self.source.datasets.share.batch_size
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
                callbacks=callback_list,
                verbose=self.verbose,
                shuffle=False,
                **self.arguments,
                **arguments,
            )

    def _validation(self, epoch: Any) -> dict[str, Any]:
        if self.validation_run is None:
            return {}
        newest = self.source.validation(self.validation_run, epoch)
        return {"validation_data": self.source.datasets.validation(newest)}
