"""Image files to test with."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int = 1, height: int = 1) -> bytes:
    """A PNG file whose header claims this size; it has a single black row."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * (1 + width))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def photo(
    height: int = 24, width: int = 40, seed: int = 0, mode: str = "RGB", **options: Any
) -> bytes:
    """A JPEG file of noise, or another that Pillow writes with these options."""
    shape = (height, width, len(mode)) if len(mode) > 1 else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, **{"format": "JPEG", **options})
    return file.getvalue()


def broken(file: bytes) -> bytes:
    """A JPEG file that is complete, with tables that no decoder accepts."""
    start = file.index(b"\xff\xc4") + 5
    return file[:start] + b"\xff" * 16 + file[start + 16 :]


PNG = png()
JPEG = photo(8, 8)
