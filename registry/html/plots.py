"""Arrays of numbers as small plots: lines as SVG paths, and arrays that are images as their pixels.

An array is drawn as an image if it has two dimensions, both of at least `SMALLEST_SIDE`, or three
of which the last (or else the first) has 1, 3 or 4 channels. Of gray values, the smallest becomes
black and the largest white, where they do not use the range of their type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]

SMALLEST_SIDE = 4
"""Items of the shorter side from which on an array of two dimensions is an image."""
SHORTEST_LINE = 8
"""Items from which on an array of one dimension is a line."""
MOST_LINES = 4
"""Columns of an array ``(n, columns)`` that are drawn as lines."""
WIDTH, HEIGHT = 240, 96
"""The coordinates of a plot of lines."""
_POINTS = 240
_DARK = 127
"""The value up to which the largest of an image of uint8 is too dark to be taken as it is."""


@dataclass(frozen=True)
class Lines:
    """Lines in a plot of `WIDTH` by `HEIGHT`, as the data of SVG paths, and their range."""

    paths: list[str]
    low: float
    high: float


def lines_of(values: Numbers) -> Lines | None:
    """Return the lines of an array ``(n,)`` or ``(n, columns)``; None if no number is finite.

    Long lines are drawn as the range of values in each of some hundred parts.
    """
    columns = np.asarray(values, np.float64).reshape(len(values), -1)
    finite = columns[np.isfinite(columns)]
    if not len(finite):
        return None
    low, high = float(finite.min()), float(finite.max())
    return Lines([_path(column, low, high) for column in columns.T[:MOST_LINES]], low, high)


def pixels_of(values: Numbers) -> npt.NDArray[np.uint8] | None:
    """Return an array as pixels ``(height, width)`` or ``(height, width, 3 or 4)``, or None.

    None if it is no image.
    """
    array = _channels_last(values)
    if array is None:
        return None
    if array.dtype == np.uint8 and (array.ndim == 3 or array.max(initial=0) > _DARK):
        return np.ascontiguousarray(array)
    # Float32 is enough for 256 shades, and takes half the memory.
    numbers = array.astype(np.float32)
    finite = numbers[np.isfinite(numbers)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    if array.dtype.kind in "ub" or (low >= 0 and array.ndim == 2):
        low = 0.0
    if array.ndim == 3 and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scale = 255 / (high - low) if high > low else 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        shades = np.nan_to_num((numbers - low) * scale, nan=0, posinf=255, neginf=0)
    pixels: npt.NDArray[np.uint8] = np.clip(np.rint(shades), 0, 255).astype(np.uint8)
    return pixels


def is_image(shape: tuple[int, ...]) -> bool:
    """Return whether arrays of a shape are drawn as images."""
    if len(shape) == 2:
        return min(shape) >= SMALLEST_SIDE
    return len(shape) == 3 and _channel_axis(shape) is not None


def _channels_last(values: Numbers) -> Numbers | None:
    if not is_image(values.shape):
        return None
    if values.ndim == 3:
        if _channel_axis(values.shape) == 0:
            values = np.moveaxis(values, 0, 2)
        if values.shape[2] == 1:
            values = values[:, :, 0]
    return values


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    for axis, sides in ((2, shape[:2]), (0, shape[1:])):
        if shape[axis] in (1, 3, 4) and min(sides) >= SMALLEST_SIDE:
            return axis
    return None


def _path(column: Numbers, low: float, high: float) -> str:
    count = len(column)
    if count > 2 * _POINTS:
        # The lowest and the highest value of each part, so that no peak is lost.
        parts = np.array_split(column, _POINTS)
        column = np.array([value for part in parts for value in (part.min(), part.max())])
    xs = np.linspace(0, WIDTH, len(column))
    span = high - low
    ys = (
        (HEIGHT - 8) * (1 - (column - low) / span) + 4 if span else np.full(len(column), HEIGHT / 2)
    )
    steps, pen = [], "M"
    for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
        if np.isfinite(y):
            steps.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:  # the line has a gap
            pen = "M"
    return "".join(steps)
