"""Keras's other backends: `fit` trains there, too, and continues after a crash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import keras, numpy as np, registry
from registry import ClassLabel, Tensor
from registry.errors import FreshModelWarning
from registry.keras import fit

dataset = registry.connect().create("samples", {"x": Tensor("float32", (4,)), "y": ClassLabel(3)})


def grow(count):
    rng = np.random.default_rng(count)
    x = rng.standard_normal((count, 4), np.float32)
    dataset.insert({"x": x, "y": x[:, :3].argmax(1)})


def model():
    keras.utils.set_random_seed(1)
    made = keras.Sequential([keras.layers.Dense(16, "relu"), keras.layers.Dense(3)])
    made.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return made


class Crash(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 4:
            raise OSError


grow(100)
run, validation = dataset.run("r"), dataset.run("v")
options = {"batch_size": 16, "x": "x", "y": "y", "verbose": 0}
trained = model()
history = fit(trained, run, epochs=2, validation_run=validation, **options)
assert history.history["loss"][1] < history.history["loss"][0]
assert len(history.history["val_loss"]) == 2
assert run.consumed == 200
grow(10)
backup = keras.callbacks.BackupAndRestore("backup", save_freq=2, double_checkpoint=True)
try:
    fit(trained, run, epochs=2, callbacks=[backup, Crash()], **options)
except OSError:
    pass
assert 200 < run.consumed < 310
history = fit(model(), run, epochs=2, callbacks=[backup], **options)
assert history.epoch == [2, 3]
assert run.consumed == 200 + 2 * 110
print(keras.backend.backend())
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_fit_trains_and_continues_under_another_backend(
    backend: str, sqlite_url: str, tmp_path: Path
) -> None:
    pytest.importorskip(backend, reason=f"needs {backend}, which `.ci/run` tests in a step")
    settings = {"KERAS_BACKEND": backend, "REGISTRY_URL": sqlite_url, "TF_CPP_MIN_LOG_LEVEL": "3"}
    # In a new process: Keras chooses its backend when it is imported.
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == backend
