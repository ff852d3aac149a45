"""Boxes in the named formats: conversion to and fro, what is refused, and hulls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.io.labeling.boxes import (
    BoxError,
    Size,
    box_format,
    boxes_of,
    corners_of,
    hull,
    rotate,
)
from registry.samples.box_formats import BOX_FORMATS, BoxFormat

SIZE = Size(200, 100)
BOX: dict[str, list[float]] = {
    "rel_xyxy": [0.1, 0.2, 0.4, 0.8],
    "rel_yxyx": [0.2, 0.1, 0.8, 0.4],
    "xyxy": [20, 20, 80, 80],
    "xywh": [20, 20, 60, 60],
    "center_xywh": [50, 50, 60, 60],
}


@pytest.mark.parametrize("form", BOX_FORMATS)
def test_every_format_names_the_same_box(form: BoxFormat) -> None:
    corners = corners_of([BOX[form]], form, SIZE)
    assert corners == pytest.approx(np.array([BOX["rel_xyxy"]]))
    assert boxes_of(corners, form, SIZE) == pytest.approx(np.array([BOX[form]]))
    assert boxes_of(corners_of([], form, SIZE), form, SIZE).shape == (0, 4)


def test_the_formats_of_tools_are_read() -> None:
    for form, box in (
        ("rel_xywh", [0.1, 0.2, 0.3, 0.6]),
        ("rel_center_xywh", [0.25, 0.5, 0.3, 0.6]),
    ):
        corners = corners_of([box], form, None)  # type: ignore[arg-type]  # of a literal
        assert corners == pytest.approx(np.array([BOX["rel_xyxy"]]))


SIDE = st.tuples(st.integers(0, 999), st.integers(1, 1000)).map(
    lambda pair: (pair[0] / 1000, min(1.0, (pair[0] + pair[1]) / 1000))
)


@given(
    sides=st.lists(st.tuples(SIDE, SIDE), max_size=4),
    form=st.sampled_from(BOX_FORMATS),
    size=st.builds(Size, st.integers(1, 5000), st.integers(1, 5000)),
)
def test_conversion_to_and_fro_keeps_boxes(sides: Any, form: BoxFormat, size: Size) -> None:
    corners = np.array([(x[0], y[0], x[1], y[1]) for x, y in sides]).reshape(-1, 4)
    again = corners_of(boxes_of(corners, form, size), form, size)
    assert again == pytest.approx(corners, abs=1e-12)


@pytest.mark.parametrize(
    ("form", "box", "reason"),
    [
        ("xywh", [1, 2, 0, 4], "the box (1, 2, 0, 4) has no area"),
        ("xywh", [1, 2, 3, -4], "the box (1, 2, 3, -4) has no area"),
        ("xywh", [1, 2, 1e-9, 4], "has no area"),
        ("xyxy", [30, 2, 20, 4], "has no area"),
        ("xywh", [199, 2, 5, 4], "the box (199, 2, 5, 4) exceeds the image by over 1% of its side"),
        ("xywh", [200.5, 2, 1, 4], "has no area within the image"),
        ("rel_xyxy", [-0.02, 0, 1, 1], "exceeds the image"),
        ("rel_xyxy", [0, 0, float("nan"), 1], "the box (0, 0, nan, 1) is not finite"),
        ("center_xywh", [0, 0, float("inf"), 1], "is not finite"),
        ("xywh", [1.7e308, 0, 1.7e308, 1], "is not finite"),
    ],
)
def test_a_box_that_cannot_be_is_refused_by_name(form: Any, box: Any, reason: str) -> None:
    fits = boxes_of(np.array([[0, 0, 1, 1]]), form, SIZE)
    with pytest.raises(BoxError) as caught:
        corners_of([*fits, box], form, SIZE)
    assert caught.value.index == 1
    assert reason in str(caught.value)


def test_a_box_within_the_slack_is_clipped() -> None:
    assert corners_of([[-1, -0.5, 202, 101]], "xywh", SIZE).tolist() == [[0, 0, 1, 1]]


def test_pixels_need_the_size() -> None:
    with pytest.raises(ValueError, match="the image's size is not known, and xywh is in pixels"):
        boxes_of(np.array([[0, 0, 1, 1]]), "xywh", None)
    with pytest.raises(ValueError, match="'xy' is no format of boxes; choose one of rel_xyxy"):
        box_format("xy")


@given(degrees=st.integers(-720, 720), pivot=st.sampled_from([(20, 30), (50, 45)]))
def test_a_hull_encloses_the_rotated_box(degrees: int, pivot: tuple[float, float]) -> None:
    # The model: every point of the outline, as a complex number, rotated clockwise (y is down).
    x, y, width, height = 20, 30, 60, 30
    share = np.linspace(0, 1, 50)
    edges = [x + share * width + y * 1j, x + share * width + (y + height) * 1j]
    edges += [x + (y + share * height) * 1j, x + width + (y + share * height) * 1j]
    center = complex(*pivot)
    outline = (np.concatenate(edges) - center) * np.exp(1j * np.deg2rad(degrees)) + center
    expected = [outline.real.min(), outline.imag.min(), outline.real.max(), outline.imag.max()]
    assert hull(rotate([x, y, width, height], degrees, pivot)) == pytest.approx(expected)
