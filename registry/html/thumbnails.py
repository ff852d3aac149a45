"""Thumbnails: small image files of images and arrays, made by Pillow within limits.

Whoever may insert a sample chooses the bytes that are decoded here. So a file is opened only by
the plugins of the encodings that a dataset may hold, and its size is read from its header before
anything is decoded. What exceeds a limit, or cannot be decoded, is a `ThumbnailError` with a reason
that a page can show in place of the image.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.errors import RegistryError
from registry.samples.image_header import encoding_of
from registry.samples.pillow import opener

LARGEST_FILE = 32 << 20
"""Bytes of the largest file that is decoded."""
MOST_PIXELS = 25_000_000
"""Pixels of the largest image that is decoded: 100 MB with four channels."""
MOST_JPEG_PIXELS = 100_000_000
"""The same for JPEG files, of which every eighth pixel is decoded at the least."""
_MOST_SCANS = 100
"""Scans of a JPEG file. Each takes time for all pixels of the image, and few bytes of the file."""
_LOSSLESS_SIDE = 96
"""The longer side, in pixels, up to which images are stored without loss."""
_QUALITY = 82


class ThumbnailError(RegistryError):
    """An image that is not drawn; the message says why.

    Remedy: none is needed; the page shows the reason in place of the picture.
    """


@dataclass(frozen=True)
class Thumbnail:
    """An image file; ``width`` and ``height`` are in pixels."""

    data: bytes
    media_type: str
    width: int
    height: int

    @property
    def uri(self) -> str:
        """The file as a ``data:`` URI."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"


def size_of_file(file: bytes) -> tuple[int, int]:
    """Return the width and height that an image file claims; raises `ThumbnailError`."""
    with _open(file) as image:
        width, height = image.size
    return int(width), int(height)


def thumbnail_of_file(file: bytes, side: int) -> Thumbnail:
    """Return an image file whose longer side has at most ``side`` pixels, of the first frame.

    Raises `ThumbnailError` if the file is broken or exceeds a limit. It is turned as it is stored,
    whatever its EXIF data says, as it is in training.
    """
    with _open(file) as image:
        try:
            return _saved(_shrunk(image, side))
        # Pillow raises what it likes for damaged data, also SyntaxError and struct.error.
        except Exception as error:
            raise ThumbnailError("the image is damaged and cannot be decoded") from error


def thumbnail_of_array(pixels: npt.NDArray[np.uint8], side: int) -> Thumbnail:
    """Return an image file of an array ``(height, width)`` or ``(height, width, 3 or 4)``."""
    from PIL import Image  # noqa: PLC0415  # an extra

    return _saved(_shrunk(Image.fromarray(np.ascontiguousarray(pixels)), side))


def _open(file: bytes) -> Any:
    if len(file) > LARGEST_FILE:
        raise ThumbnailError(f"the file has {len(file) / 1e6:,.0f} MB, too many to draw it")
    try:
        open_file = opener()
    except RegistryError:
        raise ThumbnailError("images are drawn by Pillow, which is not installed") from None
    encoding = encoding_of(file)
    if encoding == "jpeg" and file.count(b"\xff\xda") > _MOST_SCANS:
        raise ThumbnailError("the image has too many scans to draw it")
    try:
        image = open_file(file)
    except Exception as error:
        raise ThumbnailError("the image is damaged and cannot be decoded") from error
    width, height = image.size
    if width * height > (MOST_JPEG_PIXELS if encoding == "jpeg" else MOST_PIXELS):
        image.close()
        raise ThumbnailError(f"{width:,} by {height:,} pixels are too many to draw them")
    return image


def _shrunk(image: Any, side: int) -> Any:
    from PIL import Image  # noqa: PLC0415  # an extra

    if image.format == "JPEG":
        # Decodes a half, a quarter or an eighth of the sides, which takes a tenth of the time.
        image.draft("RGB", (side, side))
    image.load()
    if image.mode in ("I;16", "I;16B", "I"):
        # Pillow would cut these to 255.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    image = image.convert("RGBA" if has_alpha else "L" if image.mode in ("1", "L") else "RGB")
    # It resizes in two steps, of which the first is fast, and leaves smaller images as they are.
    image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return image


def _saved(image: Any) -> Thumbnail:
    lossless = image.mode == "RGBA" or max(image.size) <= _LOSSLESS_SIDE
    file = io.BytesIO()
    # Pillow would copy the comment and the color profile of the original; it leaves EXIF data out,
    # by which browsers would turn the picture.
    image.info = {}
    if lossless:
        image.save(file, "PNG", optimize=False, compress_level=6)
    else:
        image.save(file, "JPEG", quality=_QUALITY)
    return Thumbnail(file.getvalue(), "image/png" if lossless else "image/jpeg", *image.size)
