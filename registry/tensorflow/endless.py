"""Detecting that Keras is about to train an epoch on a dataset that has no end."""

from __future__ import annotations

import inspect

from registry.errors import TrainingError


def refuse_endless_epoch() -> None:
    """Raise `TrainingError` if Keras is the caller and was given no number of steps.

    It would train one epoch without end. Keras does not pass the number to a dataset. It is only an
    attribute of Keras's `EpochIterator`, which this finds on the stack.
    """
    # If another version of Keras moves the module, nothing is raised, and the epoch is endless.
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "keras.src.trainers.epoch_iterator":
            asking = frame.f_locals.get("self")
            if asking is not None and asking.steps_per_epoch is None:
                raise TrainingError(
                    "a StreamDataset has no end: pass steps_per_epoch to model.fit (steps to "
                    "model.evaluate or predict), or train on whole epochs of the run by "
                    "registry.keras.fit(model, run, …)"
                )
            return
        frame = frame.f_back
