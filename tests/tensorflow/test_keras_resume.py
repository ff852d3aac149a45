"""`fit` continues: the next night, after Ctrl-C, after a crash, on any number of workers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import registry
from registry import Dataset, Tensor
from registry.errors import (
    DivergenceError,
    EpochError,
    FreshModelWarning,
    RunMismatchError,
    TrainingError,
)
from registry.keras import Consumption, fit
from registry.tensorflow import StreamDataset
from registry.training.run import Run
from tests.support.trainers import Batches, grow, model, weights

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Crash(Exception):  # noqa: N818
    """Ends a training as a crash would: nothing is done about it."""


class Stop(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """Ends the training by an error after so many executions of batches, or at epochs' ends."""

    def __init__(self, error: type[BaseException], *, after: int, epoch: bool = False) -> None:
        super().__init__()
        self.error, self.left, self.epoch = error, after, epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._count(not self.epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._count(self.epoch)

    def _count(self, counted: bool) -> None:
        self.left -= counted
        if counted and not self.left:
            raise self.error


def spy(seen: list[int], steps: int = 1, **options: Any) -> Any:
    """Make a compiled model that notes in ``seen`` the serial numbers that it is trained on.

    It makes so many optimizer steps with each batch.
    """

    class Spy(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, inputs: Any) -> Any:
            return self.dense(inputs["x"])

        def train_step(self, data: Any) -> Any:
            seen.extend(data[0]["serial"].numpy().tolist())
            for _ in range(steps):
                logs = super().train_step(data)
            return logs

    keras.utils.set_random_seed(1)
    made = Spy()
    accumulated = options.pop("gradient_accumulation_steps", None)
    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=accumulated)
    made.compile(optimizer, "mse", jit_compile=False, run_eagerly=True, **options)
    return made


FEATURES = {"x": Tensor("float32", (4,)), "y": Tensor("float32"), "serial": Tensor("int64")}


@pytest.fixture
def empty(sqlite_url: str) -> Iterator[Dataset]:
    """A dataset without samples, on one database: what Keras does is the same on any."""
    with registry.connect(sqlite_url) as reg:
        yield reg.create("growing", FEATURES)


@pytest.fixture
def growing(empty: Dataset) -> Dataset:
    """A dataset of 100 samples; ``serial`` counts them."""
    grow(empty, 100)
    return empty


def train(trained: Any, run: Run, **options: Any) -> Any:
    """Fit without printing, in batches of 10."""
    x = "x" if isinstance(trained, keras.Sequential) else ["x", "serial"]
    return fit(trained, run, **{"batch_size": 10, "x": x, "y": "y", "verbose": 0, **options})


def order(run: Run, *epochs: int) -> list[int]:
    """The serial numbers of epochs in the order that they are trained on."""
    batches = (batch for number in epochs for batch in run.epoch(number).batches(10))
    return [serial for batch in batches for serial in batch["serial"].tolist()]


def test_the_next_call_trains_on_what_came_since(growing: Dataset) -> None:
    run, seen = growing.run("r"), list[int]()
    nightly = spy(seen)
    assert train(nightly, run, epochs=2).epoch == [0, 1]
    grow(growing, 50)
    assert train(nightly, run, epochs=2).epoch == [2, 3], "logs go on under the run's numbers"
    assert seen == order(run, 0, 1, 2, 3)
    assert run.consumed == len(seen) == 2 * 100 + 2 * 150
    seen.clear()
    assert train(nightly, run, epochs=2, initial_epoch=0).epoch == [0, 1]
    assert seen == order(run, 0, 1), "replayed"
    assert run.consumed == 500, "a replay takes nothing back"


def test_a_fresh_model_on_a_trained_run_is_warned_about_with_both_ways(growing: Dataset) -> None:
    run = growing.run("r")
    trained = model()
    train(trained, run)
    with pytest.warns(
        FreshModelWarning, match=r"sample 100.*load_model.*initial_epoch=0"
    ) as caught:
        train(model(), run)
    assert [each.filename for each in caught if each.category is FreshModelWarning] == [__file__]
    train(trained, run)
    train(model(), run, initial_epoch=0)
    assert run.consumed == 300


@pytest.mark.parametrize("batches", [1, 9, 10])
def test_ctrl_c_records_what_was_trained_and_the_next_call_continues_there(
    growing: Dataset, batches: int
) -> None:
    growing.retract(growing.entries(99, 100)[0].key)  # the last batch is short
    run, seen = growing.run("r"), list[int]()
    stopped = spy(seen)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, run, epochs=3, callbacks=Stop(KeyboardInterrupt, after=batches))
    assert run.consumed == len(seen) == min(10 * batches, 99), "never past the epoch's end"
    train(stopped, run)
    assert seen == order(run, *range(1 if batches < 10 else 2))


@pytest.mark.parametrize(
    ("settings", "frequency", "saved"),
    [
        ({}, "epoch", 100),
        ({"steps": 2}, 8, 80),
        ({"gradient_accumulation_steps": 4}, 8, 80),
        ({"steps_per_execution": 4}, 8, 100),
    ],
    ids=["plain", "two steps a batch", "accumulation", "steps_per_execution"],
)
def test_a_crashed_call_is_completed_and_no_more(
    growing: Dataset, tmp_path: Path, settings: dict[str, Any], frequency: Any, saved: int
) -> None:
    run, seen = growing.run("r"), list[int]()
    train(spy([]), run, epochs=1)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", frequency)
    # In the second of three epochs, after four batches of it, not all of which are in the backup.
    per_execution = settings.get("steps_per_execution", 1)
    crash = Stop(Crash, after=-(-10 // per_execution) + 4 // per_execution)
    with pytest.warns(FreshModelWarning), pytest.raises(Crash):
        train(spy(seen, **settings), run, epochs=3, callbacks=[backup, crash])
    assert len(seen) == 140
    assert run.consumed == 240, "the process went on to say so"
    del seen[saved:]
    grow(growing, 50)
    resumed = spy(seen, **settings)
    history = train(resumed, run, epochs=3, callbacks=backup)
    assert seen == order(run, 1, 2, 3)
    assert history.epoch[-1] == 3
    assert run.consumed == run.epoch(3).start + run.epoch(3).size
    assert train(resumed, run, callbacks=backup).epoch == [4], "a new call is a new call"


def test_a_crash_before_the_first_backup_begins_the_call_again(
    growing: Dataset, tmp_path: Path
) -> None:
    run, seen = growing.run("r"), list[int]()
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    crash = Stop(Crash, after=4)
    with pytest.raises(Crash):
        train(spy(seen), run, callbacks=[backup, crash])
    run.record(0, rewind=True)  # as a killed process would have left it
    seen.clear()
    train(spy(seen), run, callbacks=backup)
    assert seen == order(run, 0)


@pytest.mark.parametrize("shard", [(0, 2), (1, 2)])
@pytest.mark.parametrize("drop_remainder", [True, False])
def test_uneven_shards_resume_in_the_epoch_that_they_were_in(
    empty: Dataset, tmp_path: Path, shard: tuple[int, int], drop_remainder: bool
) -> None:
    """Of 17 samples, one shard has a batch more than the other, or both leave the last one out."""
    grow(empty, 17)
    run, calm = empty.run("r"), list[int]()
    options: dict[str, Any] = {"batch_size": 4, "shard": shard, "epochs": 2}
    options["drop_remainder"] = drop_remainder
    train(spy(calm), run, **options)
    for batches in (2, 3):
        run.record(0, rewind=True)
        seen: list[int] = []
        backup = keras.callbacks.BackupAndRestore(tmp_path / f"{batches}", 1)
        with pytest.raises(Crash):
            train(spy(seen), run, callbacks=[backup, Stop(Crash, after=batches)], **options)
        train(spy(seen), run, callbacks=backup, **options)
        assert seen == calm
        assert run.consumed == 34


def test_a_call_that_ended_is_not_completed_again_where_its_backup_is_kept(
    growing: Dataset, tmp_path: Path
) -> None:
    run = growing.run("r")
    folder = tmp_path / "backup"
    for expected in ([0, 1], [2, 3]):
        backup = keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False)
        assert train(model(), run, epochs=2, callbacks=backup).epoch == expected
    stopping = Batches(lambda: setattr(stopping.model, "stop_training", True))
    backup = keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False)
    assert train(model(), run, epochs=9, callbacks=[backup, stopping]).epoch == [4]
    assert train(model(), run, epochs=2, callbacks=backup).epoch == [5, 6]


def test_a_training_stopped_within_an_epoch_continues_there(growing: Dataset) -> None:
    run, seen = growing.run("r"), list[int]()
    stopped = spy(seen)

    class Stopping(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
            self.model.stop_training = batch == 3

    train(stopped, run, callbacks=Stopping())
    assert run.consumed == 40
    train(stopped, run)
    assert seen == order(run, 0)


def test_a_crashed_replay_neither_takes_back_what_was_consumed_nor_goes_on(
    growing: Dataset, tmp_path: Path
) -> None:
    run, seen = growing.run("r"), list[int]()
    train(model(), run, epochs=4)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", 5)
    options: dict[str, Any] = {"epochs": 2, "initial_epoch": 0}
    with pytest.raises(Crash):
        train(spy(seen), run, callbacks=[backup, Stop(Crash, after=15)], **options)
    train(spy(seen), run, callbacks=backup, **options)
    assert seen == order(run, 0, 1)
    assert run.consumed == 400


def test_backups_of_another_run_or_history_are_refused(growing: Dataset, tmp_path: Path) -> None:
    def backup() -> Any:
        return keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)

    train(model(), growing.run("r"), epochs=2, callbacks=backup())
    with pytest.raises(RunMismatchError, match="trained on run 'r', not on 'other'"):
        train(model(), growing.run("other"), callbacks=backup())
    run = growing.run("r")
    run._settings = growing.run("forgotten")._settings
    object.__setattr__(run._settings, "name", "r")
    with pytest.raises(DivergenceError, match=r"epoch 1 of run 'r', .* has not pinned it: it is"):
        train(model(), run, callbacks=backup())
    plain = model()
    plain.fit(np.ones((10, 4)), np.ones(10), callbacks=backup(), verbose=0, epochs=3)
    with pytest.raises(TrainingError, match=r"does not say how far .*load_weights, and remove it"):
        train(plain, growing.run("r"), callbacks=backup())


def test_fit_refuses_to_continue_where_its_database_has_not_been(growing: Dataset) -> None:
    run = growing.run("r")
    trained = model()
    train(trained, run)
    run.record(101)
    with pytest.raises(DivergenceError, match=r"sample 101, .* has pinned end at sample 100"):
        train(trained, run)


def test_a_policy_that_waits_does_so_for_as_long_as_was_said(growing: Dataset) -> None:
    run, trained = growing.run("r", policy="new"), model()
    with pytest.raises(EpochError, match="epoch 1 of run 'r': the dataset holds nothing new"):
        train(trained, run, epochs=2, timeout=0.2)
    assert run.consumed == 100
    grow(growing, 10)
    assert train(trained, run, timeout=0.2).epoch == [1]


@pytest.mark.parametrize("before", [True, False], ids=["Consumption first", "backup first"])
@pytest.mark.parametrize("per_execution", [1, 2])
def test_a_stream_continues_with_the_backup_wherever_consumption_stands_in_the_list(
    growing: Dataset, tmp_path: Path, before: bool, per_execution: int
) -> None:
    run, seen = growing.run("r"), list[int]()
    stream = StreamDataset(run, batch_size=10, x=["x", "serial"], y="y")

    def fit_stream(*more: Any) -> None:
        made = spy(seen, steps=2, steps_per_execution=per_execution)
        made({"x": np.ones((1, 4)), "serial": np.ones(1)})
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", 2)
        both = [Consumption(run, 10), backup] if before else [backup, Consumption(run, 10)]
        options = {"steps_per_epoch": 6, "shuffle": False, "verbose": 0}
        made.fit(stream, epochs=2, callbacks=[*both, *more], **options)

    with pytest.raises(Crash):
        fit_stream(Stop(Crash, after=4 // per_execution))
    trained = len(seen)
    assert trained == 40
    fit_stream()
    assert seen == order(run, *range(9))[: len(seen)]
    assert run.consumed == len(seen)


def test_ctrl_c_in_a_stream_is_recorded_within_a_second(growing: Dataset) -> None:
    run, seen = growing.run("r"), list[int]()
    stream = StreamDataset(run, batch_size=10, x=["x", "serial"], y="y")
    callbacks = [Consumption(run, 10), Stop(KeyboardInterrupt, after=13)]
    with pytest.raises(KeyboardInterrupt):
        spy(seen).fit(stream, steps_per_epoch=50, shuffle=False, verbose=0, callbacks=callbacks)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(10)
    assert run.consumed == len(seen) == 130


def test_weights_saved_meanwhile_are_a_models_own(growing: Dataset, tmp_path: Path) -> None:
    """The position lies in the backup's file, and in no one's way."""
    trained = model()
    callbacks = [
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        keras.callbacks.ModelCheckpoint(tmp_path / "kept.weights.h5", save_weights_only=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "kept.keras"),
    ]
    train(trained, growing.run("r"), callbacks=callbacks)
    assert not hasattr(trained, "registry_position")
    other = model(learning_rate=0.5)
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "kept.weights.h5")
    whole = keras.models.load_model(tmp_path / "kept.keras")
    for restored in (other, whole):
        for one, two in zip(weights(restored)[:4], weights(trained)[:4], strict=True):
            np.testing.assert_array_equal(one, two)
    assert len(trained.layers) == len(whole.layers) == 2
