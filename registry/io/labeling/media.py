"""Pictures and other files that an annotation names: bytes where that is safe, or a clear no.

Nothing is ever fetched over a network. A file is read only from below a folder that the caller
allows, wherever ``..``, symbolic links or a ``file://`` URI point.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from registry.samples.features import LARGEST_RECORD
from registry.samples.json_codec import from_base64, shown

_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}\Z")


def load(value: str, roots: Sequence[Path]) -> bytes:
    """Return what a ``data:`` URI or base64 text holds, or the file that a path or URI names.

    Raises `ValueError` with the reason, also for a file that is under none of ``roots``. Label
    Studio's ``/data/…`` and ``/data/local-files/?d=…`` count from each root.
    """
    if value[:5].lower() == "data:" or (len(value) % 4 == 0 and _BASE64.match(value)):
        return from_base64(value)
    scheme = value.partition("://")[0].lower() if "://" in value else ""
    if scheme not in ("", "file"):
        raise ValueError(
            f"{shown(safe(value))} is not fetched; give the bytes, or a file in an allowed folder"
        )
    if not roots:
        raise ValueError(
            f"{shown(safe(value))} names a file, and no folder is allowed to read it from"
        )
    return read(_path(value, scheme), roots, value)


def read(path: str, roots: Sequence[Path], said: str) -> bytes:
    """Read a file that lies below one of the roots; raises `ValueError`."""
    for root in roots:
        folder = root.resolve()
        try:
            # Resolved before it is compared: `..` and links count as where they lead.
            place = (folder / path).resolve()
            if place.is_relative_to(folder) and place.is_file():
                if place.stat().st_size > LARGEST_RECORD:
                    raise ValueError(f"{shown(said)} has over {LARGEST_RECORD} bytes")
                return place.read_bytes()
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{shown(said)} cannot be read ({error.__class__.__name__})") from None
    allowed = ", ".join(str(root) for root in roots)
    raise ValueError(f"{shown(said)} is no file below {allowed}")


def safe(value: str) -> str:
    """Return a URI without what may be secret in it: its user, password and query."""
    if "://" not in value:
        return value
    return re.sub(r"://[^/?#]*@", "://", value).partition("?")[0]


def _path(value: str, scheme: str) -> str:
    """Return the path that Label Studio's text names, relative where it counts from a root."""
    if scheme == "file":
        parts = urlsplit(value)
        if parts.netloc not in ("", "localhost"):
            raise ValueError(f"{shown(safe(value))} names another machine's file")
        return unquote(parts.path)
    if value.startswith("/data/local-files/"):
        named = parse_qs(urlsplit(value).query).get("d")
        if named is None:
            raise ValueError(f"{shown(value)} names no file")
        return named[0]
    return unquote(value.removeprefix("/data/")) if value.startswith("/data/") else value
