"""Training Keras models on runs that grow."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from registry import Dataset, Registry, Replay, Tensor, Text
from registry.keras import fit
from tests.support.figures import rounds
from tests.support.models import FEATURES, BatchCounter, grow, model, weights
from tests.support.processes import tensorflow_context
from tests.support.trainers import train

# Keras's own, where it saves a variable.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def growing(reg: Registry) -> Dataset:
    """A dataset of 100 samples to fit a line to."""
    dataset = reg.create("growing", FEATURES)
    grow(dataset, 100)
    return dataset


def test_every_epoch_trains_on_all_samples_that_came_before_it(growing: Dataset) -> None:
    counts = BatchCounter(lambda: grow(growing, 100))
    run = growing.run("r")
    history = fit(model(), run, epochs=4, batch_size=10, x="x", y="y", callbacks=counts, verbose=0)
    assert counts.trained == [10, 20, 30, 40]
    assert history.epoch == [0, 1, 2, 3]
    assert run.consumed == 1000
    assert counts.trainings == [4], "one training of four epochs"
    assert len(counts.losses) == 100


def test_one_plain_fit_leaves_out_most_new_samples(growing: Dataset) -> None:
    counts = BatchCounter(lambda: grow(growing, 100))
    run = growing.run("r")

    def latest() -> Any:
        number = len(counts.trained) - 1
        return ((b["x"], b["y"]) for b in run.epoch(number).batches(10))

    spec = (tf.TensorSpec((None, 4), tf.float32), tf.TensorSpec((None,), tf.float32))
    dataset = tf.data.Dataset.from_generator(latest, output_signature=spec)
    with pytest.warns(UserWarning, match="ran out of data"):
        model().fit(dataset, epochs=4, callbacks=[counts], shuffle=False, verbose=0)
    assert counts.trained == [10, 11, 11, 11]


def test_fit_trains_as_a_loop_over_the_epochs_does(growing: Dataset) -> None:
    run = growing.run("r", policy=Replay(0.5))
    ours, loop = model(ema=True), model(ema=True)
    fit(
        ours,
        run,
        epochs=3,
        batch_size=32,
        x="x",
        y="y",
        callbacks=[BatchCounter(lambda: grow(growing, 50))],
        verbose=0,
    )
    for number in range(3):
        for batch in run.epoch(number).batches(32):
            loop.train_on_batch(batch["x"], batch["y"])
    loop.optimizer.finalize_variable_values(loop.trainable_weights)
    for one, other in zip(weights(ours), weights(loop), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_callbacks_and_validation_work_across_epochs(growing: Dataset, tmp_path: Path) -> None:
    samples = next(growing.run("v").epoch(0).batches(100))
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    history = fit(
        fitted := model(learning_rate=0.0),
        growing.run("r"),
        epochs=10,
        batch_size=10,
        x="x",
        y="y",
        validation_data=(samples["x"], samples["y"]),
        callbacks=[
            stopping,
            keras.callbacks.ModelCheckpoint(tmp_path / "models" / "{epoch}.keras"),
            BatchCounter(lambda: grow(growing, 10)),
        ],
        verbose=0,
    )
    # Nothing is learned at that rate: the first epoch is the best, two more are waited for.
    assert history.epoch == [0, 1, 2]
    assert len(history.history["val_loss"]) == len(history.history["loss"]) == 3
    assert stopping.stopped_epoch == 2
    assert fitted.stop_training
    assert sorted(path.stem for path in (tmp_path / "models").iterdir()) == ["1", "2", "3"]


def test_fit_keeps_the_features_that_its_run_began_with(growing: Dataset) -> None:
    """In its training and in its validation, also in epochs of before and of after that."""
    growing.run("r").epoch(0)
    growing.add_feature("first", Tensor("float32"), default=2.0)
    run, batches = growing.run("r"), []

    def change() -> None:
        growing.add_feature(f"note-{growing.head.position}", Text(), default="none")
        grow(growing, 100)

    def take(batch: dict[str, Any]) -> tuple[Any, Any]:
        batches.append(list(batch))
        return batch["x"], batch["y"] * batch["first"]

    counts = BatchCounter(change)
    history = fit(
        model(),
        run,
        epochs=3,
        batch_size=10,
        map=take,
        initial_epoch=0,
        validation_run=run,
        callbacks=counts,
        verbose=0,
    )
    assert counts.trained == [10, 20, 30]
    assert len(history.history["val_loss"]) == 3
    assert {tuple(names) for names in batches} == {(*FEATURES, "first")}
    assert [len(run.epoch(number).features) for number in range(3)] == [3, 5, 6]
    assert run.features.keys() < growing.run("r").features.keys()


def test_the_progress_bar_counts_the_batches_of_each_epoch(
    growing: Dataset, capfd: pytest.CaptureFixture[str]
) -> None:
    fit(
        model(),
        growing.run("r"),
        epochs=2,
        batch_size=10,
        x="x",
        y="y",
        callbacks=[BatchCounter(lambda: grow(growing, 100))],
        verbose=2,
    )
    printed = capfd.readouterr().out
    assert "Epoch 1/2\n10/10 - " in printed
    assert "Epoch 2/2\n20/20 - " in printed
    fit(model(), growing.run("by default"), batch_size=100, x="x", y="y")
    assert "3/3" in capfd.readouterr().out


@pytest.mark.parametrize("way", ["fit", "stream"])
@rounds(1, 5)
def test_a_trainer_killed_at_random_moments_ends_with_the_same_weights(
    growing: Dataset, url: str, tmp_path: Path, way: str, rounds: int
) -> None:
    """In full five times each, twenty in all: both ways to train, on both databases."""
    grow(growing, 400)
    arguments = {"url": url, "way": way, "batches": 60 * (1 + rounds), "pause": 0.005}
    calm = _Trainer(tmp_path / "calm", {**arguments, "run": "calm"})
    calm.finish()
    killed = _Trainer(tmp_path / "killed", {**arguments, "run": "killed"})
    rng = random.Random(f"{way} {growing.name}")
    for _ in range(rounds):
        assert killed.kill(after=rng.uniform(0, 0.25)), "it ended before it was killed"
    killed.finish()
    for one, other in zip(calm.weights(), killed.weights(), strict=True):
        np.testing.assert_array_equal(one, other)


class _Trainer:
    """A process that trains, backs up, and continues from its backup when it is started again."""

    def __init__(self, folder: Path, arguments: dict[str, Any]) -> None:
        folder.mkdir()
        self._folder = folder
        self._arguments = {**arguments, "folder": str(folder)}
        self._environment = dict(os.environ)

    def start(self) -> Any:
        (self._folder / "trained").unlink(missing_ok=True)
        process = tensorflow_context().Process(
            target=train, args=(self._arguments, self._environment)
        )
        process.start()
        return process

    def kill(self, after: float) -> bool:
        """Train for ``after`` seconds from the first batch on; return whether it was killed."""
        process = self.start()
        while not (self._folder / "trained").exists() and process.is_alive():
            time.sleep(0.005)
        time.sleep(after)
        process.kill()
        process.join()
        code: int = process.exitcode
        return code == -signal.SIGKILL

    def finish(self) -> None:
        process = self.start()
        process.join(120)
        assert process.exitcode == 0

    def weights(self) -> list[Any]:
        with np.load(self._folder / "weights.npz") as file:
            return [file[name] for name in file.files]
