"""Datasets, Keras models and callbacks for tests of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from registry import Dataset, Tensor
from registry.samples.features import Feature
from registry.training.run import Run

FEATURES: dict[str, Feature] = {
    "x": Tensor("float32", (4,)),
    "y": Tensor("float32"),
    "serial": Tensor("int64"),
}
"""Samples to fit a line to; ``serial`` counts them."""


def grow(dataset: Dataset, count: int) -> None:
    """Insert samples of `FEATURES` that follow from their serial numbers."""
    serials = np.arange(dataset.head.position, dataset.head.position + count)
    x = np.sin(np.outer(serials + 1, [1.0, 2.0, 3.0, 5.0])).astype(np.float32)
    dataset.insert({"x": x, "y": x.sum(axis=1), "serial": serials})


def serials_of(run: Run, *epochs: int) -> list[int]:
    """Return the serial numbers of epochs in the order that they are trained on."""
    batches = (batch for number in epochs for batch in run.epoch(number).batches(10))
    return [serial for batch in batches for serial in batch["serial"].tolist()]


def model(learning_rate: float = 0.01, *, ema: bool = False) -> Any:
    """Make a small compiled model, the same one each time."""
    keras.utils.set_random_seed(1)
    sequential = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(1),
        ]
    )
    optimizer = keras.optimizers.Adam(learning_rate, use_ema=ema)
    sequential.compile(optimizer, "mse", jit_compile=False)
    return sequential


def weights(trained: Any) -> list[Any]:
    """Return a model's and its optimizer's variables."""
    return [*trained.get_weights(), *(variable.numpy() for variable in trained.optimizer.variables)]


class SerialRecorder(keras.Model):  # type: ignore[misc]  # Keras ships no types
    """A model that notes the serial numbers of the samples that it is trained on.

    It makes ``steps`` optimizer steps with each batch.
    """

    def __init__(self, serials: list[int], steps: int) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1)
        # Not the list itself: Keras would replace it by a copy that it tracks.
        self._note = serials.extend
        self._steps = steps

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs["x"])

    def train_step(self, data: Any) -> Any:
        tf.py_function(
            lambda serials: self._note(serials.numpy().tolist()), [data[0]["serial"]], []
        )
        for _ in range(self._steps):
            logs = super().train_step(data)
        return logs


def serial_recorder(
    serials: list[int],
    *,
    steps: int = 1,
    gradient_accumulation_steps: int | None = None,
    run_eagerly: bool = True,
    **options: Any,
) -> Any:
    """Make a compiled `SerialRecorder`, the same one each time."""
    keras.utils.set_random_seed(1)
    recorder = SerialRecorder(serials, steps)
    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=gradient_accumulation_steps)
    recorder.compile(optimizer, "mse", jit_compile=False, run_eagerly=run_eagerly, **options)
    return recorder


class Crash(Exception):  # noqa: N818
    """Ends a training as a crash would: nothing is done about it."""


class Stop(keras.callbacks.Callback):  # type: ignore[misc]
    """Raises an error at the end of execution number ``after`` of batches."""

    def __init__(self, error: type[BaseException], *, after: int) -> None:
        super().__init__()
        self.error, self.left = error, after

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.left -= 1
        if not self.left:
            raise self.error


class BatchCounter(keras.callbacks.Callback):  # type: ignore[misc]
    """Counts the batches trained in each epoch, and calls a function at its end.

    It also notes the loss of each batch, and of each training until which epoch it goes.
    """

    def __init__(self, after_epoch: Callable[[], None]) -> None:
        super().__init__()
        self.after_epoch = after_epoch
        self.trained: list[int] = []
        self.losses: list[float] = []
        self.trainings: list[int] = []

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        self.trainings.append(self.params["epochs"])

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.trained.append(0)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.trained[-1] += 1
        self.losses.append(logs["loss"])

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.after_epoch()
