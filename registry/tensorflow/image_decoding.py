"""Decoding of image files by graph operations, to the same shape whatever the encoding.

`tf.io.decode_image` does this for some encodings and numbers of channels only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from registry.samples.features import ENCODINGS, Encoding

_BEGINNINGS: dict[Encoding, bytes] = {
    "jpeg": b"\xff\xd8",
    "gif": b"GI",
    "bmp": b"BM",
    "webp": b"RI",
}
"""The first two bytes of a file, which differ between the encodings; all others are PNG."""


def decode_image(file: Any, encoding: Encoding | None, channels: int) -> Any:
    """Return an image, the first of an animation, as uint8 ``(height, width, channels)``.

    With the encoding None, the file's first bytes determine it. ``channels`` is 1, 3, 4, or 0 for
    as many as the file has. The gray of colors follows ITU-R BT.601, and what has no alpha gets
    255.
    """
    if encoding is not None:
        image = _DECODERS[encoding](file, channels)
    else:
        beginning = tf.strings.substr(file, 0, 2)
        number = tf.constant(ENCODINGS.index("png"))
        for name, magic in _BEGINNINGS.items():
            number = tf.where(tf.equal(beginning, magic), ENCODINGS.index(name), number)
        # Bound as defaults: the lambdas run later, when ``name`` is the last one's.
        branches = [lambda name=name: _DECODERS[name](file, channels) for name in ENCODINGS]
        image = tf.switch_case(number, branches)
    return tf.ensure_shape(image, (None, None, channels or None))


def _jpeg(file: Any, channels: int) -> Any:
    return (
        _converted(tf.io.decode_jpeg(file, 3), 4)
        if channels == 4
        else tf.io.decode_jpeg(file, channels)
    )


def _gif(file: Any, channels: int) -> Any:
    return _converted(tf.io.decode_image(file, 3, expand_animations=False), channels)


def _bmp(file: Any, channels: int) -> Any:
    header = tf.io.decode_raw(tf.strings.substr(file, 10, 20), tf.int32)
    start, _, width, height, bits = tf.unstack(tf.cast(header[:5], tf.int64), 5)
    row = (width * (bits // 65536) + 31) // 32 * 4
    # What follows the pixels, often two bytes, would be an error.
    pixels = tf.strings.substr(file, tf.constant(0, tf.int64), start + row * abs(height))
    return _converted(tf.io.decode_bmp(pixels), channels)


def _webp(file: Any, channels: int) -> Any:
    # Not `decode_webp`, whose result is said to have four dimensions, and has three.
    return _converted(tf.io.decode_image(file, expand_animations=False), channels)


def _converted(image: Any, channels: int) -> Any:
    """Return an image of 1, 3 or 4 channels with another number of them."""
    # Not even the rank is known of what some of the decoders return.
    image = tf.ensure_shape(image, (None, None, None))
    if channels == 0:
        return image
    size = tf.shape(image)[:2]
    # Repeats the only channel of a gray image.
    colors = tf.broadcast_to(image[:, :, :3], tf.concat([size, [3]], 0))
    if channels == 1:
        return tf.image.rgb_to_grayscale(colors)
    if channels == 3:
        return colors
    opaque = tf.fill(tf.concat([size, [1]], 0), tf.constant(255, tf.uint8))
    alpha = tf.concat([image[:, :, 3:], opaque], -1)[:, :, :1]
    return tf.concat([colors, alpha], -1)


_DECODERS: dict[Encoding, Callable[[Any, int], Any]] = {
    "jpeg": _jpeg,
    "png": tf.io.decode_png,
    "gif": _gif,
    "bmp": _bmp,
    "webp": _webp,
}
