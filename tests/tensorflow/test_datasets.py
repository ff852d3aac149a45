"""The elements, order and options of `EpochDataset` and `StreamDataset`."""

from __future__ import annotations

import itertools
import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import registry
from registry import ClassLabel, Dataset, Image, Ragged, Registry, Tensor
from registry.errors import FeatureError
from registry.samples.features import DTYPES
from registry.tensorflow import EpochDataset, StreamDataset
from registry.tensorflow.generator_thread import CANCEL_INTERVAL
from tests.support.datasets import digit

_numbers = itertools.count()


def test_a_stream_yields_full_batches_that_span_epochs(digits: Dataset) -> None:
    digits.insert([digit(n) for n in range(5)])
    run = digits.run("r")
    labels = []
    stream = iter(StreamDataset(run, batch_size=4, x="image", y="label"))
    for images, label in itertools.islice(stream, 10):
        assert images.shape == (4, 2, 2)
        assert images.dtype == tf.uint8
        labels += label.numpy().tolist()
    for after in range(0, 40, 5):
        assert sorted(labels[after : after + 5]) == [0, 1, 2, 3, 4]
    replayed = itertools.islice(run.stream(4, start=0), 10)
    assert labels == [label for batch in replayed for label in batch["label"].tolist()]


def test_a_running_stream_yields_samples_that_were_inserted_after_it_started(
    digits: Dataset,
) -> None:
    digits.insert([digit(n) for n in range(5)])
    run = digits.run("r")
    stream = iter(StreamDataset(run, batch_size=4, y="label", x="image"))
    next(stream)
    digits.insert([digit(n) for n in range(5, 8)])
    labels = {n for _, label in itertools.islice(stream, 100) for n in label.numpy().tolist()}
    assert {5, 6, 7} <= labels
    epochs = [run.epoch(number) for number in range(20)]
    assert [e.start for e in epochs[1:]] == list(itertools.accumulate(e.size for e in epochs))[:-1]


@pytest.mark.parametrize("x", ["label", ["text", "tokens", "label"]])
def test_a_stream_waits_for_its_first_samples(notes: Dataset, x: str | list[str]) -> None:
    stream = StreamDataset(notes.run("r", policy="new"), batch_size=2, x=x)
    rows = [{"text": "ab", "label": "cat", "blob": b"", "tokens": [1, 2]}] * 2
    # Longer than the interval at which a wait can be cancelled.
    labeler = threading.Timer(3 * CANCEL_INTERVAL, notes.insert, [rows])
    labeler.start()
    (batch,) = stream.take(1)
    labeler.join()
    assert tf.nest.flatten(batch)[-1].shape[0] == 2


def test_every_epoch_of_the_same_samples_has_another_order(digits: Dataset) -> None:
    digits.insert([digit(n) for n in range(30)])
    for run in (digits.run("r"), digits.run("other", seed=1)):
        epochs = [run.epoch(number) for number in range(4)]
        orders = [
            [image.tobytes() for batch in epoch.batches(7) for image in batch["image"]]
            for epoch in epochs
        ]
        assert len({frozenset(order) for order in orders}) == 1
        assert len({tuple(order) for order in orders}) == 4
        for epoch, order in zip(epochs, orders, strict=True):
            batches = EpochDataset(epoch, batch_size=7, x="image").as_numpy_iterator()
            assert [image.tobytes() for batch in batches for image in batch] == order
        stream = StreamDataset(run, batch_size=8, x="image").take(15).as_numpy_iterator()
        assert [image.tobytes() for batch in stream for image in batch] == list(
            itertools.chain(*orders)
        )


def test_every_kind_of_feature_arrives_as_its_tensor(notes: Dataset) -> None:
    samples: list[dict[str, object]] = [
        {"text": "cät", "label": "cat", "blob": b"\x00\xff\x00", "tokens": [1, 2, 3]},
        {"text": "", "label": "dog", "blob": b"", "tokens": []},
        {"text": "x", "label": 0, "blob": b"y", "tokens": [-7]},
    ]
    notes.insert(samples)
    run = notes.run("r")
    batch = next(iter(StreamDataset(run, batch_size=3)))
    order = run.epoch(0).order(range(3))
    texts, blobs = ["cät".encode(), b"", b"x"], [b"\x00\xff\x00", b"", b"y"]
    tokens = [[1, 2, 3], [], [-7]]
    assert batch["text"].numpy().tolist() == [texts[n] for n in order]
    assert batch["blob"].numpy().tolist() == [blobs[n] for n in order]
    np.testing.assert_array_equal(batch["label"], np.array([0, 1, 0])[order])
    assert isinstance(batch["tokens"], tf.RaggedTensor)
    assert batch["tokens"].to_list() == [tokens[n] for n in order]
    assert batch["tokens"].dtype == tf.int32


@given(seed=st.integers(0, 2**32), count=st.integers(1, 9), size=st.sampled_from([1, 2, 5, 20]))
@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_ragged_items_of_any_shape_arrive_in_pages_batches_and_tensors(
    reg: Registry, seed: int, count: int, size: int
) -> None:
    rng = np.random.default_rng(seed)
    shapes = [tuple(rng.integers(1, 4, rng.integers(3)).tolist()) for _ in DTYPES]
    ragged = {
        dtype: Ragged(dtype, (4,) if dtype == "float32" else shape)
        for dtype, shape in zip(DTYPES, shapes, strict=True)
    }
    dataset = reg.create(f"ragged-{next(_numbers)}", {"n": Tensor("int64"), **ragged})
    rows = [
        {"n": n, **{d: _items(rng, d, int(rng.integers(3)), f.shape) for d, f in ragged.items()}}
        for n in range(count)
    ]
    dataset.insert(rows)
    for page in dataset.pages(0):
        assert _values({name: page[name] for name in dataset.features}) == _values(rows)
    run = dataset.run("r")
    epoch = run.epoch(0)
    (mirrored,) = epoch.batches(20)
    assert _values(mirrored) == _values([rows[n] for n in mirrored["n"]])
    for batches, expected in (
        (EpochDataset(epoch, batch_size=size), epoch.batches(size)),
        (
            StreamDataset(run, batch_size=size, start=0).take(3),
            itertools.islice(run.stream(size, start=0), 3),
        ),
    ):
        for batch, wanted in zip(batches, expected, strict=True):
            for dtype, feature in ragged.items():
                assert batch[dtype].shape == (len(wanted["n"]), None, *feature.shape)
                assert batch[dtype].ragged_rank == 1
                cuts = batch[dtype].row_splits.numpy()[1:-1]
                batch[dtype] = np.split(batch[dtype].values.numpy(), cuts)
            assert _values(batch) == _values(wanted)


def _items(
    rng: np.random.Generator, dtype: str, count: int, shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    items = rng.integers(0, 2 if dtype == "bool" else 100, (count, *shape))
    return items.astype(dtype)


def _values(columns: Any) -> list[list[tuple[Any, ...]]]:
    """The values of columns, or of samples, as the bytes, shape and dtype of each."""
    if isinstance(columns, list):
        columns = {name: [row[name] for row in columns] for name in columns[0]}
    arrays = [[np.asarray(value) for value in column] for column in columns.values()]
    return [[(each.tobytes(), each.shape, each.dtype) for each in column] for column in arrays]


def test_values_of_every_dtype_arrive_to_the_bit(sqlite_url: str) -> None:
    rng = np.random.default_rng(1)
    columns = {
        name: rng.integers(0, 2, (500, 3)).astype(bool)
        if name == "bool"
        else rng.integers(0, 256, (500, 3 * np.dtype(name).itemsize), np.uint8).view(name)
        for name in DTYPES
    }
    # Values with several forms, or without an order: -0, infinities, NaNs with a payload.
    columns["float32"][:6, 0] = np.array(
        [0x80000000, 0x7F800000, 0x7FC00001, 0x7FA00000, 0xFFFFFFFF, 1], np.uint32
    ).view(np.float32)
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("all", {name: Tensor(name, (3,)) for name in DTYPES})
        dataset.insert(columns)
        run = dataset.run("r")
        order = run.epoch(0).order(range(500))
        for samples in (
            EpochDataset(run.epoch(0), batch_size=64),
            StreamDataset(run, batch_size=500),
        ):
            batches = list(samples.take(8).as_numpy_iterator())
            for name, column in columns.items():
                values = np.concatenate([batch[name] for batch in batches])[:500]
                assert values.dtype == name
                assert values.tobytes() == column[order].tobytes(), name


def test_a_stream_has_a_known_spec_and_can_be_mapped(digits: Dataset) -> None:
    digits.insert([digit(n) for n in range(8)])
    stream = StreamDataset(digits.run("r"), batch_size=4, x=["image"], y="label")
    assert isinstance(stream, tf.data.Dataset)
    assert stream.element_spec == (
        {"image": tf.TensorSpec((4, 2, 2), tf.uint8)},
        tf.TensorSpec((4,), tf.int32),
    )
    shifted = stream.map(lambda _, y: y + 1).take(2)
    assert sorted(label for batch in shifted for label in batch.numpy()) == list(range(1, 9))


def test_keras_trains_on_a_stream(digits: Dataset) -> None:
    digits.insert([digit(n) for n in range(32)])
    model = tf.keras.Sequential([tf.keras.layers.Flatten(), tf.keras.layers.Dense(10)])
    model.compile(loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    stream = StreamDataset(digits.run("r"), batch_size=8, x="image", y="label")
    history = model.fit(stream, steps_per_epoch=5, epochs=3, shuffle=False, verbose=0)
    assert len(history.history["loss"]) == 3
    assert int(model.optimizer.iterations) == 15


def test_an_unknown_feature_is_refused_by_name(digits: Dataset) -> None:
    with pytest.raises(FeatureError, match="no feature named 'img'; the features are 'image'"):
        StreamDataset(digits.run("r"), batch_size=4, x="img", y="label")
    with pytest.raises(FeatureError, match="y was named without x"):
        StreamDataset(digits.run("r"), batch_size=4, y="label")


def test_a_wait_that_is_no_number_of_seconds_is_refused(digits: Dataset) -> None:
    digits.insert([digit(0)])
    epoch = digits.run("r").epoch(0)
    values: list[Any] = [math.nan, -1, "60", None, True]
    for wait in values:
        with pytest.raises(FeatureError, match="no number of seconds from 0 on; give 60"):
            EpochDataset(epoch, batch_size=4, wait=wait)


def test_tuning_sharding_and_rewriting_are_off_unless_options_enable_them(digits: Dataset) -> None:
    mapped = StreamDataset(digits.run("r"), batch_size=4).map(lambda batch: batch["label"])
    options = mapped.options()
    assert options.autotune.enabled is False
    assert options.experimental_optimization.apply_default_optimizations is False
    assert (
        options.experimental_distribute.auto_shard_policy
        == tf.data.experimental.AutoShardPolicy.OFF
    )
    tuned = tf.data.Options()
    tuned.autotune.enabled = True
    tuned.experimental_optimization.apply_default_optimizations = True
    enabled = mapped.with_options(tuned).options()
    assert enabled.autotune.enabled is True
    assert enabled.experimental_optimization.apply_default_optimizations is True


@pytest.mark.parametrize("encoding", ["png", "jpeg"])
def test_images_are_decoded_with_their_labels_and_weights(reg: Registry, encoding: str) -> None:
    epoch = _photos(reg, encoding).run("r").epoch(0)
    dataset = EpochDataset(epoch, batch_size=4, x="photo", y="label", weight="weight")
    assert dataset.cardinality() == 3
    all_labels = []
    for images, labels, weights in dataset:
        assert images.dtype == tf.uint8
        assert images.shape[1:] == (6, 8, 3)
        np.testing.assert_allclose(images[:, 0, 0, 0], 20 * labels.numpy(), atol=2)
        np.testing.assert_allclose(weights, labels.numpy() / 10, rtol=1e-6)
        all_labels += labels.numpy().tolist()
    assert all_labels == [n for batch in epoch.batches(4) for n in batch["label"].tolist()]


@pytest.mark.parametrize("encoding", ["png", "jpeg"])
def test_a_stream_of_images_is_endless_and_in_the_order_of_the_epoch(
    reg: Registry, encoding: str
) -> None:
    run = _photos(reg, encoding).run("r")
    order = [n for batch in run.epoch(0).batches(4) for n in batch["label"].tolist()]
    named: dict[str, Any] = {"x": "photo", "y": "label", "weight": "weight"}
    stream = StreamDataset(run, batch_size=4, start=0, **named)
    assert stream.cardinality() == tf.data.INFINITE_CARDINALITY
    assert [label for _, y, _ in stream.take(5) for label in y.numpy().tolist()][:10] == order


@pytest.mark.parametrize("encoding", ["png", "jpeg"])
def test_images_are_resized_and_have_as_many_channels_as_asked(
    reg: Registry, encoding: str
) -> None:
    epoch = _photos(reg, encoding).run("r").epoch(0)
    small = EpochDataset(epoch, batch_size=4, x="photo", image_size=(3, 2), channels=1)
    assert next(iter(small)).shape == (4, 3, 2, 1)


def _photos(reg: Registry, encoding: str) -> Dataset:
    """Ten images of one brightness each, 20 times the label."""
    encode = {"png": tf.io.encode_png, "jpeg": tf.io.encode_jpeg}[encoding]
    photos = reg.create(
        "photos",
        {"photo": Image(encoding), "label": ClassLabel(10), "weight": Tensor("float32")},  # type: ignore[arg-type]
    )
    pixels = [np.full((6, 8, 3), 20 * label, np.uint8) for label in range(10)]
    files = [encode(image).numpy() for image in pixels]
    photos.insert({"photo": files, "label": np.arange(10), "weight": np.arange(10) / 10})
    return photos
