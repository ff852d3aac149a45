"""Noting in TensorBoard and MLflow what each epoch was trained on."""

from __future__ import annotations

import sys
from typing import Any

import keras
import tensorflow as tf

from registry.errors import TrainingError
from registry.storage.log.version import Version
from registry.tensorflow.keras.base_classes import Callback
from registry.training.epoch import Epoch
from registry.training.mix import Mix
from registry.training.run import Run

_FOLDER = "registry"
"""Folder in TensorBoard's, which shows it as a run of this name."""


class Lineage(Callback):
    """Writes what each epoch is trained on into TensorBoard, and into MLflow if a run is active.

    For `fit`: ``fit(model, run, …, callbacks=[TensorBoard("logs"), Lineage()])``. ``log_dir`` is
    TensorBoard's folder; None takes that of a `keras.callbacks.TensorBoard` among the callbacks.

    When an epoch begins, the run, the dataset's version and the number of its schema are written as
    texts, and the version's position, the schema and the number of samples as scalars, each at the
    step of the epoch's number. In MLflow, the run and the dataset are parameters,
    ``registry.version`` and ``registry.version.<epoch>`` are tags, and the numbers are metrics.

    Raises `TrainingError` where nothing could be written: in plain ``model.fit``, on a mix, and
    without a folder if MLflow is not imported.
    """

    def __init__(self, log_dir: Any = None) -> None:
        super().__init__()
        self._log_dir = log_dir
        self._run: Run | None = None
        self._writer: Any = None

    def attach(self, run: Run | Mix, callbacks: list[Any]) -> None:
        """Begin a training on a run; ``callbacks`` are all of its callbacks."""
        if isinstance(run, Mix):
            raise TrainingError(
                "Lineage writes what an epoch of a run held, and a mix goes through the epochs of "
                "several runs at once: `registry epoch DATASET RUN NUMBER` prints what one held"
            )
        self._run = run
        folders = (
            [self._log_dir]
            if self._log_dir is not None
            else [
                each.log_dir for each in callbacks if isinstance(each, keras.callbacks.TensorBoard)
            ]
        )
        if folders:
            folder = tf.io.gfile.join(str(folders[0]), _FOLDER)
            self._writer = tf.summary.create_file_writer(folder)
        elif "mlflow" not in sys.modules:
            raise TrainingError(
                "Lineage would write nothing: give it log_dir=, add keras.callbacks.TensorBoard to "
                "the callbacks, or import mlflow and start a run"
            )

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        if self._run is None:
            raise TrainingError(
                "Lineage is for registry.keras.fit, which trains on whole epochs of a run; "
                "model.fit does not say which epochs its data is of"
            )

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002
        if self._writer is not None:
            self._writer.close()
        self._run = self._writer = None

    def write(self, epoch: Epoch) -> None:
        """Write what an epoch, which begins now, is trained on."""
        run = self._run
        assert run is not None
        version = str(Version(run.dataset, epoch.watermark, epoch.chain.hex()))
        names = {"run": run.name, "dataset": run.dataset}
        numbers = {
            "position": epoch.watermark,
            "schema": epoch.schema.number,
            "size": epoch.size,
        }
        if self._writer is not None:
            self._write_summaries({**names, "version": version}, numbers, epoch.number)
        # Not imported here: it takes seconds, and only its users have a run that is active.
        mlflow = sys.modules.get("mlflow")
        if mlflow is not None and mlflow.active_run() is not None:
            _log(mlflow, names, version, numbers, epoch.number)

    def _write_summaries(self, texts: dict[str, str], numbers: dict[str, int], number: int) -> None:
        # Also where another callback has switched summaries off between its own steps.
        with tf.summary.record_if(True), self._writer.as_default():
            for name, text in texts.items():
                tf.summary.write(f"registry/{name}", [text], number, _metadata("text"))
            for name, value in numbers.items():
                scalar = tf.constant(value, tf.float32)
                tf.summary.write(f"registry/{name}", scalar, number, _metadata("scalars"))
        # A training that is killed must leave what it was trained on.
        self._writer.flush()


def _metadata(plugin: str) -> Any:
    """Return the metadata by which TensorBoard knows how to show a value."""
    # Not `tf.summary.scalar`, which needs the package tensorboard to write its files.
    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = plugin
    return metadata


def _log(
    mlflow: Any, names: dict[str, str], version: str, numbers: dict[str, int], number: int
) -> None:
    # The same values again, as after a restart, are no error; other values of a parameter are.
    mlflow.log_params({f"registry.{name}": text for name, text in names.items()})
    mlflow.set_tags({"registry.version": version, f"registry.version.{number}": version})
    metrics = {f"registry.{name}": float(value) for name, value in numbers.items()}
    mlflow.log_metrics(metrics, step=number)
