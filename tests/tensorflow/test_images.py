"""Images in batches: next to values of any length, and named where they cannot be decoded."""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image as Pillow

from registry import Bytes, ClassLabel, Dataset, Image, Ragged, Registry, Tensor, Text
from registry.keras import fit
from registry.samples.features import DTYPES, Feature
from registry.tensorflow import EpochDataset, StreamDataset, image_errors
from registry.training.run import Run
from tests.support.image_files import broken as broken_file
from tests.support.image_files import photo

EVERYTHING: dict[str, Feature] = {
    "photo": Image("jpeg"),
    "scan": Image(),
    "label": ClassLabel(100),
    "point": Tensor("float32", (2,)),
    "note": Text(),
    "blob": Bytes(),
    "boxes": Ragged("float32", (4,)),
    "pairs": Ragged("bool", (2, 3)),
    **{dtype: Ragged(dtype) for dtype in DTYPES},
}
COUNT = 23


def sample(number: int) -> dict[str, Any]:
    """A sample with all features; its number decides how long its values are."""
    rng = np.random.default_rng(number)
    values = rng.integers(0, 2, (len(DTYPES), number % 7))
    return {
        "photo": photo(16, 16, seed=number),
        "scan": photo(8, 12, seed=number, format="PNG"),
        "label": number,
        "point": [number, -number],
        "note": "ä" * number,
        "blob": bytes(number),
        "boxes": rng.random((number % 5, 4), np.float32),
        "pairs": rng.integers(0, 2, (number % 3, 2, 3)).astype(bool),
        **{dtype: row.astype(dtype) for dtype, row in zip(DTYPES, values, strict=True)},
    }


@pytest.fixture
def everything(reg: Registry) -> Dataset:
    dataset = reg.create("everything", EVERYTHING)
    dataset.insert([sample(number) for number in range(COUNT)])
    return dataset


def check(batches: Iterable[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Assert that batches hold these samples, to the bit."""
    samples = iter(expected)
    for batch in batches:
        columns = {name: _rows(EVERYTHING[name], column) for name, column in batch.items()}
        for row, number in enumerate(columns["label"]):
            wanted = next(samples)
            pixels, scan = tf.io.decode_jpeg(wanted["photo"]), tf.io.decode_png(wanted["scan"])
            wanted |= {"photo": pixels.numpy(), "scan": scan.numpy()}
            wanted["note"] = wanted["note"].encode()
            assert number == wanted["label"]
            for name, column in columns.items():
                np.testing.assert_array_equal(column[row], wanted[name], err_msg=name)
    assert next(samples, None) is None


def _rows(feature: Feature, column: Any) -> Any:
    """The values of a column of a batch, one after another."""
    if not isinstance(feature, Ragged):
        return column.numpy()
    assert isinstance(column, tf.RaggedTensor)
    assert column.ragged_rank == 1
    assert column.shape[2:] == feature.shape
    assert column.dtype == feature.dtype
    return np.split(column.values.numpy(), column.row_splits.numpy()[1:-1])


@pytest.mark.parametrize("size", [4, 50])
def test_images_are_batched_with_values_of_any_length(everything: Dataset, size: int) -> None:
    run = everything.run("r")
    epoch = run.epoch(0)
    for shard in ((0, 1), (1, 2)):
        expected = [
            sample(int(number))
            for batch in epoch.batches(size, shard=shard)
            for number in batch["label"]
        ]
        batches = EpochDataset(epoch, batch_size=size, shard=shard)
        assert batches.cardinality() == -(-len(expected) // size)
        check(batches, expected)
        stream = run.stream(size, shard=shard, start=0)
        labels = [n for batch in itertools.islice(stream, 3) for n in batch["label"].tolist()]
        batches = StreamDataset(run, batch_size=size, shard=shard, start=0).take(3)
        check(batches, [sample(number) for number in labels])


def test_fit_trains_on_images_with_boxes_of_any_number(reg: Registry) -> None:
    features: dict[str, Feature] = {
        "photo": Image(),
        "boxes": Ragged("float32", (4,)),
        "y": Tensor("float32"),
    }
    dataset = reg.create("boxes", features)
    boxes = [np.ones((n % 4, 4), np.float32) for n in range(10)]
    photos = [photo(9, 13 + n % 2, seed=n, format=["PNG", "JPEG"][n % 2]) for n in range(10)]
    dataset.insert({"photo": photos, "boxes": boxes, "y": np.zeros(10)})
    trained: list[int] = []

    class Mean(keras.Model):  # type: ignore[misc]  # Keras ships no types
        def build(self, _: Any) -> None:
            self.factor = self.add_weight()

        def call(self, inputs: Any) -> Any:
            assert inputs["boxes"].shape[1:] == (None, 4)
            lengths = inputs["boxes"].row_lengths()
            tf.py_function(lambda lengths: trained.extend(lengths.numpy()), [lengths], [])
            pixels = tf.cast(inputs["photo"], tf.float32)
            return self.factor * tf.reduce_mean(pixels, [1, 2, 3])

    model = Mean()
    model.compile("sgd", "mse", jit_compile=False)
    run = dataset.run("r")
    model.build(None)
    arguments = {"image_size": (8, 8)}
    named: dict[str, Any] = {"x": ["photo", "boxes"], "y": "y", "dataset_arguments": arguments}
    fit(model, run, epochs=2, batch_size=4, **named, verbose=0)
    assert sorted(trained) == sorted(2 * [len(values) for values in boxes])
    assert run.consumed == 20


def test_a_stream_yields_full_batches_while_it_waits_for_more_samples(everything: Dataset) -> None:
    run = everything.run("r", policy="new")
    stream = iter(StreamDataset(run, batch_size=4, x=["label", "photo"]))
    labels = [n for _ in range(COUNT // 4) for n in next(stream)["label"].numpy().tolist()]
    assert len(labels) == COUNT // 4 * 4
    everything.insert([sample(number) for number in range(COUNT, COUNT + 2)])
    assert len(next(stream)["label"]) == 4
    del stream


FILES = [
    photo(8, 6, mode=mode, format=form, **options)
    for form, modes, options in (
        ("JPEG", ["L", "RGB"], {"quality": 95}),
        ("PNG", ["L", "LA", "RGB", "RGBA"], {}),
        ("GIF", ["L", "RGB"], {}),
        ("GIF", ["RGB"], {"save_all": True, "append_images": [Pillow.new("RGB", (6, 8))]}),
        ("BMP", ["L", "RGB"], {}),
        ("WEBP", ["RGB", "RGBA"], {"lossless": True, "exact": True}),
    )
    for mode in modes
]
FILES[-3] += b"\0\0"  # a BMP file, as some programs write it


@pytest.fixture
def mixed(reg: Registry) -> Dataset:
    """Files of all encodings and as many channels as they can have, with boxes."""
    features: dict[str, Feature] = {
        "photo": Image(),
        "boxes": Ragged("float32", (4,)),
        "label": ClassLabel(100),
    }
    dataset = reg.create("mixed", features)
    wide = io.BytesIO()
    gray = np.random.default_rng(0).integers(0, 2**16, (8, 6), np.uint16)
    Pillow.fromarray(gray).save(wide, "PNG")
    files = [*FILES, wide.getvalue()]
    boxes = [np.full((number % 4, 4), number, np.float32) for number in range(len(files))]
    dataset.insert({"photo": files, "boxes": boxes, "label": range(len(files))})
    return dataset


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_of_all_encodings_are_decoded_to_what_pillow_makes_of_them(
    mixed: Dataset, channels: int
) -> None:
    epoch = mixed.run("r").epoch(0)
    (expected,) = epoch.batches(50, decode_images=True, channels=channels)
    (batch,) = EpochDataset(epoch, batch_size=50, channels=channels)
    assert batch["photo"].shape == (len(FILES) + 1, 8, 6, channels)
    for number, pixels, image in zip(
        expected["label"], expected["photo"], batch["photo"].numpy(), strict=True
    ):
        # Decoders of JPEG may round differently, and so may formulas of gray.
        slack = 10 if number < 2 else 1 if channels == 1 else 0
        difference = np.abs(pixels.astype(int) - image)
        assert difference.max() <= slack, (number, FILES[number][:12])


@pytest.mark.parametrize(
    ("size", "shard", "drop"),
    [(1, (0, 1), False), (2, (1, 3), True), (5, (0, 1), False), (50, (1, 3), False)],
)
def test_batches_of_images_with_boxes_equal_those_of_numpy_at_any_size(
    mixed: Dataset, size: int, shard: tuple[int, int], drop: bool
) -> None:
    run = mixed.run("r")
    epoch = run.epoch(0)
    options: dict[str, Any] = {"shard": shard, "start": 2}
    expected = epoch.batches(size, drop_remainder=drop, decode_images=True, **options)
    dataset = EpochDataset(epoch, batch_size=size, drop_remainder=drop, **options)
    assert _compare(dataset, expected) == dataset.cardinality()
    stream = itertools.islice(run.stream(size, decode_images=True, **options), 3)
    assert _compare(StreamDataset(run, batch_size=size, **options).take(3), stream) == 3
    files = EpochDataset(epoch, batch_size=size, decode_images=False, **options)
    for batch, expect in zip(files, epoch.batches(size, **options), strict=True):
        assert batch["photo"].numpy().tolist() == expect["photo"].tolist()
        assert batch["boxes"].shape[1:] == (None, 4)


def _compare(dataset: Any, expected: Iterable[dict[str, Any]]) -> int:
    """Assert that the batches are equal; return their number."""
    count = 0
    for batch, expect in zip(dataset, expected, strict=True):
        count += 1
        np.testing.assert_array_equal(batch["label"], expect["label"])
        np.testing.assert_allclose(batch["photo"], np.stack(expect["photo"]), atol=10)
        assert batch["boxes"].shape == (len(expect["label"]), None, 4)
        for boxes, wanted in zip(batch["boxes"], expect["boxes"], strict=True):
            np.testing.assert_array_equal(boxes.numpy(), wanted, strict=True)
    return count


@pytest.mark.parametrize("size", [2, 5])
def test_images_of_different_sizes_need_an_image_size(reg: Registry, size: int) -> None:
    dataset = reg.create("photos", {"photo": Image(), "label": ClassLabel(100)})
    files = [photo(9, 13 if number < 9 else 14, seed=number) for number in range(10)]
    keys = [f"scan-{number}" for number in range(10)]
    dataset.insert({"photo": files, "label": range(10)}, keys=keys)
    run = dataset.run("r")
    for batches in (
        EpochDataset(run.epoch(0), batch_size=size),
        StreamDataset(run, batch_size=size, start=0),
    ):
        _, error = _until_error(batches)
        assert "dataset 'photos', feature 'photo': the images of a batch have different" in error
        assert "(9, 14, 3) of key 'scan-9'" in error
        assert "pass image_size=(height, width)" in error
    shapes = [batch["photo"].shape for batch in EpochDataset(run.epoch(0), batch_size=1)]
    assert shapes.count((1, 9, 13, 3)) == 9
    for batch in EpochDataset(run.epoch(0), batch_size=size, image_size=(8, 8)):
        assert batch["photo"].shape == (size, 8, 8, 3)


def _photos(reg: Registry, *broken: int) -> Run:
    dataset = reg.create("photos", {"photo": Image("jpeg"), "label": ClassLabel(100)})
    files = [photo(16, 16, seed=number) for number in range(20)]
    for number in broken:
        files[number] = broken_file(files[number])
    keys = [f"scan-{number}" for number in range(20)]
    dataset.insert({"photo": files, "label": range(20)}, keys=keys)
    # The samples are of an older schema than the run.
    dataset.add_feature("second", Image("jpeg"), default=photo(16, 16, seed=20))
    return dataset.run("r")


def _until_error(batches: Iterable[Any]) -> tuple[list[int], str]:
    """The labels of the batches before an error, and its message."""
    labels: list[int] = []
    try:
        for batch in batches:
            labels += batch["label"].numpy().tolist()
    except tf.errors.OpError as error:
        return labels, str(error)
    pytest.fail("no batch raised an error")


@pytest.mark.parametrize("offset", [0, 6, 19])
def test_a_batch_names_the_image_that_cannot_be_decoded(reg: Registry, offset: int) -> None:
    order = np.concatenate([batch["label"] for batch in _photos(reg).epoch(0).batches(20)])
    number = int(order[offset])
    reg.drop("photos")
    run = _photos(reg, number)
    message = (
        f"dataset 'photos', position {number}, key 'scan-{number}', feature 'photo': "
        "the image cannot be decoded (jpeg::Uncompress failed. Invalid JPEG data or crop window.)"
    )
    for batches in (
        EpochDataset(run.epoch(0), batch_size=4),
        StreamDataset(run, batch_size=4, start=0),
        EpochDataset(run.epoch(0), batch_size=4).map(lambda batch: batch),
    ):
        labels, error = _until_error(batches)
        assert message in error
        assert labels == order[: offset // 4 * 4].tolist(), "no batch lacks a sample silently"


def test_the_graph_names_the_position_where_the_key_cannot_be_read(
    reg: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(image_errors, "_LONGEST_DESCRIPTION", 0.1)
    monkeypatch.setattr(image_errors, "_refuse_broken", lambda *_: ended.wait(60))
    _, error = _until_error(EpochDataset(_photos(reg, 6).epoch(0), batch_size=4))
    ended.set()
    assert "`registry log photos --after 6`" in error


def test_a_training_names_the_image_that_cannot_be_decoded(reg: Registry) -> None:
    run = _photos(reg, 5, 6, 7)
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse", jit_compile=False)
    named: dict[str, Any] = {"x": "photo", "y": "label"}
    arguments = {"image_size": (8, 8)}
    with pytest.raises(tf.errors.OpError, match=r"dataset 'photos', position (5|6|7), key 'scan-"):
        fit(model, run, epochs=1, batch_size=4, dataset_arguments=arguments, **named, verbose=0)


def test_other_errors_of_a_stream_of_images_are_unchanged(reg: Registry) -> None:
    run = _photos(reg)
    epoch = run.epoch(0)
    reg.open("photos").erase("scan-3")
    _, error = _until_error(StreamDataset(run, batch_size=20, start=0))
    assert "key 'scan-3'" in error or "'scan-3' at position 3" in error
    with pytest.raises(Exception, match="content was erased"):
        EpochDataset(epoch, batch_size=4)
