"""A trainer that runs as a separate process, to be killed."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

import registry
from registry.keras import Consumption, fit
from registry.tensorflow import StreamDataset
from tests.support.models import model, weights
from tests.support.processes import set_environment


def train(arguments: dict[str, Any], environment: dict[str, str]) -> None:
    """Train for ``batches`` batches of 10; continue from a backup if there is one.

    With "fit", it backs up every 7 batches; with "stream", after each Keras epoch of 5.
    """
    set_environment(environment)
    folder = Path(arguments["folder"])
    _repair(folder / "backup")
    frequency = 7 if arguments["way"] == "fit" else "epoch"
    backup = keras.callbacks.BackupAndRestore(folder / "backup", frequency, double_checkpoint=True)
    callbacks = [backup, _Signal(folder / "trained", arguments["pause"])]
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


class _Signal(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """Creates a file when training has begun, and slows it down, to be killed in the middle."""

    def __init__(self, path: Path, pause: float) -> None:
        super().__init__()
        self._path = path
        self._pause = pause

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._path.touch()
        time.sleep(self._pause)


def _repair(folder: Path) -> None:
    """Replace a backup that was torn by a kill with the one before it, if there is one.

    Keras writes the weights in place, and then a note of their epoch. It can recover from torn
    weights, but not from a torn first backup or a torn note, and it does not notice that the note
    is older than the weights: it would train on one epoch too many.
    """
    weights, note = (folder / name for name in ("latest.weights.h5", "training_metadata.json"))
    try:
        with h5py.File(weights):
            json.loads(note.read_text())
        if weights.stat().st_mtime_ns <= note.stat().st_mtime_ns:
            return
    except (OSError, ValueError):
        pass
    if all(file.with_name(f"{file.name}.bkp").exists() for file in (weights, note)):
        for file in (weights, note):
            shutil.copy(file.with_name(f"{file.name}.bkp"), file)
    else:
        shutil.rmtree(folder, ignore_errors=True)
