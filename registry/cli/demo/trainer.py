"""The demo's trainer: Keras on a growing dataset, with a measurement after each epoch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf
from rich.console import Console

from registry.catalog.dataset import Dataset
from registry.cli.demo.labeler import POLL_SECONDS, training_run
from registry.cli.demo.measurement import Measurement
from registry.tensorflow.datasets import StreamDataset
from registry.training.epoch import Epoch
from registry.training.run import Run

BATCH_SIZE = 32
STEPS_PER_EPOCH = 50
"""Batches in one Keras epoch."""


def warm_up() -> None:
    """Make TensorFlow print its messages about devices and generators now, into the log file."""
    signature = tf.TensorSpec((), tf.int32)
    for _ in tf.data.Dataset.from_generator(lambda: iter([0]), output_signature=signature):
        pass


def train(console: Console, digits: Dataset, is_labeling: Callable[[], bool]) -> list[Measurement]:
    """Train until labeling has ended and the model was trained on all of its samples."""
    run = training_run(digits)
    callback = _ProgressCallback(console, digits, run, is_labeling)
    model = _model()
    model.fit(
        StreamDataset(run, batch_size=BATCH_SIZE, x="image", y="label"),
        steps_per_epoch=STEPS_PER_EPOCH,
        epochs=1000,  # an upper limit: the callback ends the training
        shuffle=False,  # the run determines the order
        verbose=0,
        callbacks=[callback],
    )
    return callback.measurements


def _model() -> Any:
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [
            keras.layers.Rescaling(1 / 16),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    return model


@dataclass
class _ProgressCallback(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """Measures after each Keras epoch, prints a line, and waits for the dataset to grow."""

    console: Console
    digits: Dataset
    run: Run
    is_labeling: Callable[[], bool]
    measurements: list[Measurement] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._epoch: Epoch | None = None
        self._reported = 0
        head = "{:>5}  {:>7}  {:>5}  {:>7}  {:>8}".format(
            "epoch", "samples", "new", "revised", "accuracy"
        )
        self.console.print(head, style="bold")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        consumed = (epoch + 1) * STEPS_PER_EPOCH * BATCH_SIZE
        self.run.record_at_least(consumed)
        reached = self._reach(consumed)
        # Epoch 0 stays as it was pinned: every measurement is on the same samples.
        test = self.digits.run("demo-test", split="test").epoch(0)
        batch = next(test.batches(test.size))
        _, accuracy = self.model.evaluate(batch["image"], batch["label"], verbose=0)
        actions = Counter(
            entry.action
            for entry in self.digits.entries(self._reported, reached.watermark)
            if self.digits.split_of(entry.key) == self.run.split
        )
        self._reported = reached.watermark
        self.measurements.append(Measurement(reached.size, actions["revise"], accuracy))
        self.console.print(
            f"{epoch:>5}  {reached.size:>7}  {actions['insert']:>5}  {actions['revise']:>7}"
            f"  {accuracy:>8.1%}"
        )
        self._wait_for_more(reached.watermark)

    def _reach(self, consumed: int) -> Epoch:
        """Return the epoch of the run to which the sample number ``consumed`` belongs."""
        epoch = self._epoch or self.run.epoch(0)
        # More than one step: an epoch of the run may be shorter than one of Keras.
        while epoch.start + epoch.size < consumed:
            epoch = self.run.epoch(epoch.number + 1)
        self._epoch = epoch
        return epoch

    def _wait_for_more(self, watermark: int) -> None:
        """Wait for a commit past ``watermark``, or stop the training after the last one."""
        while self.digits.head.position == watermark:
            if not self.is_labeling():
                # Read the head again: the labeler may have committed between the two checks.
                self.model.stop_training = self.digits.head.position == watermark
                return
            time.sleep(POLL_SECONDS)
