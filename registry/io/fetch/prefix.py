"""Prefixes of URIs that may be fetched, and whether a URI is below one.

A URI is compared by its parts, and the parts are those of the object that the client is given: two
parsers that disagree on a URI would let it lead elsewhere. What servers read in more than one way,
such as ``%2e%2e`` or a backslash, is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

import httpx

from registry.io.media import MediaError, safe
from registry.samples.json_codec import excerpt

HTTP = ("http", "https")
STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
"""Object stores of fsspec. Its other file systems read this machine, or archives within others."""
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]")
_DECODINGS = 4
"""How often the path of a URI may be percent-encoded."""


@dataclass(frozen=True)
class HttpPrefix:
    """An origin and a folder on it: ``https://host/path/``."""

    url: httpx.URL

    def covers(self, url: httpx.URL) -> bool:
        """Return whether a URL, which `parse_http` returned, is below this prefix."""
        return _origin(url) == _origin(self.url) and _path(url).startswith(_path(self.url))


@dataclass(frozen=True)
class StorePrefix:
    """A folder of an object store: ``s3://bucket/path/``. Keys are compared as they are."""

    text: str

    def covers(self, uri: str) -> bool:
        """Return whether a URI, which `parse_object` returned, is below this prefix."""
        return uri.startswith(self.text)


def parse_prefix(text: str) -> HttpPrefix | StorePrefix:
    """Parse a prefix that the user gives; raises `MediaError`."""
    shown = excerpt(safe(text))
    scheme = scheme_of(text)
    if "?" in text or "#" in text:
        raise MediaError(f"--fetch {shown}: a prefix has no query; give it up to a folder's '/'")
    try:
        if scheme in HTTP:
            url = parse_http(text)
            # As a folder: `https://host/path` would otherwise cover `https://host/pathology/`.
            path = url.raw_path if url.raw_path.endswith(b"/") else url.raw_path + b"/"
            return HttpPrefix(url.copy_with(raw_path=path))
        if scheme in STORES:
            uri = parse_object(text)
            # Without a bucket, every bucket that the credentials open would be allowed.
            if scheme != "memory" and not uri.partition("://")[2].strip("/"):
                raise MediaError(f"--fetch {shown} names no bucket; write {scheme}://BUCKET/")
            return StorePrefix(uri if uri.endswith("/") else f"{uri}/")
    except ValueError as error:
        raise MediaError(f"--fetch {error}") from None
    hint = "; allow a folder of this machine by --root" if scheme in ("", "file") else ""
    known = ", ".join(f"{each}://" for each in (*HTTP, *STORES[:-1]))
    raise MediaError(f"--fetch {shown}: a prefix begins with one of {known}{hint}")


def scheme_of(uri: str) -> str:
    """Return the scheme in lower case, empty if there is none."""
    return uri.partition("://")[0].lower() if "://" in uri else ""


def parse_http(uri: str) -> httpx.URL:
    """Return the URL without its fragment; raises `ValueError` for one that is ambiguous."""
    shown = excerpt(safe(uri))
    if _UNSAFE.search(uri):
        raise ValueError(f"{shown} has a backslash or a control character")
    try:
        url = httpx.URL(uri)
        if url.userinfo or "@" in url.netloc.decode("latin-1"):
            raise ValueError(f"{shown} has a user or a password in it; leave them out")
        if not url.host or url.scheme not in HTTP:
            raise ValueError(f"{shown} is no URL of a host")
        _check_path(url.raw_path.partition(b"?")[0].decode("ascii"), shown)
        return url.copy_with(fragment=None)
    except httpx.InvalidURL:
        raise ValueError(f"{shown} is no URL") from None


def parse_object(uri: str) -> str:
    """Return the URI of an object; raises `ValueError` for one that is ambiguous."""
    shown = excerpt(safe(uri))
    scheme, _, path = uri.partition("://")
    # `::` chains file systems in fsspec: `s3://x::file:///etc/passwd` would read this machine.
    if _UNSAFE.search(uri) or "::" in uri:
        raise ValueError(f"{shown} has '::', a backslash or a control character")
    _check_path(path, shown)
    return f"{scheme.lower()}://{path}"


def _check_path(path: str, shown: str) -> None:
    """Raise `ValueError` for a path with ``..``, also one that is encoded, even repeatedly."""
    for _ in range(_DECODINGS):
        # A server may read `%5c` as a separator, and `..;x` as `..`.
        steps = [step.partition(";")[0] for step in re.split(r"[/\\]", path)]
        if any(step in {".", ".."} for step in steps):
            raise ValueError(f"{shown} has '.' or '..' in its path")
        if path == (path := unquote(path)):
            return
    raise ValueError(f"{shown} is percent-encoded more than {_DECODINGS} times")


def _origin(url: httpx.URL) -> tuple[str, bytes, int | None]:
    # `httpx` has put scheme and host in lower case, and removed a port that is the scheme's own.
    return url.scheme, url.raw_host, url.port


def _path(url: httpx.URL) -> bytes:
    return url.raw_path.partition(b"?")[0]
