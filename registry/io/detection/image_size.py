"""The size of an encoded image, from its header."""

from __future__ import annotations

import io
import warnings

from registry.distribution import install_extra
from registry.io.labeling.boxes import Size


def image_size(content: bytes) -> Size:
    """Return the size of an encoded image; raises `ValueError`. Needs Pillow.

    Nothing is decoded, so that an image of any size takes no memory.
    """
    try:
        from PIL import Image  # noqa: PLC0415  # an extra
    except ImportError:
        raise ValueError(
            "the image's size is not stated, and reading it from the file needs Pillow; run: "
            + install_extra("images")
        ) from None
    try:
        with warnings.catch_warnings():
            # Pillow warns of images that take much memory when they are decoded.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                return Size(*image.size)
    except (OSError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"the image's size cannot be read ({error})") from None
