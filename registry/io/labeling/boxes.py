"""Boxes in named formats: their conversion, the checks, and the hull of a rotated box.

The formats are those of `registry.samples.box_formats`. In between, boxes are *corners*: left, top,
right and bottom as shares of the image's width and height, as float64 of shape (n, 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from registry.samples.box_formats import BOX_FORMATS, BoxFormat

SourceFormat = BoxFormat | Literal["rel_xywh", "rel_center_xywh"]
"""The formats in which tools write boxes: Label Studio and YOLO have their own."""
_NO_AREA = "has no area within the image"
SLACK = 0.01
"""How far a box may exceed the image, as a share of the image's side; such a box is clipped."""

Array = npt.NDArray[np.float64]


class BoxError(ValueError):
    """A box that cannot be stored; ``index`` counts from 0."""

    def __init__(self, reason: str, index: int) -> None:
        super().__init__(reason)
        self.index = index


class Size(NamedTuple):
    """The width and height of an image in pixels."""

    width: int
    height: int


def corners_of(boxes: npt.ArrayLike, form: SourceFormat, size: Size | None) -> Array:
    """Return the corners of boxes, checked and clipped to the image; raises `BoxError`.

    ``size`` may be None if the format is relative. A box must be finite, have an area, and exceed
    the image by no more than `SLACK`.
    """
    given = np.asarray(boxes, np.float64).reshape(-1, 4)
    # Numbers that overflow, or are not finite, are refused after the conversion.
    with np.errstate(over="ignore", invalid="ignore"):
        corners = _to_xyxy(given, form.removeprefix("rel_"))
        if not form.startswith("rel_"):
            corners = corners / _scale(size, form)
    _refuse(~np.isfinite(corners), given, "is not finite")
    _refuse(corners[:, :2] >= corners[:, 2:], given, _NO_AREA)
    outside = (corners < -SLACK) | (corners > 1 + SLACK)
    _refuse(outside, given, f"exceeds the image by over {SLACK:.0%} of its side")
    corners = corners.clip(0, 1)
    # As float32, in which boxes are stored: a box that is narrower than that has no area there.
    stored = corners.astype(np.float32)
    _refuse(stored[:, :2] >= stored[:, 2:], given, _NO_AREA)
    return corners


def boxes_of(corners: Array, form: BoxFormat, size: Size | None) -> Array:
    """Return boxes of the format, of shape (n, 4); ``size`` may be None for a relative format."""
    if form == "rel_xyxy":
        return corners
    if form == "rel_yxyx":
        return corners[:, [1, 0, 3, 2]]
    pixels = corners * _scale(size, form)
    if form == "xyxy":
        return pixels
    sides = pixels[:, 2:] - pixels[:, :2]
    first = pixels[:, :2] if form == "xywh" else pixels[:, :2] + sides / 2
    return np.concatenate([first, sides], axis=1)


def hull(points: npt.ArrayLike, within: Size | None = None) -> list[float]:
    """Return left, top, right and bottom of the smallest upright box around points (x, y).

    It is clipped to the image if its size is given: the corner of a rotated box may be outside.
    """
    columns = np.asarray(points, np.float64)
    if within is not None:
        columns = columns.clip(0, within)
    return [*columns.min(0).tolist(), *columns.max(0).tolist()]


def rotate(sides: Sequence[float], degrees: float, pivot: tuple[float, float]) -> list[list[float]]:
    """Return the corners of a box, x, y, width and height in pixels, rotated clockwise."""
    x, y, width, height = sides
    angle = np.deg2rad(degrees)
    # The y axis points down, so that this turns clockwise.
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    upright = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])
    points: list[list[float]] = ((upright - pivot) @ matrix + pivot).tolist()
    return points


def box_format(name: str) -> BoxFormat:
    """Return the format of this name; raises `ValueError`."""
    for form in BOX_FORMATS:
        if form == name:
            return form
    raise ValueError(f"{name!r:.40} is no format of boxes; choose one of {', '.join(BOX_FORMATS)}")


def _to_xyxy(boxes: Array, order: str) -> Array:
    if order == "xyxy":
        return boxes
    if order == "yxyx":
        return boxes[:, [1, 0, 3, 2]]
    first, sides = boxes[:, :2], boxes[:, 2:]
    if order == "center_xywh":
        first = first - sides / 2
    return np.concatenate([first, first + sides], axis=1)


def _scale(size: Size | None, form: str) -> Array:
    if size is None:
        raise ValueError(f"the image's size is not known, and {form} is in pixels")
    return np.array([*size, *size], np.float64)


def _refuse(wrong: npt.NDArray[np.bool_], given: Array, reason: str) -> None:
    if wrong.any():
        index = int(wrong.any(axis=1).argmax())
        sides = ", ".join(f"{side:g}" for side in given[index])
        raise BoxError(f"the box ({sides}) {reason}", index)
