"""What needs Pillow, the extra ``images``: images as PNG files, and files decoded to arrays.

Pillow is imported by the functions, so that this module can be imported without it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.distribution import install_extra
from registry.errors import RegistryError
from registry.samples.features import Encoding
from registry.samples.image_header import encoding_of

Pixels = npt.NDArray[np.uint8]
Open = Callable[[bytes], Any]
"""Opens an image file as a `PIL.Image.Image`; raises any `Exception` if that fails."""
Decode = Callable[[bytes], Pixels]
"""Decodes an image file; raises any `Exception` if that fails."""
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""The mode of an image with so many channels."""
_LOSSLESS = ("1", "L", "LA", "P", "I;16", "RGB", "RGBA")
"""The modes that a PNG file holds without loss."""
_WIDE = ("I;16", "I;16B", "I")
"""The modes of images with 16 bits for each pixel."""


def png_of_array(pixels: Pixels) -> bytes:
    """Return a PNG file of an array ``(height, width)`` or ``(height, width, 1, 3 or 4)``.

    Raises `RegistryError` without Pillow.
    """
    pillow = _import()
    flat = pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels
    return _png(pillow.fromarray(np.ascontiguousarray(flat)))


def png_of_image(image: Any) -> bytes:
    """Return a PNG file of a `PIL.Image.Image`; raises `ValueError` if PNG cannot hold it."""
    if image.mode not in _LOSSLESS:
        raise ValueError(
            f"PNG cannot hold an image of mode {image.mode!r} without loss; convert it, or give "
            "the bytes of its file"
        )
    try:
        return _png(image)
    # Pillow reads an image that was opened only now, and raises what it likes.
    except Exception as error:  # noqa: BLE001
        raise ValueError(f"the image cannot be read ({_reason(error)})") from None


def opener() -> Open:
    """Return a function that opens files of all `ENCODINGS`; raises `RegistryError` without Pillow.

    The files are opened whatever their size.
    """
    _import()
    from PIL import (  # noqa: PLC0415  # the extra "images"
        BmpImagePlugin,
        GifImagePlugin,
        JpegImagePlugin,
        PngImagePlugin,
        WebPImagePlugin,
    )

    # Not `Image.open`, which tries other encodings, too, and has its own limit to the size.
    kinds: dict[Encoding | None, Any] = {
        "jpeg": JpegImagePlugin.JpegImageFile,
        "png": PngImagePlugin.PngImageFile,
        "gif": GifImagePlugin.GifImageFile,
        "bmp": BmpImagePlugin.BmpImageFile,
        "webp": WebPImagePlugin.WebPImageFile,
    }

    def open_file(file: bytes) -> Any:
        kind = kinds.get(encoding_of(file))
        if kind is None:
            raise ValueError("it is no image file")
        return kind(io.BytesIO(file))

    return open_file


def decoder(channels: int) -> Decode:
    """Return a function from a file to its first frame, uint8 ``(height, width, channels)``.

    ``channels`` is a key of `MODES`. Of pixels with 16 bits, the upper 8 are taken, as TensorFlow
    does. Raises `RegistryError` without Pillow.
    """
    open_file, pillow = opener(), _import()

    def decode(file: bytes) -> Pixels:
        with open_file(file) as image:
            image.load()
            # Pillow would cut these to 255.
            if image.mode in _WIDE:
                image = pillow.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # noqa: PLW2901
            pixels = np.array(image.convert(MODES[channels]), np.uint8)
        return pixels.reshape(*pixels.shape[:2], channels)

    return decode


def _png(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _import() -> Any:
    try:
        from PIL import Image  # noqa: PLC0415  # the extra "images"
    except ModuleNotFoundError:
        raise RegistryError(
            f"images as arrays need Pillow; run: {install_extra('images')}"
        ) from None
    return Image


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
