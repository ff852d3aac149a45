"""Checks of the arguments of `fit`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import keras

from registry.errors import FreshModelWarning, TrainingError
from registry.training.run import Run

# Arguments of ``model.fit`` that `fit` does not take: why, or what to pass instead.
_REFUSED = {
    "steps_per_epoch": "an epoch of the run is trained on as a whole; to train a number of steps, "
    "use model.fit(StreamDataset(run, …), steps_per_epoch=…, callbacks=[Consumption(run, …)])",
    "shuffle": "the order follows from the run's seed",
    "validation_split": "the dataset has splits: pass validation_run=, a run on another split",
    "sample_weight": "pass weight=, the name of a feature or a dict of them by output",
}


def check_arguments(model: Any, run: Any, arguments: Mapping[str, Any]) -> None:
    """Raise `TrainingError` for a model, a run or arguments that `fit` cannot train with.

    ``arguments`` are those for ``model.fit``, and ``validation_run``.
    """
    if not isinstance(run, Run):
        raise TrainingError(
            f"fit trains on a run, reg.open(…).run(…), not on {type(run).__name__}; to train on an "
            "EpochDataset or a StreamDataset, pass it to model.fit"
        )
    if not getattr(model, "compiled", False):
        raise TrainingError(
            f"the model {getattr(model, 'name', model)!r} is not compiled; call "
            "model.compile(optimizer, loss) before fit"
        )
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


def warn_if_fresh(model: Any, run: Run, sample: int) -> None:
    """Issue `FreshModelWarning` if a run continues after its start with an untrained model.

    ``sample`` is the number of the run's samples that were trained on before. A model is untrained
    if none of its optimizers has made a step.
    """
    optimizers = [
        each
        for each in (model.optimizer, *vars(model).values())  # a model may have several
        if isinstance(each, keras.optimizers.Optimizer)
    ]
    if sample and optimizers and not any(map(_steps, optimizers)):
        warnings.warn(
            f"run {run.name!r} continues at sample {sample}, but the model's optimizer has made no "
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
