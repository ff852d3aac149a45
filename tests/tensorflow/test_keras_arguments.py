"""The arguments of `fit`: what they do, and the errors for those that it does not take."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import registry
from registry import Dataset, Ragged, Tensor
from registry.errors import EpochError, NotAnArrayError, TrainingError
from registry.keras import fit
from registry.tensorflow import EpochDataset, StreamDataset
from registry.training.run import Run
from tests.support.models import FEATURES, BatchCounter, grow, model


@pytest.fixture
def growing(sqlite_url: str) -> Iterator[Dataset]:
    """A dataset of 50 samples, on one database: what Keras does is the same on any."""
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("growing", FEATURES, splits={"train": 0.7, "test": 0.3})
        grow(dataset, 50)
        yield dataset


OPTIONS: dict[str, Any] = {"batch_size": 10, "x": "x", "y": "y", "verbose": 0}
PLAIN: dict[str, Any] = {"verbose": 0, "shuffle": False}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda _, run, __: fit(keras.Sequential(), run, **OPTIONS),
            r"call model.compile\(optimizer, loss\)",
        ),
        (
            lambda trained, _, stream: fit(trained, stream, **OPTIONS),
            "not on StreamDataset; .* pass it to model.fit",
        ),
        (
            lambda trained, run, _: fit(trained, run, steps_per_epoch=3, **OPTIONS),
            r"no steps_per_epoch: .*Stream",
        ),
        (
            lambda trained, run, _: fit(trained, run, shuffle=True, **OPTIONS),
            "no shuffle: .* the run's seed",
        ),
        (
            lambda trained, run, stream: fit(
                trained, run, validation_run=run, validation_data=stream, **OPTIONS
            ),
            "either validation_run or validation_data",
        ),
        (
            lambda trained, _, stream: trained.fit(stream, **PLAIN),
            "has no end: pass steps_per_epoch to model.fit",
        ),
        (
            lambda trained, _, stream: trained.fit(stream, class_weight={0: 1.0}, **PLAIN),
            "has no end: pass steps_per_epoch to model.fit",
        ),
        (
            lambda trained, _, stream: trained.evaluate(stream, verbose=0),
            "has no end: pass .*steps to",
        ),
        (
            lambda trained, run, _: trained.fit(run, **PLAIN),
            r"is no array of samples: train with registry.keras.fit\(model, run, …\) or",
        ),
        (lambda _, run, __: np.asarray(run), "is no array of samples"),
    ],
    ids=[
        "not compiled",
        "a stream",
        "steps_per_epoch",
        "shuffle",
        "validation twice",
        "a stream without steps",
        "class_weight without steps",
        "evaluate without steps",
        "a run in model.fit",
        "a run as an array",
    ],
)
def test_what_cannot_be_trained_is_refused_before_an_epoch_is_pinned(
    growing: Dataset, call: Callable[[Any, Run, StreamDataset], object], message: str
) -> None:
    run = growing.run("r")
    stream = StreamDataset(run, batch_size=10, x="x", y="y")
    with pytest.raises(TrainingError, match=message):
        call(model(), run, stream)
    assert run.last is None


def test_fit_refuses_an_epoch_dataset(growing: Dataset) -> None:
    dataset: Any = EpochDataset(growing.run("r").epoch(0), batch_size=10)
    with pytest.raises(TrainingError, match=r"not on EpochDataset; .* pass it to model.fit"):
        fit(model(), dataset, **OPTIONS)


def test_a_validation_run_is_not_a_dataset(growing: Dataset) -> None:
    dataset: Any = growing
    message = r"validation_run is a run, .* not Dataset; pass other data as validation_data"
    with pytest.raises(TrainingError, match=message):
        fit(model(), growing.run("r"), validation_run=dataset, **OPTIONS)


def test_a_run_has_no_shape(growing: Dataset) -> None:
    run = growing.run("r")
    assert not hasattr(run, "shape")
    with pytest.raises(NotAnArrayError):
        run.shape  # noqa: B018


def test_plain_fit_and_evaluate_take_a_stream_with_a_number_of_steps(growing: Dataset) -> None:
    trained = model()
    stream = StreamDataset(growing.run("r"), batch_size=10, x="x", y="y")
    trained.fit(stream, steps_per_epoch=2, **PLAIN)
    assert trained.evaluate(stream, steps=2, verbose=0) >= 0


def test_a_function_of_batches_is_mapped_in_training_and_validation(growing: Dataset) -> None:
    one_hot = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])
    one_hot.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True), run_eagerly=True)
    history = fit(
        one_hot,
        growing.run("r", split="train"),
        batch_size=10,
        x="x",
        y="serial",
        map=lambda x, y: (x, tf.one_hot(y % 2, 2)),
        validation_run=growing.run("v", split="test"),
        verbose=0,
    )
    assert history.history["val_loss"]


def test_boxes_are_made_dense_by_a_function_of_batches(sqlite_url: str) -> None:
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("boxes", {"x": Tensor("float32", (4,)), "sizes": Ragged("float32")})
        dataset.insert([{"x": [1, 2, 3, n], "sizes": range(n % 5)} for n in range(20)])
        trained = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(6)])
        trained.compile("sgd", "mse", run_eagerly=True)
        fit(
            trained,
            dataset.run("r"),
            batch_size=10,
            x="x",
            y="sizes",
            map=lambda x, sizes: (x, sizes.to_tensor(shape=(None, 6))),
            verbose=0,
        )


class ValidationCounter(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """Counts the batches of each validation."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def on_test_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        self.batches.append(0)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.batches[-1] += 1


def eager_model() -> Any:
    """Make a model that counts batches of one sample without tracing a function for them."""
    eager = model()
    eager.run_eagerly = True
    return eager


def test_each_epoch_is_validated_on_a_newer_epoch_of_the_validation_run(growing: Dataset) -> None:
    run, test = growing.run("r", split="train"), growing.run("v", split="test")
    validations = ValidationCounter()
    callbacks = [validations, BatchCounter(lambda: grow(growing, 50))]
    options = {**OPTIONS, "batch_size": 1, "epochs": 2}
    fit(eager_model(), run, validation_run=test, callbacks=callbacks, **options)
    assert validations.batches == [test.epoch(0).size, test.epoch(1).size]
    assert 0 < validations.batches[0] < validations.batches[1]
    assert test.epoch(1).watermark == run.epoch(1).watermark == 100


def test_a_replay_is_validated_on_the_same_epochs(growing: Dataset) -> None:
    run, test = growing.run("r", split="train"), growing.run("v", split="test")
    validations, eager = ValidationCounter(), eager_model()
    options = {**OPTIONS, "batch_size": 1, "validation_run": test}
    fit(eager, run, epochs=2, callbacks=BatchCounter(lambda: grow(growing, 50)), **options)
    fit(eager, run, epochs=1, initial_epoch=0, callbacks=validations, **options)
    assert validations.batches == [test.epoch(0).size]
    assert test.last == test.pin(1), "nothing was pinned for it"


def test_a_new_validation_run_holds_all_samples_by_then(growing: Dataset) -> None:
    validations, eager = ValidationCounter(), eager_model()
    grow(growing, 100)
    options = {**OPTIONS, "batch_size": 1, "callbacks": validations}
    fit(eager, growing.run("r", split="train"), validation_run=growing.run("new"), **options)
    assert validations.batches == [150]


def test_validation_needs_a_sample(growing: Dataset) -> None:
    empty = growing.run("v", split="test", policy="new")
    for entry in growing.entries(0, 50):
        if growing.split_of(entry.key) == "test":
            growing.retract(entry.key)
    run = growing.run("r", split="train")
    with pytest.raises(EpochError, match="epoch 0 of run 'v': the split 'test' holds nothing new"):
        fit(model(), run, batch_size=10, x="x", y="y", validation_run=empty, verbose=0)
    assert run.consumed == 0


def test_outputs_have_weights_by_their_names(growing: Dataset) -> None:
    """One output's weights are all 0, so it learns nothing; the other's are not."""
    growing.insert({"x": np.ones((50, 4)), "y": np.ones(50), "serial": np.zeros(50, int)})
    inputs = keras.layers.Input((4,))
    outputs = {name: keras.layers.Dense(1, name=name)(inputs) for name in ("first", "second")}
    forked = keras.Model(inputs, outputs)
    forked.compile("sgd", {"first": "mse", "second": "mse"}, run_eagerly=True)
    first, second = (forked.get_layer(name).get_weights() for name in outputs)
    fit(
        forked,
        growing.run("r"),
        batch_size=100,
        x="x",
        y={"first": "y", "second": "y"},
        weight={"first": "x", "second": "serial"},
        map=lambda x, y, weight: (x, y, {**weight, "first": 0.0 * weight["first"][:, 0]}),
        verbose=0,
    )
    assert forked.get_layer("first").get_weights()[0].tolist() == first[0].tolist()
    assert forked.get_layer("second").get_weights()[0].tolist() != second[0].tolist()


SCRIPT = """
import sys
import registry
from registry.tensorflow import StreamDataset

run = registry.connect(sys.argv[1]).open("growing").run("r", policy="new")
batches = iter(StreamDataset(run, batch_size=10, x="x", y="y"))
for _ in range(5):
    next(batches)
print("waiting", flush=True)
next(batches)
"""


def test_ctrl_c_ends_a_process_that_waits_in_a_stream(growing: Dataset, sqlite_url: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, sqlite_url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "waiting\n"
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert "KeyboardInterrupt" in errors
    assert process.returncode in (1, -signal.SIGINT)
    assert growing.run("r").last == growing.run("r").pin(0)


def test_a_model_may_train_by_its_step_without_a_call(growing: Dataset) -> None:
    class Stepping(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def train_step(self, data: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self.dense(data[0])[:, 0] - data[1]) ** 2)
            variables = self.dense.trainable_variables
            self.optimizer.apply(tape.gradient(loss, variables), variables)
            return {"loss": loss}

    stepping = Stepping()
    stepping.compile("sgd", "mse", run_eagerly=True)
    run = growing.run("r")
    fit(stepping, run, epochs=3, batch_size=10, x="x", y="y", verbose=0)
    assert stepping.optimizer.iterations == 3 * 5
    assert fit(stepping, run, batch_size=10, x="x", y="y", verbose=0).epoch == [3]
