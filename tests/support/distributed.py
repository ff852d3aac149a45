"""Processes that train under a strategy of tf.distribute, and print what they found as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import registry
from registry.keras import Consumption, fit
from registry.tensorflow import StreamDataset
from registry.training.run import Run


class Crash(Exception):  # noqa: N818
    """Ends a training as a crash would."""


class CrashAfter(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """Crashes after so many batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.left -= 1
        if not self.left:
            raise Crash


def spy(strategy: tf.distribute.Strategy, seen: list[int]) -> Any:
    """Make a compiled model that notes what it is trained on, on any device."""

    class Spy(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, inputs: Any) -> Any:
            return self.dense(inputs["x"])

        def train_step(self, data: Any) -> Any:
            tf.py_function(lambda s: seen.extend(s.numpy().tolist()), [data[0]["serial"]], [])
            return super().train_step(data)

    keras.utils.set_random_seed(1)
    with strategy.scope():
        made = Spy()
        made.compile("adam", "mse", jit_compile=False)
    return made


def train(
    strategy: tf.distribute.Strategy, run: Run, folder: str, trained_by_backup: int, **options: Any
) -> Any:
    """Train two epochs, with a crash after six batches, of which a backup holds five."""
    seen: list[int] = []
    options |= {"epochs": 2, "x": ["x", "serial"], "y": "y", "verbose": 0}
    for crash in ([CrashAfter(6)], []):
        backup = keras.callbacks.BackupAndRestore(folder, 5)
        trained = spy(strategy, seen)
        try:
            history = fit(trained, run, callbacks=[backup, *crash], **options)
        except Crash:
            del seen[trained_by_backup:]
    return trained, history, seen


def mirrored(url: str, folder: str) -> dict[str, Any]:
    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    run = registry.connect(url).open("growing").run("r")
    trained, _, seen = train(strategy, run, folder, 33, batch_size=8)
    consumed = run.consumed
    stream = StreamDataset(run, batch_size=10, x=["x", "serial"], y="y")
    options = {"steps_per_epoch": 2, "shuffle": False, "verbose": 0}
    trained.fit(stream, callbacks=[Consumption(run, 10)], **options)
    finite = all(np.isfinite(each).all() for each in trained.get_weights())
    return {
        "seen": seen[:66],
        "consumed": consumed,
        "streamed": run.consumed,
        "finite": bool(finite),
    }


def workers(url: str, folder: str) -> dict[str, Any]:
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    reg = registry.connect(url)
    run, test = (reg.open("growing").run(name) for name in ("r", "v"))
    trained, history, seen = train(strategy, run, folder, 20, batch_size=4, validation_run=test)
    return {
        "seen": seen,
        "consumed": run.consumed,
        "weights": [each.tolist() for each in trained.get_weights()],
        "val_loss": history.history["val_loss"],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])) + "\n")
