"""Reading of images and other bytes that a text names: data, a file below a folder, or a URI.

The texts come from annotations and files of others, and are untrusted. A file is read only from
below a folder that the caller allows, even if ``..``, symbolic links or a ``file://`` URI lead out
of it. A URI is fetched only below a prefix that the caller allows; `registry.io.fetch` does it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Protocol, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from registry.distribution import install_extra
from registry.errors import RegistryError
from registry.samples.features import LARGEST_RECORD
from registry.samples.json_codec import excerpt, from_base64

Item = TypeVar("Item")
Result = TypeVar("Result")

REQUEST_BYTES = 64 << 20
"""Bytes of all files and URIs that one request, such as an event, may name."""
HIDDEN = "?…"
"""The end of a URI of which `safe` has removed the query."""
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}\Z")
_LONGEST_PATH = 4096
_UPLOADS = "/data/"
"""What the paths of Label Studio's own files begin with."""


class MediaError(RegistryError):
    """A prefix or a token that cannot be used to fetch media. The message holds no secret.

    Remedy: correct the prefix, or the variable that has the token.
    """


class Fetches(Protocol):
    """Fetches URIs. Its methods block, and may be called by several threads at once."""

    def fetch(self, uri: str) -> bytes:
        """Return the content of a URI; raises `ValueError` with the reason."""
        ...

    def upload(self, path: str) -> str | None:
        """Return the URI of a path of Label Studio's files, None if no prefix is its server's."""
        ...

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results of ``work``, in order; some items are worked on at the same time."""
        ...

    def within(self, seconds: float) -> Fetches:
        """Return a fetcher for one request, which has this time for all that it fetches."""
        ...

    def close(self) -> None: ...


class Budget:
    """Bytes that one request may still keep in memory. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._lock = Lock()

    def take(self, size: int) -> bool:
        """Return whether this many bytes were left, and take them."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True


@dataclass(frozen=True)
class MediaReader:
    """Reads what texts name: files below ``roots``, and URIs that ``fetcher`` may fetch.

    Without roots and a fetcher, it reads base64 and ``data:`` URIs only. Thread-safe. Its methods
    block, so they must not be called under the lock on a head or in an event loop.
    """

    roots: Sequence[Path] = ()
    fetcher: Fetches | None = None
    budget: Budget | None = None

    def load(self, text: str) -> bytes:
        """Return the content of base64 text, a ``data:`` URI, a path, or another URI.

        A relative path, and Label Studio's ``/data/…`` and ``/data/local-files/?d=…``, are relative
        to each root. Raises `ValueError` with the reason, in particular for a file below none of
        the roots, and for a URI that is not fetched.
        """
        if text[:5].lower() == "data:":
            return from_base64(text)
        # Not `urlsplit`, which takes any text before a colon as a scheme.
        scheme = text.partition("://")[0].lower() if "://" in text else ""
        if scheme not in ("", "file"):
            return self._within_budget(self._fetch(text), text)
        if not scheme and _may_be_base64(text):
            # A name such as `cats/a1b2cd` would otherwise be decoded, and its bytes stored.
            if self._is_file(text):
                raise ValueError(
                    f"{excerpt(text)} is base64, and also the name of a file; write "
                    "./NAME for the file, or data:;base64,… for the bytes"
                )
            return from_base64(text)
        return self._within_budget(self._read_path(text, scheme), text)

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results of ``work``, in order; with a fetcher, several at the same time."""
        return map(work, items) if self.fetcher is None else self.fetcher.map(work, items)

    def with_roots(self, *folders: Path) -> MediaReader:
        """Return a reader that reads from these folders, too."""
        return replace(self, roots=[*self.roots, *folders])

    def within(self, seconds: float) -> MediaReader:
        """Return a reader for one request: for all that it fetches, and for all that it reads.

        It has this time to fetch, and may read `REQUEST_BYTES`.
        """
        fetcher = None if self.fetcher is None else self.fetcher.within(seconds)
        return replace(self, fetcher=fetcher, budget=Budget(REQUEST_BYTES))

    def close(self) -> None:
        if self.fetcher is not None:
            self.fetcher.close()

    def _within_budget(self, content: bytes, text: str) -> bytes:
        if self.budget is not None and not self.budget.take(len(content)):
            raise ValueError(
                f"{excerpt(safe(text))} was not kept: what the request names has over "
                f"{REQUEST_BYTES:,} bytes; registry inbox retry reads it"
            )
        return content

    def _fetch(self, uri: str) -> bytes:
        if self.fetcher is None:
            raise ValueError(
                f"{excerpt(safe(uri))} is not fetched, as no --fetch prefix is given; give one, or "
                "the bytes, or a file below a --root"
            )
        if uri.endswith(HIDDEN):
            raise ValueError(
                f"{excerpt(uri)}: the query was left out when the row was rejected, as it may be "
                "secret; import an export of the tool, or send the sample again"
            )
        return self.fetcher.fetch(uri)

    def _read_path(self, text: str, scheme: str) -> bytes:
        upload = self.fetcher.upload(text) if self.fetcher and _is_upload(text) else None
        if not self.roots and upload is None:
            if scheme or text.startswith("/"):
                raise ValueError(
                    f"{excerpt(safe(text))} names a file, and no folder is allowed to read it "
                    "from; give one by --root"
                )
            try:
                return from_base64(text)
            except ValueError as error:
                way = "a file is read only from below a --root"
                # Base64 has no dot.
                reason = f"{way}, and none is given; {error}" if "." in text else f"{error}; {way}"
                raise ValueError(reason) from None
        for path in _paths(text, scheme):
            if (content := read_below(path, self.roots, text)) is not None:
                return content
        if upload is not None:
            return self._fetch(upload)
        allowed = ", ".join(map(str, self.roots))
        raise ValueError(f"{excerpt(text)} is no file below {allowed}")

    def _is_file(self, text: str) -> bool:
        # A longer one is no path, and to try it would take as long as to decode it.
        if len(text) > _LONGEST_PATH:
            return False
        with suppress(OSError):  # a name that is too long for the file system
            return any(_file_below(text, root) is not None for root in self.roots)
        return False


def media_reader(
    roots: Sequence[Path], prefixes: Sequence[str], *, seconds: float | None = None
) -> MediaReader:
    """Return a reader of files below roots and of URIs below prefixes; the caller closes it.

    ``seconds`` limits the time of each fetch. Raises `MediaError` for a prefix that cannot be used,
    and if a library is not installed.
    """
    if not prefixes:
        return MediaReader(roots)
    try:
        # Imported here: they need an extra.
        from registry.io.fetch.fetcher import Fetcher  # noqa: PLC0415
        from registry.io.fetch.limits import FetchLimits  # noqa: PLC0415
    except ImportError as error:
        if error.name not in {"fsspec", "httpx"}:
            raise  # a broken import in our own code is not a missing extra
        raise MediaError(f"--fetch needs {error.name}; run: {install_extra('fetch')}") from None
    limits = FetchLimits() if seconds is None else FetchLimits(seconds=seconds)
    return MediaReader(roots, Fetcher(prefixes, limits))


def read_below(path: str, roots: Sequence[Path], shown_as: str) -> bytes | None:
    """Read the file at a path below one of the roots; return None if there is none.

    Raises `ValueError`, with ``shown_as``, for one that cannot be read.
    """
    for root in roots:
        try:
            if (file := _file_below(path, root)) is not None:
                if file.stat().st_size > LARGEST_RECORD:
                    raise ValueError(f"{excerpt(shown_as)} has over {LARGEST_RECORD} bytes")
                return file.read_bytes()
        except OSError as error:
            reason = f"{excerpt(shown_as)} cannot be read ({type(error).__name__})"
            raise ValueError(reason) from None
    return None


def _file_below(path: str, root: Path) -> Path | None:
    """Return the file at a path if it is below the root; raises `OSError`."""
    folder = root.resolve()
    try:
        # Resolved before it is compared: `..` and links would otherwise lead out of the root.
        file = (folder / path).resolve()
    # For links that lead in a circle, and for a path with a null character.
    except (RuntimeError, ValueError) as error:
        raise OSError(str(error)) from None
    # `is_file` is false for a pipe or a device, of which reading might never end.
    return file if file.is_relative_to(folder) and file.is_file() else None


def safe(value: str) -> str:
    """Return a URI without the parts that may be secret: user, password and query.

    One that had a query ends in `HIDDEN`, so that it is not fetched without it later.
    """
    if "://" not in value:
        return value
    value, query, _ = re.sub(r"://[^/?#]*@", "://", value).partition("?")
    return value + HIDDEN if query else value


def _may_be_base64(text: str) -> bool:
    # No path is so long, and to match a whole image would take longer than to decode it.
    if len(text) > _LONGEST_PATH:
        return True
    return len(text) % 4 == 0 and _BASE64.match(text) is not None


def _is_upload(text: str) -> bool:
    return text.startswith(_UPLOADS)


def _paths(text: str, scheme: str) -> Sequence[str]:
    """Return the paths that a text may stand for; a relative one is relative to a root."""
    if scheme == "file":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise ValueError(f"{excerpt(safe(text))} names another machine's file")
        return [unquote(parts.path)]
    if text.startswith(f"{_UPLOADS}local-files/"):
        files = parse_qs(urlsplit(text).query).get("d")
        if files is None:
            raise ValueError(f"{excerpt(text)} names no file")
        return files[:1]
    # Without Label Studio, `/data/` may be a folder of this machine.
    return [unquote(text.removeprefix(_UPLOADS)), text] if _is_upload(text) else [text]
