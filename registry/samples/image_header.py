"""The encoding of an image file by its first bytes, and the check that every file gets on insert.

The check reads a file's parts to its end without decoding it. Damaged pixel data may pass;
`registry verify --images` decodes the images. What TensorFlow does not decode, or decodes to
something else than other libraries do, is refused.
"""

from __future__ import annotations

import re

from registry.samples.features import ENCODINGS, Encoding
from registry.samples.image_checks import CHECKS

_BEGINNINGS: dict[str, re.Pattern[bytes]] = {
    name: re.compile(pattern, re.DOTALL)
    for name, pattern in {
        "jpeg": rb"\xff\xd8\xff",
        "png": rb"\x89PNG\r\n\x1a\n",
        "gif": rb"GIF8[79]a",
        # With the length of the second header: a text may begin with these letters, too.
        "bmp": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
        "webp": rb"RIFF.{4}WEBP",
        # Not accepted, but named in messages.
        "TIFF": rb"II[*+]\0|MM\0[*+]",
        "AVIF": rb".{4}ftypavi[fs]",
        "HEIC": rb".{4}ftyp(?:hei|hev|mif|msf)",
        "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
        "JPEG 2000": rb"\0\0\0\x0cjP  ",
        "PDF": rb"%PDF-",
        "Photoshop": rb"8BPS",
        "ICO": rb"\0\0[\1\2]\0",
        "ZIP": rb"PK[\3\5]",
        "gzip": rb"\x1f\x8b",
        "SVG": rb"\s*(?:<\?xml.{,500})?<svg",
        "HTML or XML": rb"(?:\xef\xbb\xbf)?\s*<[!?a-zA-Z]",
        "JSON": rb"\s*[{\[]\s*[\"{\[\]}]",
    }.items()
}


def encoding_of(data: bytes) -> Encoding | None:
    """Return the encoding that a file's first bytes name; None if it is none of `ENCODINGS`."""
    return next((name for name in ENCODINGS if _BEGINNINGS[name].match(data)), None)


def check_file(data: bytes, encoding: Encoding | None) -> None:
    """Raise `ValueError` unless the data is a complete file of the encoding, of a sensible size.

    With None, it may have any of `ENCODINGS`.
    """
    actual = encoding_of(data)
    if actual is None or encoding not in (None, actual):
        wanted = encoding or f"{', '.join(ENCODINGS[:-1])} or {ENCODINGS[-1]}"
        names = (name for name, each in _BEGINNINGS.items() if each.match(data))
        kind = next(names, None) if data else "empty"
        raise ValueError(
            f"the bytes are not a {wanted} file" + (f"; they are {kind}" if kind else "")
        )
    CHECKS[actual](data)
