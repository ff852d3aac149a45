"""The demo's trainer: Keras on a dataset that grows, a line and a measurement per epoch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from rich.console import Console

from registry.catalog.dataset import Dataset
from registry.tensorflow.datasets import StreamDataset
from registry.training.epoch import Epoch
from registry.training.run import Run

BATCH = 32
STEPS = 50
"""Batches in one Keras epoch."""
POLL = 0.05
"""Seconds between two looks at whether the labeler has made something."""


@dataclass(frozen=True)
class Measurement:
    """After an epoch: how many samples the model learns from, and its accuracy on the others."""

    samples: int
    accuracy: float


def warm_up() -> None:
    """Have TensorFlow say now what it has to say about its devices and generators."""
    signature = tf.TensorSpec((), tf.int32)
    for _ in tf.data.Dataset.from_generator(lambda: iter([0]), output_signature=signature):
        pass


def train(console: Console, digits: Dataset, labeling: Callable[[], bool]) -> list[Measurement]:
    """Train until labeling has ended and all it made was trained on."""
    run = digits.run("demo", seed=7, split="train")
    watch = _Watch(console, digits, run, labeling)
    model = _model()
    model.fit(
        StreamDataset(run, batch_size=BATCH, x="image", y="label"),
        steps_per_epoch=STEPS,
        epochs=1000,
        shuffle=False,
        verbose=0,
        callbacks=[watch],
    )
    return watch.measured


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
class _Watch(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """Prints and measures after each Keras epoch, then lets the dataset grow before the next."""

    console: Console
    digits: Dataset
    run: Run
    labeling: Callable[[], bool]
    measured: list[Measurement] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._epoch: Epoch | None = None
        self._reported = 0
        head = "{:>5}  {:>7}  {:>5}  {:>7}  {:>8}".format(
            "epoch", "samples", "new", "revised", "accuracy"
        )
        self.console.print(head, style="bold")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        reached = self._reach((epoch + 1) * STEPS * BATCH)
        test = self.digits.run("demo-test", split="test").epoch(0)
        batch = next(test.batches(test.size))
        _, accuracy = self.model.evaluate(batch["image"], batch["label"], verbose=0)
        actions = Counter(
            entry.action
            for entry in self.digits.entries(self._reported, reached.watermark)
            if self.digits.split_of(entry.key) == self.run.split
        )
        self._reported = reached.watermark
        self.measured.append(Measurement(reached.size, accuracy))
        self.console.print(
            f"{epoch:>5}  {reached.size:>7}  {actions['insert']:>5}  {actions['revise']:>7}"
            f"  {accuracy:>8.1%}"
        )
        self._wait_for_more(reached.watermark)

    def _reach(self, consumed: int) -> Epoch:
        """Return the run's epoch that the last sample trained on belongs to."""
        epoch = self._epoch or self.run.epoch(0)
        while epoch.start + epoch.size < consumed:
            epoch = self.run.epoch(epoch.number + 1)
        self._epoch = epoch
        return epoch

    def _wait_for_more(self, watermark: int) -> None:
        """Give the labeler its time; end when it has ended and the model has seen it all."""
        while self.digits.head.position == watermark:
            if not self.labeling():
                self.model.stop_training = self.digits.head.position == watermark
                return
            time.sleep(POLL)


def draw(measured: list[Measurement], path: Path) -> Path:
    """Draw accuracy against samples as a PNG."""
    from matplotlib import pyplot as plt  # noqa: PLC0415  # heavy, and needed at the end only

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot([m.samples for m in measured], [m.accuracy for m in measured], marker="o")
    axes.set(
        title="Accuracy while the dataset grows",
        xlabel="samples in the training split",
        ylabel="accuracy on the test split",
    )
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
