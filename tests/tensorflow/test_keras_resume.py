"""How `fit` continues: in the next call, after Ctrl-C, after a crash, with uneven shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import registry
from registry import Dataset
from registry.errors import (
    DivergenceError,
    EpochError,
    FreshModelWarning,
    RunMismatchError,
    TrainingError,
)
from registry.keras import fit
from registry.training.run import Run
from tests.support.models import (
    FEATURES,
    BatchCounter,
    Crash,
    Stop,
    grow,
    model,
    serial_recorder,
    serials_of,
    weights,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


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


def test_the_next_call_trains_on_what_came_since(growing: Dataset) -> None:
    run, serials = growing.run("r"), list[int]()
    nightly = serial_recorder(serials)
    assert train(nightly, run, epochs=2).epoch == [0, 1]
    grow(growing, 50)
    assert train(nightly, run, epochs=2).epoch == [2, 3], "logs continue under the run's numbers"
    assert serials == serials_of(run, 0, 1, 2, 3)
    assert run.consumed == len(serials) == 2 * 100 + 2 * 150
    serials.clear()
    assert train(nightly, run, epochs=2, initial_epoch=0).epoch == [0, 1]
    assert serials == serials_of(run, 0, 1), "replayed"
    assert run.consumed == 500, "a replay takes nothing back"


def test_a_fresh_model_on_a_trained_run_gets_a_warning_with_both_remedies(growing: Dataset) -> None:
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
    run, serials = growing.run("r"), list[int]()
    stopped = serial_recorder(serials)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, run, epochs=3, callbacks=Stop(KeyboardInterrupt, after=batches))
    assert run.consumed == len(serials) == min(10 * batches, 99), "never past the epoch's end"
    train(stopped, run)
    assert serials == serials_of(run, *range(1 if batches < 10 else 2))


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
    run, serials = growing.run("r"), list[int]()
    train(serial_recorder([]), run, epochs=1)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", frequency)
    # In the second of three epochs, after four batches of it, not all of which are in the backup.
    per_execution = settings.get("steps_per_execution", 1)
    crash = Stop(Crash, after=-(-10 // per_execution) + 4 // per_execution)
    with pytest.warns(FreshModelWarning), pytest.raises(Crash):
        train(serial_recorder(serials, **settings), run, epochs=3, callbacks=[backup, crash])
    assert len(serials) == 140
    assert run.consumed == 240, "recorded on the way out of `fit`"
    del serials[saved:]
    grow(growing, 50)
    resumed = serial_recorder(serials, **settings)
    history = train(resumed, run, epochs=3, callbacks=backup)
    assert serials == serials_of(run, 1, 2, 3)
    assert history.epoch[-1] == 3
    assert run.consumed == run.epoch(3).start + run.epoch(3).size
    assert train(resumed, run, callbacks=backup).epoch == [4], "a new call is a new call"


def test_a_crash_before_the_first_backup_repeats_the_call(growing: Dataset, tmp_path: Path) -> None:
    run, serials = growing.run("r"), list[int]()
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    crash = Stop(Crash, after=4)
    with pytest.raises(Crash):
        train(serial_recorder(serials), run, callbacks=[backup, crash])
    run.record(0, rewind=True)  # as a killed process would have left it
    serials.clear()
    train(serial_recorder(serials), run, callbacks=backup)
    assert serials == serials_of(run, 0)


@pytest.mark.parametrize("shard", [(0, 2), (1, 2)])
@pytest.mark.parametrize("drop_remainder", [True, False])
def test_uneven_shards_resume_within_their_epoch(
    empty: Dataset, tmp_path: Path, shard: tuple[int, int], drop_remainder: bool
) -> None:
    """Of 17 samples, one shard has a batch more than the other, or both leave the last one out."""
    grow(empty, 17)
    run, calm = empty.run("r"), list[int]()
    options: dict[str, Any] = {"batch_size": 4, "shard": shard, "epochs": 2}
    options["drop_remainder"] = drop_remainder
    train(serial_recorder(calm), run, **options)
    for batches in (2, 3):
        run.record(0, rewind=True)
        serials: list[int] = []
        backup = keras.callbacks.BackupAndRestore(tmp_path / f"{batches}", 1)
        with pytest.raises(Crash):
            train(
                serial_recorder(serials),
                run,
                callbacks=[backup, Stop(Crash, after=batches)],
                **options,
            )
        train(serial_recorder(serials), run, callbacks=backup, **options)
        assert serials == calm
        assert run.consumed == 34


def test_a_kept_backup_does_not_repeat_a_call_that_ended(growing: Dataset, tmp_path: Path) -> None:
    run = growing.run("r")
    folder = tmp_path / "backup"
    for expected in ([0, 1], [2, 3]):
        backup = keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False)
        assert train(model(), run, epochs=2, callbacks=backup).epoch == expected
    stopping = BatchCounter(lambda: setattr(stopping.model, "stop_training", True))
    backup = keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False)
    assert train(model(), run, epochs=9, callbacks=[backup, stopping]).epoch == [4]
    assert train(model(), run, epochs=2, callbacks=backup).epoch == [5, 6]


def test_a_training_stopped_within_an_epoch_continues_there(growing: Dataset) -> None:
    run, serials = growing.run("r"), list[int]()
    stopped = serial_recorder(serials)

    class Stopping(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
            self.model.stop_training = batch == 3

    train(stopped, run, callbacks=Stopping())
    assert run.consumed == 40
    train(stopped, run)
    assert serials == serials_of(run, 0)


def test_a_crashed_replay_is_completed_and_leaves_what_was_consumed(
    growing: Dataset, tmp_path: Path
) -> None:
    run, serials = growing.run("r"), list[int]()
    train(model(), run, epochs=4)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", 5)
    options: dict[str, Any] = {"epochs": 2, "initial_epoch": 0}
    with pytest.raises(Crash):
        train(serial_recorder(serials), run, callbacks=[backup, Stop(Crash, after=15)], **options)
    train(serial_recorder(serials), run, callbacks=backup, **options)
    assert serials == serials_of(run, 0, 1)
    assert run.consumed == 400


@pytest.fixture
def backup(tmp_path: Path) -> Any:
    """A callback whose backup is kept after a training, as after a crash."""
    return keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)


def test_a_backup_of_another_run_is_refused(growing: Dataset, backup: Any) -> None:
    train(model(), growing.run("r"), callbacks=backup)
    with pytest.raises(RunMismatchError, match="trained on run 'r', not on 'other'"):
        train(model(), growing.run("other"), callbacks=backup)


def test_a_call_with_a_backup_of_another_run_pins_no_epoch(growing: Dataset, backup: Any) -> None:
    run = growing.run("other")
    train(serial_recorder([]), growing.run("r"), callbacks=backup)
    train(serial_recorder([]), run)
    with pytest.raises(RunMismatchError):
        train(serial_recorder([]), run, callbacks=backup)
    assert run.last == run.pin(0)


def test_a_backup_of_another_history_is_refused(growing: Dataset, backup: Any) -> None:
    train(model(), growing.run("r"), epochs=2, callbacks=backup)
    run = growing.run("r")
    # As in a database that was restored from before the training.
    run._settings = growing.run("forgotten")._settings
    object.__setattr__(run._settings, "name", "r")
    with pytest.raises(DivergenceError, match=r"epoch 1 of run 'r', .* has not pinned it: it is"):
        train(model(), run, callbacks=backup)


def test_a_backup_that_fit_did_not_write_is_refused(growing: Dataset, backup: Any) -> None:
    plain = model()
    plain.fit(np.ones((10, 4)), np.ones(10), callbacks=backup, verbose=0, epochs=3)
    with pytest.raises(TrainingError, match=r"does not say how far .*load_weights, and remove it"):
        train(plain, growing.run("r"), callbacks=backup)


def test_fit_refuses_a_position_that_no_pinned_epoch_reaches(growing: Dataset) -> None:
    run = growing.run("r")
    trained = model()
    train(trained, run)
    run.record(101)
    with pytest.raises(DivergenceError, match=r"sample 101, .* has pinned end at sample 100"):
        train(trained, run)


def test_a_policy_waits_for_a_sample_until_the_timeout(growing: Dataset) -> None:
    run, trained = growing.run("r", policy="new"), model()
    with pytest.raises(EpochError, match="epoch 1 of run 'r': the dataset holds nothing new"):
        train(trained, run, epochs=2, timeout=0.2)
    assert run.consumed == 100
    grow(growing, 10)
    assert train(trained, run, timeout=0.2).epoch == [1]


def test_weights_saved_during_fit_load_into_a_plain_model(growing: Dataset, tmp_path: Path) -> None:
    """The files can be loaded as if they had no position in them."""
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
