"""What processes do that train under a strategy of tf.distribute."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import registry
from registry.keras import Consumption, fit
from registry.tensorflow import StreamDataset
from registry.training.run import Run
from tests.support.models import Crash, Stop, serial_recorder


def train(
    strategy: tf.distribute.Strategy, run: Run, folder: str, trained_by_backup: int, **options: Any
) -> Any:
    """Train two epochs, with a crash after six batches, of which a backup holds five."""
    serials: list[int] = []
    options |= {"epochs": 2, "x": ["x", "serial"], "y": "y", "verbose": 0}
    for crash in ([Stop(Crash, after=6)], []):
        backup = keras.callbacks.BackupAndRestore(folder, 5)
        with strategy.scope():
            trained = serial_recorder(serials, run_eagerly=False)
        try:
            history = fit(trained, run, callbacks=[backup, *crash], **options)
        except Crash:
            del serials[trained_by_backup:]
    return trained, history, serials


def mirrored(url: str, folder: str) -> dict[str, Any]:
    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    run = registry.connect(url).open("growing").run("r")
    trained, _, serials = train(strategy, run, folder, 33, batch_size=8)
    consumed = run.consumed
    stream = StreamDataset(run, batch_size=10, x=["x", "serial"], y="y")
    options = {"steps_per_epoch": 2, "shuffle": False, "verbose": 0}
    trained.fit(stream, callbacks=[Consumption(run, 10)], **options)
    finite = all(np.isfinite(each).all() for each in trained.get_weights())
    return {
        "serials": serials[:66],
        "consumed": consumed,
        "streamed": run.consumed,
        "finite": bool(finite),
    }


def worker(url: str, folder: str, config: str) -> dict[str, Any]:
    os.environ["TF_CONFIG"] = config
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    reg = registry.connect(url)
    run, test = (reg.open("growing").run(name) for name in ("r", "v"))
    trained, history, serials = train(strategy, run, folder, 20, batch_size=4, validation_run=test)
    return {
        "serials": serials,
        "consumed": run.consumed,
        "weights": [each.tolist() for each in trained.get_weights()],
        "val_loss": history.history["val_loss"],
    }
