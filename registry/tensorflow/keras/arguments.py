"""Checks of the arguments of `fit`."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping
from typing import Any, SupportsIndex

import keras

from registry.errors import FreshModelWarning, TrainingError
from registry.training.mix import Mix
from registry.training.run import Run

# Arguments of ``model.fit`` that `fit` does not take: why, or what to pass instead.
_REFUSED = {
    "shuffle": "the order follows from the run's seed",
    "validation_split": "the dataset has splits: pass validation_run=, a run on another split",
    "sample_weight": "pass weight=, the name of a feature or a dict of them by output",
}


def check_arguments(model: Any, run: Any, arguments: Mapping[str, Any]) -> None:
    """Raise `TrainingError` for a model, a run or arguments that `fit` cannot train with.

    ``arguments`` are those for ``model.fit``, ``steps_per_epoch`` and ``validation_run``.
    """
    if not isinstance(run, Run | Mix):
        raise TrainingError(
            f"fit trains on a run, reg.open(…).run(…), or on a mix, registry.mix(…), not on "
            f"{type(run).__name__}; to train on an EpochDataset or a StreamDataset, pass it to "
            "model.fit"
        )
    if not getattr(model, "compiled", False):
        raise TrainingError(
            f"the model {getattr(model, 'name', model)!r} is not compiled; call "
            "model.compile(optimizer, loss) before fit"
        )
    _check_steps(run, arguments["steps_per_epoch"])
    for name, reason in _REFUSED.items():
        if name in arguments:
            raise TrainingError(f"fit takes no {name}: {reason}")
    validation_run = arguments["validation_run"]
    if validation_run is not None and not isinstance(validation_run, Run):
        raise TrainingError(
            f"validation_run is a run, reg.open(…).run(…), not {type(validation_run).__name__}; "
            "pass other data as validation_data"
        )
    if validation_run is not None and "validation_data" in arguments:
        raise TrainingError("pass either validation_run or validation_data to fit, not both")


def _check_steps(run: Run | Mix, steps: Any) -> None:
    if isinstance(run, Run):
        if steps is not None:
            raise TrainingError(
                "fit takes no steps_per_epoch: an epoch of the run is trained on as a whole; to "
                "train a number of steps, use model.fit(StreamDataset(run, …), steps_per_epoch=…, "
                "callbacks=[Consumption(run, …)])"
            )
    elif steps is None:
        raise TrainingError(
            "a mix has no epochs itself: pass steps_per_epoch=, how many steps callbacks and "
            "validation take for an epoch; a step is a batch of each worker"
        )
    elif not isinstance(steps, SupportsIndex) or operator.index(steps) < 1:
        raise TrainingError(f"steps_per_epoch={steps!r:.200} is no whole number above 0")


def warn_if_fresh(model: Any, run: Run | Mix, sample: int) -> None:
    """Issue `FreshModelWarning` if a run continues after its start with an untrained model.

    ``sample`` is the number of the run's samples that were trained on before. A model is untrained
    if none of its optimizers has made a step.
    """
    optimizers = [
        each
        for each in (model.optimizer, *vars(model).values())  # a model may have several
        if isinstance(each, keras.optimizers.Optimizer)
    ]
    holder = f"run {run.name!r}" if isinstance(run, Run) else repr(run)
    if sample and optimizers and not any(map(_steps, optimizers)):
        warnings.warn(
            f"{holder} continues at sample {sample}, but the model's optimizer has made no "
            "step: load the weights that were trained on the samples before "
            "(keras.models.load_model, or BackupAndRestore among the callbacks), or pass "
            "initial_epoch=0 to train on the run's epochs from the first",
            FreshModelWarning,
            stacklevel=4,
        )


def _steps(optimizer: Any) -> int:
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    # The first variable, since `iterations` counts only updates under gradient accumulation. It is
    # converted first: under tf.distribute, int() fails for a variable with a copy on each device.
    first = optimizer.variables[:1]  # none before the optimizer is built
    return sum(int(keras.ops.convert_to_tensor(variable)) for variable in first)
