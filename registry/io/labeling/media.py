"""Reading of pictures and other files that an annotation names.

Annotations are untrusted. Nothing is ever fetched over a network, and a file is read only from
below a folder that the caller allows, even if ``..``, symbolic links or a ``file://`` URI lead out
of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from registry.samples.features import LARGEST_RECORD
from registry.samples.json_codec import excerpt, from_base64

_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}\Z")


def load(value: str, roots: Sequence[Path]) -> bytes:
    """Return the content of a ``data:`` URI, of base64 text, or of the file at a path or URI.

    Label Studio's ``/data/…`` and ``/data/local-files/?d=…`` are relative to each root. Raises
    `ValueError` with the reason, in particular for a file that is below none of ``roots``.
    """
    # A path without a dot, with a length that is a multiple of 4, may look like base64, and is read
    # as such.
    if value[:5].lower() == "data:" or (len(value) % 4 == 0 and _BASE64.match(value)):
        return from_base64(value)
    # Not `urlsplit`, which takes any text before a colon as a scheme.
    scheme = value.partition("://")[0].lower() if "://" in value else ""
    if scheme not in ("", "file"):
        raise ValueError(
            f"{excerpt(safe(value))} is not fetched; give the bytes, or a file in an allowed folder"
        )
    if not roots:
        raise ValueError(
            f"{excerpt(safe(value))} names a file, and no folder is allowed to read it from"
        )
    return read(_path(value, scheme), roots, value)


def read(path: str, roots: Sequence[Path], shown_as: str) -> bytes:
    """Read the file at a path below one of the roots; raises `ValueError`, with ``shown_as``."""
    for root in roots:
        folder = root.resolve()
        try:
            # Resolved before it is compared: `..` and links would otherwise lead out of the root.
            file = (folder / path).resolve()
            # `is_file` is false for a pipe or a device, of which reading might never end.
            if file.is_relative_to(folder) and file.is_file():
                if file.stat().st_size > LARGEST_RECORD:
                    raise ValueError(f"{excerpt(shown_as)} has over {LARGEST_RECORD} bytes")
                return file.read_bytes()
        # `resolve` raises RuntimeError for links that lead in a circle.
        except (OSError, RuntimeError) as error:
            reason = f"{excerpt(shown_as)} cannot be read ({type(error).__name__})"
            raise ValueError(reason) from None
    allowed = ", ".join(str(root) for root in roots)
    raise ValueError(f"{excerpt(shown_as)} is no file below {allowed}")


def safe(value: str) -> str:
    """Return a URI without the parts that may be secret: user, password and query."""
    if "://" not in value:
        return value
    return re.sub(r"://[^/?#]*@", "://", value).partition("?")[0]


def _path(value: str, scheme: str) -> str:
    """Return the path in a text of Label Studio; a relative one is relative to a root."""
    if scheme == "file":
        parts = urlsplit(value)
        if parts.netloc not in ("", "localhost"):
            raise ValueError(f"{excerpt(safe(value))} names another machine's file")
        return unquote(parts.path)
    if value.startswith("/data/local-files/"):
        files = parse_qs(urlsplit(value).query).get("d")
        if files is None:
            raise ValueError(f"{excerpt(value)} names no file")
        return files[0]
    return unquote(value.removeprefix("/data/")) if value.startswith("/data/") else value
