"""Fitting images to one size, and their boxes to the fitted images.

An image is resized by bilinear interpolation (`tf.image.resize`):

- ``stretch``: all of it fills the size, whatever its ratio of width to height is.
- ``pad``: its longer side, next to the size, fills the size; what is left on both sides is black.
- ``crop``: the largest part of the size's ratio, in the center, fills the size.

In each, a part of the image, the *source*, is resized to a part of the result, the *target*; both
are centered. `_sides` computes them for images and for boxes alike, so that both agree.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import tensorflow as tf

from registry.samples.box_formats import BoxFormat

Ratio = Literal["stretch", "pad", "crop"]
RATIOS: tuple[Ratio, ...] = get_args(Ratio)
Size = tuple[int, int]
"""Height and width in pixels."""


def fit_image(image: Any, size: Size, ratio: Ratio) -> Any:
    """Return a uint8 image ``(height, width, channels)`` at a size."""
    if ratio == "stretch":
        # A size that is known beforehand takes fewer operations.
        return _resized(image, size)
    shape = tf.shape(image)[:2]
    source, target = _sides(shape, size, ratio)
    if ratio == "crop":
        # Before it is resized: a long and narrow image would be very large before it is cropped.
        top, left = tf.unstack((shape - source) // 2)
        image = image[top : top + source[0], left : left + source[1]]
    image = _resized(image, target)
    if ratio == "pad":
        before = (size - target) // 2
        padding = tf.stack([before, size - target - before], axis=1)
        image = tf.pad(image, tf.concat([padding, [[0, 0]]], 0))
    return tf.ensure_shape(image, (*size, None))


def _resized(image: Any, size: Any) -> Any:
    # The result is float32, of which the cast keeps the integral part. No pixel is outside of what
    # a uint8 holds: each is an average of some. `tf.saturate_cast` would take a tenth of the time.
    return tf.cast(tf.round(tf.image.resize(image, size)), tf.uint8)


def fit_boxes(boxes: Any, form: BoxFormat, shapes: Any, size: Size, ratio: Ratio) -> Any:
    """Return the boxes of a batch of images that were fitted to a size, in the same format.

    ``boxes`` is a RaggedTensor ``(batch_size, None, 4)``, and ``shapes`` are the images' heights
    and widths before, int32 ``(batch_size, 2)``. Boxes are cut off at the sides of the result: one
    that was cropped away keeps its place in the order, and has no area.
    """
    relative = form.startswith("rel_")
    if ratio == "stretch" and relative:
        return boxes
    source, target = _sides(shapes, size, ratio)
    dtype = tf.float64 if boxes.dtype == tf.float64 else tf.float32
    rows = boxes.value_rowids()

    def of_boxes(sides: Any) -> Any:
        """Return heights and widths as those of corners, for each box."""
        height, width = tf.unstack(tf.gather(tf.cast(sides, dtype), rows), axis=1)
        return tf.stack([width, height, width, height], axis=1)

    corners = _corners(tf.cast(boxes.values, dtype), form)
    if relative:
        corners *= of_boxes(shapes)
    corners = (corners - of_boxes((shapes - source) // 2)) * of_boxes(target) / of_boxes(source)
    corners += of_boxes((size - target) // 2)
    sides = of_boxes(tf.broadcast_to(tf.constant(size, tf.int32), tf.shape(shapes)))
    corners = tf.clip_by_value(corners, tf.zeros_like(sides), sides)
    if relative:
        corners /= sides
    values = _from_corners(corners, form)
    if not boxes.dtype.is_floating:
        values = tf.round(values)
    return boxes.with_values(tf.cast(values, boxes.dtype))


def _sides(shapes: Any, size: Size, ratio: Ratio) -> tuple[Any, Any]:
    """Return the heights and widths of source and target, int32 ``(…, 2)`` as ``shapes``."""
    sides = tf.broadcast_to(tf.constant(size, tf.int32), tf.shape(shapes))
    if ratio == "stretch":
        return shapes, sides
    scales = tf.cast(sides, tf.float64) / tf.cast(shapes, tf.float64)
    if ratio == "pad":
        scaled = tf.cast(shapes, tf.float64) * tf.reduce_min(scales, -1, keepdims=True)
        return shapes, tf.clip_by_value(tf.cast(tf.round(scaled), tf.int32), 1, sides)
    scaled = tf.cast(sides, tf.float64) / tf.reduce_max(scales, -1, keepdims=True)
    return tf.clip_by_value(tf.cast(tf.round(scaled), tf.int32), 1, shapes), sides


def _corners(boxes: Any, form: BoxFormat) -> Any:
    """Return left, top, right and bottom of boxes ``(count, 4)`` in their own unit."""
    if form == "rel_yxyx":
        return tf.gather(boxes, [1, 0, 3, 2], axis=1)
    first, second = boxes[:, :2], boxes[:, 2:]
    if form == "xywh":
        return tf.concat([first, first + second], 1)
    if form == "center_xywh":
        return tf.concat([first - second / 2, first + second / 2], 1)
    return boxes


def _from_corners(corners: Any, form: BoxFormat) -> Any:
    if form == "rel_yxyx":
        return tf.gather(corners, [1, 0, 3, 2], axis=1)
    first, second = corners[:, :2], corners[:, 2:]
    if form == "xywh":
        return tf.concat([first, second - first], 1)
    if form == "center_xywh":
        return tf.concat([(first + second) / 2, second - first], 1)
    return corners
