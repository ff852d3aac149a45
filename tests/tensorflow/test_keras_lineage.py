"""What `Lineage` writes into TensorBoard and into MLflow, both real."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf

from registry import Dataset, Run
from registry.errors import TrainingError
from registry.keras import Lineage, fit
from registry.tensorflow import EpochDataset
from tests.support.models import BatchCounter, Crash, Stop, grow, model

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
OPTIONS: dict[str, Any] = {"batch_size": 10, "x": "x", "y": "y", "verbose": 0}


class Folder(keras.callbacks.TensorBoard):  # type: ignore[misc]  # Keras ships no types
    """Keras's own, without what it writes itself, which takes the package tensorboard."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        pass

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        pass


def summaries(folder: Path) -> dict[str, dict[int, Any]]:
    """Return what was written for TensorBoard, by name and step."""
    values: dict[str, dict[int, Any]] = defaultdict(dict)
    for path in sorted(folder.glob("*.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                plain = tf.make_ndarray(value.tensor).tolist()
                is_text = value.metadata.plugin_data.plugin_name == "text"
                values[value.tag][event.step] = plain[0].decode() if is_text else plain
    return values


def expected(run: Run, numbers: range) -> dict[str, dict[int, Any]]:
    """Return the same of a run's epochs."""
    made_of = {number: run.lineage(number) for number in numbers}
    return {
        "registry/run": dict.fromkeys(numbers, run.name),
        "registry/dataset": dict.fromkeys(numbers, "growing"),
        "registry/version": {n: str(each.version) for n, each in made_of.items()},
        "registry/position": {n: each.version.watermark for n, each in made_of.items()},
        "registry/schema": dict.fromkeys(numbers, 0),
        "registry/size": {n: each.size for n, each in made_of.items()},
    }


def test_every_epoch_is_noted_in_tensorboard_and_mlflow_also_after_a_crash(
    growing: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_ENABLE_TELEMETRY", "false")
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(f"file://{tmp_path / 'mlruns'}")
    run = growing.run("cnn-1", seed=7)

    def train(*more: Any) -> None:
        callbacks = [
            Lineage(),
            Folder(tmp_path / "logs", write_graph=False),
            keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=7),
            BatchCounter(lambda: grow(growing, 20)),
            *more,
        ]
        fit(model(), run, epochs=3, callbacks=callbacks, **OPTIONS)

    with mlflow.start_run() as started:
        with pytest.raises(Crash):
            train(Stop(Crash, after=15))
        train()
    noted = expected(run, range(3))
    assert [*noted["registry/size"].values()] == [100, 120, 140]
    assert summaries(tmp_path / "logs" / "registry") == noted
    stored = mlflow.get_run(started.info.run_id).data
    assert stored.params == {"registry.run": "cnn-1", "registry.dataset": "growing"}
    versions = noted["registry/version"]
    tags = {name: text for name, text in stored.tags.items() if name.startswith("registry")}
    assert tags == {
        "registry.version": versions[2],
        **{f"registry.version.{number}": text for number, text in versions.items()},
    }
    client = mlflow.MlflowClient()
    for name in ("position", "schema", "size"):
        history = client.get_metric_history(started.info.run_id, f"registry.{name}")
        assert {each.step: each.value for each in history} == noted[f"registry/{name}"]


def test_mlflow_gets_nothing_without_an_active_run(growing: Dataset, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    assert mlflow.active_run() is None
    run = growing.run("r")
    fit(model(), run, callbacks=[Lineage(tmp_path / "mine")], **OPTIONS)
    assert mlflow.active_run() is None
    assert summaries(tmp_path / "mine" / "registry") == expected(run, range(1))


def test_a_lineage_that_would_write_nothing_is_refused(
    growing: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    run = growing.run("r")
    with pytest.raises(TrainingError, match="Lineage would write nothing: give it log_dir="):
        fit(model(), run, callbacks=[Lineage()], **OPTIONS)
    assert run.consumed == 0
    data = EpochDataset(run.epoch(0), batch_size=10, x="x", y="y")
    with pytest.raises(TrainingError, match=r"Lineage is for registry\.keras\.fit"):
        model().fit(data, callbacks=[Lineage(tmp_path)], shuffle=False, verbose=0)
