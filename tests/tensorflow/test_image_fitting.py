"""Images of any size become one size, and their boxes stay on what they enclose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from registry import ClassLabel, Dataset, Image, Ragged, Registry
from registry.errors import FeatureError
from registry.io.labeling.boxes import Size, boxes_of
from registry.samples.box_formats import BOX_FORMATS, BoxFormat
from registry.tensorflow import EpochDataset, StreamDataset
from registry.tensorflow.image_fitting import RATIOS, Ratio

COUNT = 12
TARGET = (96, 64)
FEATURES: dict[str, Any] = {
    "image": Image(),
    "number": ClassLabel(COUNT),
    **{form: Ragged("float32", (4,)) for form in BOX_FORMATS},
    "whole_pixels": Ragged("int32", (4,)),
}
FORMATS: dict[str, BoxFormat] = dict(zip(BOX_FORMATS, BOX_FORMATS, strict=True))
FORMATS["whole_pixels"] = "xyxy"


def drawing(number: int) -> tuple[Any, Any, Any]:
    """Return an image with a white rectangle in the middle and one at the left; and both boxes."""
    rng = np.random.default_rng(number)
    height, width = (int(side) for side in rng.integers(40, 200, 2))
    pixels = np.zeros((height, width, 3), np.uint8)
    # Within the part that every ratio keeps.
    top, left = height // 2 - 8, width // 2 - 6
    boxes = np.array([[left, top, left + 12, top + 16], [0, 0, 1, height]])
    pixels[top : top + 16, left : left + 12, 0] = 255
    pixels[:, :1, 1] = 255
    return pixels, boxes, Size(width, height)


@pytest.fixture
def drawings(reg: Registry) -> Dataset:
    dataset = reg.create("drawings", FEATURES)
    rows = []
    for number in range(COUNT):
        pixels, boxes, size = drawing(number)
        corners = boxes / [size.width, size.height, size.width, size.height]
        formats = {form: boxes_of(corners, form, size) for form in BOX_FORMATS}
        values: dict[str, Any] = {"image": pixels, "number": number, "whole_pixels": boxes}
        rows.append(values | formats)
    dataset.insert(rows)
    return dataset


def in_pixels(box: Any, form: str) -> Any:
    """Return left, top, right and bottom in the fitted image, from a box in a format."""
    height, width = TARGET
    if form.startswith("rel_"):
        box = box * ([height, width] * 2 if form == "rel_yxyx" else [width, height] * 2)
    if form == "rel_yxyx":
        return box[[1, 0, 3, 2]]
    if form == "xywh":
        return np.concatenate([box[:2], box[:2] + box[2:]])
    if form == "center_xywh":
        return np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])
    return box


@pytest.mark.parametrize("ratio", RATIOS)
def test_boxes_enclose_the_same_pixels_after_an_image_is_fitted(
    drawings: Dataset, ratio: Ratio
) -> None:
    epoch = drawings.run("r").epoch(0)
    options: dict[str, Any] = {"image_size": TARGET, "ratio": ratio, "boxes": FORMATS}
    shape = {"shape": "image_shape", **{name: name for name in FEATURES}}
    numbers = []
    for batch in EpochDataset(epoch, batch_size=5, x=shape, **options):
        for row, number in enumerate(batch["number"].numpy()):
            pixels, _, size = drawing(number)
            assert batch["shape"][row].numpy().tolist() == [size.height, size.width]
            bright = np.argwhere(batch["image"][row].numpy()[..., 0] > 127)
            top, left = bright.min(0)
            bottom, right = bright.max(0) + 1
            for name, form in FORMATS.items():
                box, at_left = batch[name][row].numpy()
                np.testing.assert_allclose(
                    in_pixels(box, form), [left, top, right, bottom], atol=1.1, err_msg=name
                )
                x0, y0, x1, y1 = in_pixels(at_left, form)
                assert -1e-3 <= x0 <= x1 <= TARGET[1] + 1e-3
                assert -1e-3 <= y0 <= y1 <= TARGET[0] + 1e-3
            numbers.append(number)
            if ratio == "stretch":
                plain = tf.image.resize(pixels, TARGET).numpy().round()
                np.testing.assert_array_equal(batch["image"][row], plain)
    assert sorted(numbers) == list(range(COUNT))


def test_padding_keeps_all_pixels_and_cropping_fills_the_size(drawings: Dataset) -> None:
    run = drawings.run("r")
    fitted = {}
    for ratio in RATIOS:
        named: dict[str, Any] = {"x": ["image", "number"], "image_size": TARGET, "ratio": ratio}
        (batch,) = StreamDataset(run, batch_size=COUNT, start=0, **named).take(1)
        order = np.argsort(batch["number"])
        fitted[ratio] = batch["image"].numpy()[order]
    for number in range(COUNT):
        pixels, _, size = drawing(number)
        scale = min(TARGET[0] / size.height, TARGET[1] / size.width)
        scaled = [round(size.height * scale), round(size.width * scale)]
        resized = tf.image.resize(pixels, scaled).numpy().round()
        top, left = ((side - part) // 2 for side, part in zip(TARGET, scaled, strict=True))
        padded = np.zeros((*TARGET, 3))
        padded[top : top + scaled[0], left : left + scaled[1]] = resized
        np.testing.assert_array_equal(fitted["pad"][number], padded)
        # The rectangle in the middle keeps its ratio of height to width, but for rounded pixels.
        bright = np.argwhere(fitted["crop"][number][..., 0] > 127)
        height, width = bright.max(0) + 1 - bright.min(0)
        scale = max(TARGET[0] / size.height, TARGET[1] / size.width)
        assert abs(height - 16 * scale) <= 1.1
        assert abs(width - 12 * scale) <= 1.1


def test_images_of_extreme_ratios_are_fitted(reg: Registry) -> None:
    dataset = reg.create("lines", {"image": Image()})
    long = np.full((1, 9000, 3), 255, np.uint8)
    dataset.insert({"image": [long, long.transpose(1, 0, 2), long[:, :1]]})
    epoch = dataset.run("r").epoch(0)
    for ratio in RATIOS:
        (batch,) = EpochDataset(epoch, batch_size=3, image_size=(32, 16), ratio=ratio)
        assert batch["image"].shape == (3, 32, 16, 3)
        assert batch["image"].numpy().max(axis=(1, 2, 3)).tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": "fill"}, "ratio is one of stretch, pad, crop, not 'fill'"),
        ({"image_size": None, "ratio": "pad"}, "ratio='pad' needs image_size="),
        ({"image_size": (0, 8)}, "image_size is .*not \\(0, 8\\)"),
        ({"image_size": 224}, "image_size is .*not 224"),
        ({"ratio": "crop"}, "pass boxes='rel_xyxy', or boxes={} if"),
        ({"boxes": "number"}, "boxes='number': boxes are a feature Ragged"),
        ({"boxes": {"xyxy": "yxyx"}}, "format 'yxyx': use one of rel_xyxy, "),
        ({"x": ["number", "image_shape"]}, "that of one decoded image, but there are 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    drawings: Dataset, options: dict[str, Any], message: str
) -> None:
    epoch = drawings.run("r").epoch(0)
    with pytest.raises(FeatureError, match=message):
        EpochDataset(epoch, batch_size=2, **{"image_size": (8, 8), **options})
