"""`fit` trains on a mix, and continues it in the next call and after a crash."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import pytest

import registry
from registry import Mix, Registry
from registry.errors import EpochError, FreshModelWarning, RunMismatchError, TrainingError
from registry.keras import Consumption, Lineage, fit
from registry.tensorflow import StreamDataset
from tests.support.models import FEATURES, Crash, Stop, grow, model, serial_recorder

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def reg(sqlite_url: str) -> Iterator[Registry]:
    """Two datasets on one database: what Keras does is the same on any."""
    with registry.connect(sqlite_url) as opened:
        for name, count in (("one", 60), ("two", 30)):
            grow(opened.create(name, FEATURES), count)
        yield opened


@pytest.fixture
def mix(reg: Registry) -> Mix:
    runs = [reg.open(name).run("r", policy="new") for name in ("one", "two")]
    return registry.mix(zip(runs, (0.7, 0.3), strict=True), seed=4)


def train(trained: Any, mix: Any, **options: Any) -> Any:
    """Fit without printing: epochs of 4 steps of 10 samples."""
    x = "x" if isinstance(trained, keras.Sequential) else ["x", "serial"]
    given = {"batch_size": 10, "steps_per_epoch": 4, "x": x, "y": "y", "verbose": 0}
    return fit(trained, mix, **{**given, **options})


def serials_of(mix: Mix, samples: int) -> list[int]:
    batches = itertools.islice(mix.batches(1, start=0), samples)
    return [int(batch["serial"][0]) for batch in batches]


def test_the_next_call_continues_the_mix(reg: Registry, mix: Mix) -> None:
    serials: list[int] = []
    nightly = serial_recorder(serials)
    assert train(nightly, mix, epochs=2).epoch == [0, 1]
    assert mix.consumed == 80
    assert [part.run.consumed for part in mix.parts] == [56, 24]
    grow(reg.open("one"), 20)
    assert train(nightly, mix, epochs=1).epoch == [2]
    assert serials == serials_of(mix, 120)
    assert train(nightly, mix, epochs=2, initial_epoch=1).epoch == [1]
    assert serials[120:] == serials[40:80], "replayed"
    assert mix.consumed == 120, "a replay takes nothing back"
    with pytest.warns(FreshModelWarning, match=r"<mix of 'r' of 'one' .* continues at sample 120"):
        train(model(), mix)


def test_an_interrupted_epoch_is_completed_also_with_other_batches(mix: Mix) -> None:
    serials: list[int] = []
    stopped = serial_recorder(serials)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, mix, epochs=3, callbacks=Stop(KeyboardInterrupt, after=6))
    assert mix.consumed == len(serials) == 60
    assert train(stopped, mix).epoch == [1]
    assert mix.consumed == 80
    # Epochs of 3 steps of 7 samples: the rest of epoch 3, of 4 samples, is a step, as steps are
    # whole; and epoch 4 begins 3 samples later.
    assert train(stopped, mix, epochs=2, batch_size=7, steps_per_epoch=3).epoch == [3, 4]
    assert mix.consumed == 80 + 7 + 21
    assert serials == serials_of(mix, 108)


@pytest.mark.parametrize("steps", [4, 2], ids=["same epochs", "shorter epochs"])
def test_a_crashed_call_is_completed_and_no_more(
    reg: Registry, mix: Mix, tmp_path: Path, steps: int
) -> None:
    serials: list[int] = []
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", 3)
    with pytest.raises(Crash):
        train(serial_recorder(serials), mix, epochs=3, callbacks=[backup, Stop(Crash, after=8)])
    del serials[60:]  # the backup has six batches
    grow(reg.open("two"), 10)
    resumed = serial_recorder(serials)
    history = train(resumed, mix, epochs=3, callbacks=backup, steps_per_epoch=steps)
    assert history.epoch[-1] == 12 // steps - 1
    assert mix.consumed == len(serials) == 120
    assert serials == serials_of(mix, 120)
    other = registry.mix({reg.open("one").run("other"): 1})
    kept = keras.callbacks.BackupAndRestore(tmp_path / "kept", delete_checkpoint=False)
    train(resumed, mix, callbacks=kept)
    kept = keras.callbacks.BackupAndRestore(tmp_path / "kept", delete_checkpoint=False)
    with pytest.raises(RunMismatchError, match=r"trained on run 'r \+ r \(.{8}\)', not on 'other"):
        train(serial_recorder([]), other, callbacks=kept)


def test_a_mix_is_validated_on_the_newest_epoch(reg: Registry, mix: Mix) -> None:
    test = reg.open("one").run("test")

    class Growing(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
            grow(reg.open("one"), 10 * (epoch + 1))

    history = train(model(), mix, epochs=3, validation_run=test, callbacks=Growing())
    assert len(history.history["val_loss"]) == 3
    assert [each.pin.size for each in test.epochs(9)] == [60, 70, 90]


def test_a_stream_of_a_mix_is_recorded_by_consumption(mix: Mix) -> None:
    serials: list[int] = []
    trained, stream = (
        serial_recorder(serials),
        StreamDataset(mix, batch_size=10, x=["x", "serial"], y="y"),
    )
    options: dict[str, Any] = {"steps_per_epoch": 3, "shuffle": False, "verbose": 0}
    for _ in range(2):
        trained.fit(stream, callbacks=[Consumption(mix, 10)], **options)
    assert mix.consumed == 60
    assert serials == serials_of(mix, 60)


def test_fit_refuses_what_a_mix_cannot_be_trained_with(reg: Registry, mix: Mix) -> None:
    for steps, message in (
        (None, "a mix has no epochs itself: pass steps_per_epoch="),
        (0, "steps_per_epoch=0 is no whole number above 0"),
        (2.5, "steps_per_epoch=2.5 is no whole number above 0"),
    ):
        with pytest.raises(TrainingError, match=message):
            train(model(), mix, steps_per_epoch=steps)
    with pytest.raises(TrainingError, match=r"Lineage writes .* a mix goes through the epochs of"):
        train(model(), mix, callbacks=Lineage("logs"))
    reg.create("empty", FEATURES)
    runs = [reg.open(name).run("r") for name in ("one", "empty")]
    with pytest.raises(EpochError, match="run 'r' of dataset 'empty' has no sample"):
        train(model(), registry.mix(zip(runs, (9, 1), strict=True)))
    assert mix.consumed == 0
