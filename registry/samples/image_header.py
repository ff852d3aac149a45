"""Checks that an encoded image is complete and of a sensible size, without decoding it.

The check follows a file's chunks (PNG) or markers (JPEG) to its end. As in decoders, any bytes may
follow the end. Damaged pixel data may pass; `registry verify --images` decodes the images.

The library imagesize is not used: it returns only the dimensions, which this reads on its way to
the end in two lines, and it accepts truncated files.

PNG: https://www.w3.org/TR/png-3/#5DataRep. JPEG: ITU-T T.81, annex B.
"""

from __future__ import annotations

import struct
from typing import Literal, NoReturn
from zlib import crc32

MOST_PIXELS = 1 << 28
"""Maximum number of pixels: a trainer would allocate gigabytes for a tiny file that claims them."""
_MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff"}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""The JPEG markers that begin a frame, whose header has the size."""
_SCAN, _END = 0xDA, 0xD9
_BARE = {0x01, *range(0xD0, 0xD8)}
"""The JPEG markers without a segment: no length follows."""
_ANCILLARY = 0x20
"""The bit in a PNG chunk's type that marks it as ancillary: decoders may ignore the chunk."""


def check_file(data: bytes, encoding: Literal["png", "jpeg"]) -> None:
    """Raise `ValueError` unless the data is a complete file of the encoding, of a sensible size."""
    if not data.startswith(_MAGIC[encoding]):
        raise ValueError(f"the bytes are not a {encoding} file")
    if encoding == "png":
        _check_png(data)
    else:
        _check_jpeg(data)


def _check_png(data: bytes) -> None:
    view, start, pixels = memoryview(data), len(_MAGIC["png"]), False
    # A chunk is its length, its type, its data and a checksum.
    while len(data) >= start + 12:
        length, name = int.from_bytes(view[start : start + 4], "big"), data[start + 4 : start + 8]
        stop = start + 8 + length
        if len(data) < stop + 4:
            break
        # Only critical chunks: decoders ignore a damaged ancillary chunk.
        if not name[0] & _ANCILLARY and view[stop : stop + 4] != struct.pack(
            ">I", crc32(view[start + 4 : stop])
        ):
            raise ValueError(
                f"the image is damaged: its {name.decode('latin-1')!r} chunk fails its checksum"
            )
        if start == len(_MAGIC["png"]):
            if name != b"IHDR" or length != 13:
                raise ValueError("the image is damaged: its first chunk is no header")
            _check_size(*struct.unpack_from(">II", data, start + 8))
        pixels = pixels or name == b"IDAT"
        if name == b"IEND":
            if not pixels:
                raise ValueError("the image is damaged: it holds no pixels")
            return
        start = stop + 4
    _refuse_cut(data, "IEND chunk")


def _check_jpeg(data: bytes) -> None:
    start, frame, scan = 2, False, False
    while (marker := data.find(b"\xff", start)) >= 0 and marker + 1 < len(data):
        code, start = data[marker + 1], marker + 2
        if code == 0xFF:  # a fill byte
            start = marker + 1
        elif code == _END:
            if not scan:
                raise ValueError("the image is damaged: it holds no pixels")
            return
        # In pixel data, FF is followed by 00, and is no marker.
        elif code and code not in _BARE:
            length = int.from_bytes(data[start : start + 2], "big")
            if code in _FRAMES and len(data) >= start + 7:
                frame = True
                height, width = struct.unpack_from(">HH", data, start + 3)
                _check_size(width, height)
            start += length
            if code == _SCAN:
                if not frame:
                    raise ValueError("the image is damaged: it holds no frame before its pixels")
                # Pixel data cannot contain an end marker. If the file ends with one, as almost
                # always, the scan need not be searched, which would take most of the time.
                if start < len(data) and data.endswith(b"\xff\xd9"):
                    return
                scan = True
    _refuse_cut(data, "end marker")


def _check_size(width: int, height: int) -> None:
    if not 0 < width * height <= MOST_PIXELS:
        raise ValueError(
            f"the image claims {width} by {height} pixels; from 1 to {MOST_PIXELS:,} are accepted"
        )


def _refuse_cut(data: bytes, end: str) -> NoReturn:
    raise ValueError(
        f"the image is cut off: its {len(data):,} bytes hold no {end}; insert the whole file"
    )
