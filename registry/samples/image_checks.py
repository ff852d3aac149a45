"""Checks of a file of each encoding: that it is complete, and of a sensible size.

Each follows the file's parts to its end: chunks (PNG, WebP), markers (JPEG) or blocks (GIF). As in
decoders, any bytes may follow the end. A check raises `ValueError` with the reason.

The library imagesize is not used: it returns only the dimensions, which these read on their way to
the end in two lines, and it accepts truncated files.

PNG: https://www.w3.org/TR/png-3/#5DataRep. JPEG: ITU-T T.81, annex B. GIF:
https://www.w3.org/Graphics/GIF/spec-gif89a.txt. WebP: RFC 9649. BMP:
https://learn.microsoft.com/windows/win32/gdi/bitmap-storage.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn
from zlib import crc32

from registry.samples.features import Encoding

MOST_PIXELS = 1 << 28
"""Maximum number of pixels: a trainer would allocate gigabytes for a tiny file that claims them."""
_FIRST_CHUNK = 8
"""The index of a PNG file's first chunk."""
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""The JPEG markers that begin a frame, whose header has the size."""
_SCAN, _END = 0xDA, 0xD9
_BARE = {0x01, *range(0xD0, 0xD8)}
"""The JPEG markers without a segment: no length follows."""
_ANCILLARY = 0x20
"""The bit in a PNG chunk's type that marks it as ancillary: decoders may ignore the chunk."""
_GIF_IMAGE, _GIF_EXTENSION, _GIF_END = 0x2C, 0x21, 0x3B
_MASKS = b"\0\0\xff\0" + b"\0\xff\0\0" + b"\xff\0\0\0"
"""The bits of red, green and blue in a pixel of a BMP file, as three uint32."""
_ANIMATED = 0x02
"""The flag in a WebP file's extended header that marks an animation."""
_NO_PIXELS = "the image is damaged: it holds no pixels"


def _check_png(data: bytes) -> None:
    view, start, pixels = memoryview(data), _FIRST_CHUNK, False
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
        if start == _FIRST_CHUNK:
            if name != b"IHDR" or length != 13:
                raise ValueError("the image is damaged: its first chunk is no header")
            check_size(*struct.unpack_from(">II", data, start + 8))
        pixels = pixels or name == b"IDAT"
        if name == b"IEND":
            if not pixels:
                raise ValueError(_NO_PIXELS)
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
                raise ValueError(_NO_PIXELS)
            return
        # In pixel data, FF is followed by 00, and is no marker.
        elif code and code not in _BARE:
            length = int.from_bytes(data[start : start + 2], "big")
            if code in _FRAMES and len(data) >= start + 7:
                frame = True
                height, width = struct.unpack_from(">HH", data, start + 3)
                check_size(width, height)
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


def _check_gif(data: bytes) -> None:
    start, pixels = 13, 0
    if len(data) < start:
        _refuse_cut(data, "header")
    width, height = canvas = struct.unpack_from("<HH", data, 6)
    check_size(width, height)
    start += _color_table(data[10])
    while start < len(data):
        kind = data[start]
        if kind == _GIF_END:
            if not pixels:
                raise ValueError(_NO_PIXELS)
            return
        if kind == _GIF_IMAGE and len(data) >= start + 10:
            pixels += _check_frame(canvas, struct.unpack_from("<4H", data, start + 1), pixels)
            start += 11 + _color_table(data[start + 9])
        elif kind == _GIF_EXTENSION:
            start += 2
        else:
            break
        # Pieces of up to 255 bytes, each after its length; one without bytes ends the block.
        while start < len(data) and (length := data[start]):
            start += 1 + length
        start += 1
    if start < len(data) and data[start] not in (_GIF_IMAGE, _GIF_EXTENSION):
        raise ValueError(f"the image is damaged: it holds a block of kind {data[start]:#04x}")
    _refuse_cut(data, "end block")


def _check_frame(canvas: tuple[int, int], frame: tuple[int, int, int, int], earlier: int) -> int:
    """Return a frame's pixels, where ``earlier`` are those of the frames before it."""
    left, top, width, height = frame
    # TensorFlow makes the picture as large as its largest frame, whatever the header says.
    if not earlier and frame != (0, 0, *canvas):
        raise ValueError(
            "the image is a gif file whose first frame does not fill the picture, which TensorFlow "
            "cannot decode; save it as png"
        )
    if left + width > canvas[0] or top + height > canvas[1]:
        raise ValueError("the image is damaged: a frame reaches out of the picture")
    # Together, as TensorFlow unpacks all frames before it returns the first.
    if (pixels := earlier + width * height) > MOST_PIXELS:
        raise ValueError(
            f"the image claims {pixels:,} pixels in its frames; {MOST_PIXELS:,} are accepted"
        )
    return width * height


def _color_table(flags: int) -> int:
    """Return the bytes of the color table that a GIF file's flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _check_bmp(data: bytes) -> None:
    if len(data) < 54:
        _refuse_cut(data, "pixels")
    start, header, width, height = struct.unpack_from("<IIii", data, 10)
    bits, compression = struct.unpack_from("<HI", data, 28)
    if header < 40:
        _refuse_bmp(f"a header of {header} bytes")
    # The height is negative where the first row is the top one.
    check_size(width, abs(height))
    if compression not in (0, 3) or bits not in (8, 24, 32):
        _refuse_bmp(f"{bits} bits for each pixel and compression {compression}")
    need = start + -(-width * bits // 32) * 4 * abs(height)
    if len(data) < need:
        raise ValueError(
            f"the image is cut off: it has {len(data):,} of {need:,} bytes; insert the whole file"
        )
    if compression == 3 and data[54:66] != _MASKS:
        _refuse_bmp("channels in another order")
    # TensorFlow ignores the palette, and takes the indexes for shades of gray.
    if bits == 8 and not _is_gray(data, 14 + header):
        _refuse_bmp("a palette of colors")


def _is_gray(data: bytes, start: int) -> bool:
    """Return whether each color of the palette that starts there is the gray of its index."""
    count = int.from_bytes(data[46:50], "little") or 256
    palette = data[start : start + 4 * min(count, 256)]
    grays = bytes(range(len(palette) // 4))
    return all(palette[channel::4] == grays for channel in range(3))


def _refuse_bmp(kind: str) -> NoReturn:
    raise ValueError(
        f"the image is a bmp file with {kind}, which TensorFlow cannot decode; save it as png"
    )


def _check_webp(data: bytes) -> None:
    if len(data) < 20 or len(data) < (end := 8 + int.from_bytes(data[4:8], "little")):
        _refuse_cut(data, "end of the last chunk")
    pixels = False
    for name, start, stop in _webp_chunks(data, end):
        if name == b"VP8X" and stop >= start + 10:
            # `DecodeWebP` of TensorFlow 2.21 writes past its memory for some of these.
            if data[start] & _ANIMATED:
                raise ValueError(
                    "the image is an animated webp file, which TensorFlow cannot decode; insert "
                    "one of its frames"
                )
            check_size(
                *(int.from_bytes(data[at : at + 3], "little") + 1 for at in (start + 4, start + 7))
            )
        elif name == b"VP8 " and data[start + 3 : start + 6] == b"\x9d\x01\x2a":
            width, height = struct.unpack_from("<HH", data, start + 6)
            check_size(width & 0x3FFF, height & 0x3FFF)
            pixels = True
        elif name == b"VP8L" and stop >= start + 5 and data[start] == 0x2F:
            bits = int.from_bytes(data[start + 1 : start + 5], "little")
            check_size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
            pixels = True
    if not pixels:
        raise ValueError(_NO_PIXELS)


def _webp_chunks(data: bytes, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each chunk, and the indexes at which its data starts and stops."""
    start = 12
    while start + 8 <= end:
        stop = start + 8 + int.from_bytes(data[start + 4 : start + 8], "little")
        if stop > end:
            raise ValueError("the image is damaged: a chunk is longer than the file")
        yield data[start : start + 4], start + 8, stop
        start = stop + stop % 2  # chunks begin at even indexes


def check_size(width: int, height: int) -> None:
    if not 0 < width * height <= MOST_PIXELS:
        raise ValueError(
            f"the image claims {width} by {height} pixels; from 1 to {MOST_PIXELS:,} are accepted"
        )


def _refuse_cut(data: bytes, end: str) -> NoReturn:
    raise ValueError(
        f"the image is cut off: its {len(data):,} bytes hold no {end}; insert the whole file"
    )


CHECKS: Mapping[Encoding, Callable[[bytes], None]] = {
    "jpeg": _check_jpeg,
    "png": _check_png,
    "gif": _check_gif,
    "bmp": _check_bmp,
    "webp": _check_webp,
}
