"""A small detector trains on a COCO and on a YOLO dataset, and finds the shapes of the test split.

Each image has up to two bright shapes. The detector divides an image into cells: each predicts
whether the center of a box is in it, and where the box is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from PIL import Image as Pillow
from PIL import ImageDraw

import registry
from registry import Image, Ragged
from registry.io.import_file import insert_file
from registry.keras import fit
from registry.samples.features import Feature
from registry.tensorflow import EpochDataset

SIDE, CELLS, COUNT = 32, 4, 1000
FEATURES: dict[str, Feature] = {
    "image": Image(),
    "boxes": Ragged("float32", (4,)),
    "classes": Ragged("int32"),
}
Boxes = list[list[int]]


def drawing(rng: np.random.Generator) -> tuple[Pillow.Image, Boxes]:
    """Return an image of noise with up to two shapes, and their boxes: x, y, width and height."""
    image = Pillow.fromarray(rng.integers(0, 90, (SIDE, SIDE, 3), np.uint8))
    draw, boxes = ImageDraw.Draw(image), []
    # The shapes are in different halves, so that none covers another.
    for half in rng.permutation(2)[: rng.choice([0, 1, 1, 2])].tolist():
        width, height = rng.integers(8, 15, 2).tolist()
        x = half * SIDE // 2 + int(rng.integers(0, SIDE // 2 - width + 1))
        y = int(rng.integers(0, SIDE - height + 1))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        # Pillow draws both corners.
        shape((x, y, x + width - 1, y + height - 1), fill=(230, 220, 60 + 120 * half))
        boxes.append([x, y, width, height])
    return image, boxes


def write_coco(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    rng = np.random.default_rng(1)
    content: dict[str, list[Any]] = {"categories": [{"id": 1, "name": "shape"}]}
    images, annotations = content.setdefault("images", []), content.setdefault("annotations", [])
    for number in range(COUNT):
        image, boxes = drawing(rng)
        image.save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
        annotations += [
            {"id": len(annotations) + n, "image_id": number, "category_id": 1, "bbox": box}
            for n, box in enumerate(boxes)
        ]
    path = folder / "annotations" / "instances_all.json"
    path.write_text(json.dumps(content))
    return path


def write_yolo(folder: Path) -> Path:
    rng = np.random.default_rng(2)
    for name in ("images/train", "labels/train"):
        (folder / name).mkdir(parents=True)
    (folder / "data.yaml").write_text("train: images/train\nnames: [shape]\n")
    for number in range(COUNT):
        image, boxes = drawing(rng)
        image.save(folder / "images" / "train" / f"{number}.jpg", quality=95)
        lines = [
            f"0 {(x + w / 2) / SIDE} {(y + h / 2) / SIDE} {w / SIDE} {h / SIDE}\n"
            for x, y, w, h in boxes
        ]
        (folder / "labels" / "train" / f"{number}.txt").write_text("".join(lines))
    return folder


def prepared(images: tf.Tensor, boxes: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the images as floats, and for each cell whether a box has its center there, and it."""
    values, rows = boxes.values, boxes.value_rowids()
    centers = tf.cast((values[:, :2] + values[:, 2:]) / 2 * CELLS, tf.int64)
    cells = tf.concat([tf.cast(rows, tf.int64)[:, None], centers], 1)
    present = tf.concat([tf.ones_like(values[:, :1]), values], 1)
    size = tf.shape(images, tf.int64)[0]
    target = tf.tensor_scatter_nd_update(tf.zeros([size, CELLS, CELLS, 5]), cells, present)
    return tf.cast(images, tf.float32) / 255, target


def loss(target: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
    has_box = target[..., 0]
    presence = tf.nn.sigmoid_cross_entropy_with_logits(has_box, predicted[..., 0])
    distance = tf.reduce_sum(tf.abs(target[..., 1:] - predicted[..., 1:]), -1) * has_box
    return tf.reduce_sum(presence + 4 * distance) / (tf.reduce_sum(has_box) + 1)


def detector() -> keras.Model:
    inputs = keras.Input((SIDE, SIDE, 3))
    x = inputs
    for filters in (12, 24, 32):
        x = keras.layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu")(x)
    x = keras.layers.Conv2D(48, 3, padding="same", activation="relu")(x)
    # The cells are as tf.tensor_scatter_nd_update has them above: x before y.
    x = keras.layers.Permute((2, 1, 3))(x)
    x = keras.layers.Conv2D(5, 3, padding="same")(x)
    outputs = keras.layers.Reshape((CELLS, CELLS, 5))(CellCorners()(x))
    return keras.Model(inputs, outputs)


class CellCorners(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Adds where each cell is, which cannot be seen from its pixels."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        steps = (np.arange(CELLS, dtype=np.float32) + 0.5) / CELLS
        xs, ys = np.meshgrid(steps, steps, indexing="ij")
        return x + np.stack([np.zeros_like(xs), xs, ys, xs, ys], -1)[None]


def overlap(one: npt.NDArray[Any], others: npt.NDArray[Any]) -> float:
    """Return the intersection over union of a box and the best of others; 0 without any."""
    sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    common = sides.clip(0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1) + (one[2:] - one[:2]).prod()
    return float((common / (areas - common)).max(initial=0))


@pytest.mark.parametrize("write", [write_coco, write_yolo])
def test_a_detector_finds_the_shapes_of_the_test_split(
    sqlite_url: str, tmp_path: Path, write: Any
) -> None:
    keras.utils.set_random_seed(7)
    with registry.connect(sqlite_url) as reg:
        shapes = reg.create("shapes", FEATURES, splits={"train": 0.8, "test": 0.2})
        assert insert_file(shapes, write(tmp_path / "shapes")).inserted == COUNT
        model = detector()
        model.compile(
            keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(6e-3, 400)), loss
        )
        run = shapes.run("detector", seed=7, split="train")
        parts: dict[str, Any] = {"x": "image", "y": "boxes"}
        fit(model, run, epochs=8, batch_size=16, map=prepared, verbose=0, **parts)
        overlaps = []
        test = shapes.run("test", split="test").epoch(0)
        for images, boxes in EpochDataset(test, batch_size=16, **parts):
            predicted = model.predict_on_batch(prepared(images, boxes)[0]).reshape(-1, CELLS**2, 5)
            for cells, own in zip(predicted, boxes.numpy(), strict=True):
                detected = cells[cells[:, 0] > 0][:, 1:]
                overlaps += [overlap(box, detected) for box in np.asarray(own).reshape(-1, 4)]
                # A detection that is no shape counts as one that was missed.
                overlaps += [0] * max(0, len(detected) - len(own))
    assert len(overlaps) > 150
    assert np.mean(overlaps) >= 0.5
