"""Keras trains on streams, and `Consumption` records how far."""

from __future__ import annotations

import threading
from itertools import islice
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from registry import Dataset, Registry
from registry.keras import Consumption
from registry.tensorflow import StreamDataset
from tests.support.models import FEATURES, Crash, Stop, grow, serial_recorder, serials_of

# Keras's own, where it saves a variable.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_a_stream_under_fit_neither_loses_nor_repeats_a_sample(reg: Registry) -> None:
    dataset = reg.create("growing", FEATURES)
    grow(dataset, 160)
    run, serials = dataset.run("r", policy="new"), list[int]()
    stream = StreamDataset(run, batch_size=10, x=["x", "serial"], y="y")
    # Under a strategy, Keras builds the model with a batch that it then discards.
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        trained = serial_recorder(serials, run_eagerly=False)
    options: dict[str, Any] = {"steps_per_epoch": 4, "shuffle": False, "verbose": 0}
    options["callbacks"] = [Consumption(run, 10)]
    trained.fit(stream, epochs=3, **options)
    assert run.consumed == len(serials) == 120
    trained.fit(stream, epochs=1, **options)
    batches = islice(run.stream(10, start=0), 16)
    assert serials == [serial for batch in batches for serial in batch["serial"].tolist()]
    assert sorted(serials) == list(range(160))


@pytest.mark.parametrize("before", [True, False], ids=["Consumption first", "backup first"])
@pytest.mark.parametrize("per_execution", [1, 2])
def test_a_stream_continues_with_the_backup_in_either_order_of_callbacks(
    growing: Dataset, tmp_path: Path, before: bool, per_execution: int
) -> None:
    run, serials = growing.run("r"), list[int]()
    stream = StreamDataset(run, batch_size=10, x=["x", "serial"], y="y")

    def fit_stream(*more: Any) -> None:
        trained = serial_recorder(serials, steps=2, steps_per_execution=per_execution)
        trained({"x": np.ones((1, 4)), "serial": np.ones(1)})
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", 2)
        both = [Consumption(run, 10), backup] if before else [backup, Consumption(run, 10)]
        options = {"steps_per_epoch": 6, "shuffle": False, "verbose": 0}
        trained.fit(stream, epochs=2, callbacks=[*both, *more], **options)

    with pytest.raises(Crash):
        fit_stream(Stop(Crash, after=4 // per_execution))
    assert len(serials) == 40
    fit_stream()
    assert serials == serials_of(run, *range(9))[: len(serials)]
    assert run.consumed == len(serials)


def test_ctrl_c_in_a_stream_is_recorded_within_a_second(growing: Dataset) -> None:
    run, serials = growing.run("r"), list[int]()
    stream = StreamDataset(run, batch_size=10, x=["x", "serial"], y="y")
    callbacks = [Consumption(run, 10), Stop(KeyboardInterrupt, after=13)]
    with pytest.raises(KeyboardInterrupt):
        serial_recorder(serials).fit(
            stream, steps_per_epoch=50, shuffle=False, verbose=0, callbacks=callbacks
        )
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(10)
    assert run.consumed == len(serials) == 130
