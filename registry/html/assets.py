"""The files that pages load: style sheets, scripts and pictures, under names with their checksums.

A file whose content changes gets another URL, so that browsers may keep each one without asking
again.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

_FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_PLOTLY = "plotly.min.js"
PREFIX = "/static/"


@dataclass(frozen=True)
class Asset:
    """A file that pages load; ``url`` is its path on the server."""

    url: str
    media_type: str
    content: bytes

    @cached_property
    def compressed(self) -> bytes:
        """The content as gzip, which is made once: scripts are megabytes."""
        return gzip.compress(self.content, 6, mtime=0)


@cache
def asset(name: str) -> Asset | None:
    """Return a file by its name, such as ``pages.css``; None if there is none."""
    path = _path(name)
    if path is None or not path.is_file():
        return None
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:12]
    url = f"{PREFIX}{path.stem}.{digest}{path.suffix}"
    return Asset(url, _TYPES[path.suffix], content)


def asset_at(file: str) -> Asset | None:
    """Return the file whose URL ends in this name with a checksum; None if it has another one."""
    with_checksum, _, suffix = file.rpartition(".")
    name = f"{with_checksum.rpartition('.')[0]}.{suffix}"
    # Before it is read, and cached: only names that exist may fill the cache.
    if name not in _names():
        return None
    known = asset(name)
    return known if known is not None and known.url == PREFIX + file else None


def asset_text(name: str) -> str:
    """Return the text of one of our own files, for cards, which load nothing."""
    return (_FOLDER / name).read_text()


@cache
def _names() -> frozenset[str]:
    return frozenset({path.name for path in _FOLDER.iterdir()} | {_PLOTLY})


def _path(name: str) -> Path | None:
    if name != _PLOTLY:
        return _FOLDER / name
    # Not imported, which would take longer than all pages of a session: only its script is used.
    package = find_spec("plotly")
    if package is None or package.origin is None:
        return None
    return Path(package.origin).parent / "package_data" / _PLOTLY
