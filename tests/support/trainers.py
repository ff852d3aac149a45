"""Models to train in tests, and a trainer that runs as a process of its own."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

import registry
from registry import Dataset
from registry.keras import Consumption, fit
from registry.tensorflow import StreamDataset


def grow(dataset: Dataset, count: int) -> None:
    """Insert samples that follow from their serial numbers."""
    serials = np.arange(dataset.head.position, dataset.head.position + count)
    x = np.sin(np.outer(serials + 1, [1.0, 2.0, 3.0, 5.0])).astype(np.float32)
    dataset.insert({"x": x, "y": x.sum(axis=1), "serial": serials})


def model(learning_rate: float = 0.01, *, ema: bool = False) -> Any:
    """Make a small compiled model, the same one each time."""
    keras.utils.set_random_seed(1)
    made = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(1),
        ]
    )
    made.compile(keras.optimizers.Adam(learning_rate, use_ema=ema), "mse", jit_compile=False)
    return made


def weights(trained: Any) -> list[Any]:
    """Return a model's and its optimizer's variables."""
    return [*trained.get_weights(), *(variable.numpy() for variable in trained.optimizer.variables)]


class Batches(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """Counts the batches trained in each epoch, and calls a function at its end."""

    def __init__(self, after_epoch: Callable[[], None]) -> None:
        super().__init__()
        self.after_epoch = after_epoch
        self.trained: list[int] = []
        self.trainings = 0

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        self.trainings += 1

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.trained.append(0)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.trained[-1] += 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.after_epoch()


class _Seen(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells the outside that training has begun, and slows it down, to be killed in the middle."""

    def __init__(self, path: Path, pause: float) -> None:
        super().__init__()
        self._path = path
        self._pause = pause

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._path.touch()
        time.sleep(self._pause)


def _mend(folder: Path) -> None:
    """Have a backup that a kill tore give way to the one before it, if there is one.

    Keras writes them in place, and by itself goes back from torn weights only, not from a first
    backup or a torn note of the epoch.
    """
    names = ("latest.weights.h5", "training_metadata.json")
    try:
        with h5py.File(folder / names[0]):
            json.loads((folder / names[1]).read_text())
    except (OSError, ValueError):
        if all((folder / f"{name}.bkp").exists() for name in names):
            for name in names:
                shutil.copy(folder / f"{name}.bkp", folder / name)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def train(arguments: dict[str, Any]) -> None:
    """Train for so many batches of 10; go on from a backup if there is one.

    The way "fit" backs up every 7 batches, "stream" after each Keras epoch of 5.
    """
    folder = Path(arguments["folder"])
    _mend(folder / "backup")
    frequency = 7 if arguments["way"] == "fit" else "epoch"
    backup = keras.callbacks.BackupAndRestore(folder / "backup", frequency, double_checkpoint=True)
    callbacks = [backup, _Seen(folder / "seen", arguments["pause"])]
    trained = model()
    with registry.connect(arguments["url"]) as reg:
        run = reg.open("growing").run(arguments["run"], seed=7)
        batches = arguments["batches"]
        if arguments["way"] == "fit":
            options: dict[str, Any] = {"batch_size": 10, "x": "x", "y": "y", "verbose": 0}
            fit(trained, run, epochs=batches * 10 // 500, callbacks=callbacks, **options)
        else:
            stream = StreamDataset(run, batch_size=10, x="x", y="y")
            callbacks.append(Consumption(run, 10))
            options = {"steps_per_epoch": 5, "shuffle": False, "verbose": 0}
            trained.fit(stream, epochs=batches // 5, callbacks=callbacks, **options)
    np.savez(folder / "weights.npz", *weights(trained))
