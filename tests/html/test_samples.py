"""Drawings of samples: every value that features accept, boxes over images, small plots."""

from __future__ import annotations

import io
import json
import re
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from registry import ClassLabel, Features, Image, Ragged, Tensor, Text
from registry.html.boxes import box_features
from registry.html.drawings import SAMPLE, Picture, Plot
from registry.html.plots import HEIGHT, lines_of, pixels_of
from registry.html.samples import draw_sample
from registry.html.text_difference import text_difference
from registry.html.thumbnails import ThumbnailError, thumbnail_of_file
from registry.samples.box_formats import BOX_FORMATS
from tests.samples.test_codec import mappings, values
from tests.support.image_files import broken, chunk, photo, png

FILE = photo(50, 100)
UNREADABLE = png().replace(chunk(b"IDAT", zlib.compress(bytes(2))), chunk(b"IDAT", b"0"))


@given(st.data())
def test_every_value_that_features_accept_is_drawn(data: st.DataObject) -> None:
    features = Features(data.draw(mappings))
    rows = st.fixed_dictionaries({name: values(each) for name, each in features.items()})
    sample, older = data.draw(rows), data.draw(rows)
    whole = draw_sample(features, sample, SAMPLE, older)
    assert [each.name for each in whole] == list(features)
    assert not any(each.changed for each in draw_sample(features, sample, SAMPLE, sample))


@pytest.mark.parametrize("form", BOX_FORMATS)
def test_boxes_are_drawn_where_they_are_in_each_format(form: str) -> None:
    # From 20 % to 60 % of the width of 100, from 20 % to 80 % of the height of 50.
    box = {
        "rel_xyxy": (0.2, 0.2, 0.6, 0.8),
        "rel_yxyx": (0.2, 0.2, 0.8, 0.6),
        "xyxy": (20, 10, 60, 40),
        "xywh": (20, 10, 40, 30),
        "center_xywh": (40, 25, 40, 30),
    }[form]
    features = Features(
        {
            "image": Image(),
            f"boxes_{form}": Ragged("float64", (4,)),
            "labels": Ragged("int32"),
            "iscrowd": Ragged("int32"),
            "score": Ragged("float32"),
            "label": ClassLabel(["cat", "dog"]),
        }
    )
    sample = {
        "image": FILE,
        f"boxes_{form}": np.array([box, (np.nan, 0, 1, 1)]),
        "labels": np.array([1, 0]),
        "iscrowd": np.array([0, 0]),
        "score": np.array([0.5, 0.25]),
        "label": 0,
    }
    picture, *others = draw_sample(features, sample)
    assert isinstance(picture, Picture)
    (drawn,) = picture.boxes
    sides = (drawn.left, drawn.top, drawn.width, drawn.height)
    assert sides == pytest.approx((20, 20, 40, 60))
    assert (drawn.label, drawn.color) == ("dog 0.50", 1)
    assert picture.alt == "image, 100\xa0\xd7\xa050 jpeg: dog 0.50"
    # What is drawn over the image is not listed again.
    assert [each.name for each in others] == ["iscrowd", "label"]


def test_boxes_are_those_of_the_image_with_the_most_similar_name() -> None:
    boxes, classes = Ragged("float32", (4,)), Ragged("int64")
    features = Features(
        {
            "left_image": Image(),
            "right_image": Image(),
            "right_boxes": boxes,
            "boxes_of_left": boxes,
            "left_classes": classes,
            "right_classes": classes,
        }
    )
    named = {each.boxes: (each.image, each.classes[0]) for each in box_features(features)}
    assert named == {
        "right_boxes": ("right_image", "right_classes"),
        "boxes_of_left": ("left_image", "left_classes"),
    }
    assert box_features(Features({"rotation": boxes})) == []


def test_classes_of_boxes_have_the_names_that_a_text_lists() -> None:
    features = Features(
        {
            "image": Image(),
            "boxes": Ragged("float32", (4,)),
            "classes": Ragged("int8"),
            "names": Text(),
        }
    )
    sample: dict[str, Any] = {
        "image": FILE,
        "boxes": np.array([[0, 0, 1, 1], [0, 0, 0.5, 0.5]], np.float32),
        "classes": np.array([1, 7], np.int8),
    }
    for names, shown in ((json.dumps(["a", "<b>"]), ["<b>", "7"]), ("[" * 9999, ["1", "7"])):
        (picture,) = draw_sample(features, {**sample, "names": names})
        assert isinstance(picture, Picture)
        assert [box.label for box in picture.boxes] == shown


def test_a_gallery_draws_pictures_first_and_only_some_features() -> None:
    names = [f"n{number}" for number in range(20)]
    features = Features(
        {name: ClassLabel(2) for name in names}
        | {"mask": Tensor("uint8", (9, 9)), "photo": Image(), "wide": Tensor("uint8", (9, 2))}
    )
    sample = {**dict.fromkeys(names, 1), "mask": np.eye(9), "photo": FILE, "wide": np.zeros((9, 2))}
    drawn = [each.name for each in draw_sample(features, sample)]
    assert drawn == ["mask", "photo", *names[:6]]
    assert [each.name for each in draw_sample(features, sample, SAMPLE)] == list(features)


def test_boxes_that_a_revision_changed_are_marked() -> None:
    features = Features({"image": Image(), "boxes": Ragged("float32", (4,))})
    kept, new = (0.25, 0.25, 0.5, 0.5), (0, 0, 0.5, 0.25)
    older = {"image": FILE, "boxes": np.array([kept], np.float32)}
    newer = {"image": FILE, "boxes": np.array([new, kept], np.float32)}
    picture, boxes = draw_sample(features, newer, SAMPLE, older)
    assert isinstance(picture, Picture)
    assert [box.changed for box in picture.boxes] == [True, False]
    assert picture.changed
    assert boxes.changed


def test_images_that_exceed_a_limit_or_are_damaged_are_placeholders() -> None:
    scans = FILE[:-2] + b"\xff\xda" * 101 + FILE[-2:]
    for file, reason in (
        (png(10_000, 10_000), "10,000 by 10,000 pixels are too many"),
        (UNREADABLE, "damaged"),
        (broken(FILE), "damaged"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"no image", "damaged"),
        (scans, "too many scans"),
        (FILE + bytes(33 << 20), "33 MB|34 MB|35 MB"),
    ):
        with pytest.raises(ThumbnailError, match=reason):
            thumbnail_of_file(file, 100)
        (picture,) = draw_sample(Features({"image": Image()}), {"image": file})
        assert isinstance(picture, Picture)
        assert re.search(reason, picture.problem)


def test_thumbnails_are_small_and_without_the_metadata_of_a_photo() -> None:
    exif = Pillow.Exif()
    exif[0x0112], exif[0x010E] = 6, "where it was taken"  # turned by 90 degrees
    file = photo(300, 600, exif=exif.tobytes(), comment="said by a person")
    texts = (b"where it was taken", b"said by a person")
    assert all(text in file for text in texts)
    small = thumbnail_of_file(file, 120)
    assert (small.width, small.height, small.media_type) == (120, 60, "image/jpeg")
    assert not any(text in small.data for text in texts)
    with Pillow.open(io.BytesIO(small.data)) as image:
        assert image.size == (120, 60)
        assert not image.getexif()


@pytest.mark.parametrize(
    ("mode", "options", "expected"),
    [
        ("RGBA", {"format": "PNG"}, "RGBA"),
        ("L", {"format": "PNG"}, "L"),
        ("CMYK", {"format": "JPEG"}, "RGB"),
        ("RGB", {"format": "WEBP", "lossless": True}, "RGB"),
        ("RGB", {"format": "GIF"}, "RGB"),
        ("RGB", {"format": "BMP"}, "RGB"),
    ],
)
def test_images_of_every_encoding_become_thumbnails(
    mode: str, options: dict[str, Any], expected: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, max(1, len(mode))), np.uint8)
    image = Pillow.frombytes(mode, (30, 40), pixels.tobytes())
    file = io.BytesIO()
    image.save(file, **options)
    with Pillow.open(io.BytesIO(thumbnail_of_file(file.getvalue(), 40).data)) as drawn:
        assert (drawn.mode, drawn.size) == (expected, (30, 40))


def test_arrays_become_images_whose_values_use_the_range_from_black_to_white() -> None:
    dark = np.arange(16, dtype=np.uint8).reshape(4, 4)  # as scikit-learn's digits are
    shades = pixels_of(dark)
    assert shades is not None
    assert shades.tolist() == (dark * 17).tolist()
    bright = dark * 17
    for same in (bright, bright.astype(np.float64) / 255 - 3, bright[:, :, np.newaxis]):
        shades = pixels_of(same)
        assert shades is not None
        assert np.array_equal(shades, bright)
    channels = np.random.default_rng(0).random((3, 5, 6), np.float32)
    colors = pixels_of(channels)
    assert colors is not None
    assert np.array_equal(colors, np.rint(channels * 255).astype(np.uint8).transpose(1, 2, 0))
    assert pixels_of(np.zeros((3, 3))) is None
    assert pixels_of(np.zeros((2, 4, 9, 9))) is None


def test_lines_keep_the_peaks_of_long_arrays_and_leave_gaps() -> None:
    array = np.zeros(100_000, np.float32)
    array[61_801] = 5
    lines = lines_of(array)
    assert lines is not None
    (path,) = lines.paths
    assert (lines.low, lines.high) == (0, 5)
    assert len(path) < 10_000
    assert " 4.0L" in path  # the peak, at the top
    gaps = np.array([1, 2, np.nan, np.inf, 2, 1] * 2)
    drawn = draw_sample(Features({"x": Tensor("float64", (12,))}), {"x": gaps})[0]
    assert isinstance(drawn, Plot)
    assert [path.count("M") for path in drawn.paths] == [3]
    assert (drawn.low, drawn.high) == ("1", "2")
    assert f" {HEIGHT - 4}.0" in drawn.paths[0]


@given(st.text(max_size=60), st.text(max_size=60))
def test_the_parts_of_two_texts_make_up_both(older: str, newer: str) -> None:
    parts = text_difference(older, newer)
    assert "".join(each.text for each in parts if each.change != "removed") == newer
    assert "".join(each.text for each in parts if each.change != "added") == older


def test_one_changed_word_is_marked_alone() -> None:
    parts = text_difference("it lasts two days", "it lasts three days")
    assert [(each.text, each.change) for each in parts] == [
        ("it lasts ", ""),
        ("two ", "removed"),
        ("three ", "added"),
        ("days", ""),
    ]
