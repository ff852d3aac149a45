"""Fetching over HTTP: redirects, sizes and encodings are checked, and failures repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from registry.io.fetch.label_studio import LabelStudio
from registry.io.fetch.limits import FetchLimits
from registry.io.fetch.prefix import HttpPrefix, parse_http
from registry.io.media import safe
from registry.samples.json_codec import excerpt

_REDIRECTS = (301, 302, 303, 307, 308)
_BUSY = (429, 502, 503, 504)
# Compressed content could unpack to any size, and is not what images are sent as.
_HEADERS = {"accept-encoding": "identity", "user-agent": "registry"}


class _RepeatableError(Exception):
    """A failure that may be gone a moment later; the message is the reason."""


class HttpFetcher:
    """Fetches URLs below prefixes. Its methods are for one event loop."""

    def __init__(
        self, prefixes: Sequence[HttpPrefix], limits: FetchLimits, studio: LabelStudio | None
    ) -> None:
        self._prefixes = prefixes
        self._limits = limits
        self._studio = studio
        self._client = httpx.AsyncClient(
            # No cookie is kept: a session that one answer begins must not be part of the next.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            headers=_HEADERS,
            limits=httpx.Limits(max_keepalive_connections=limits.at_a_time),
            # The caller limits the time of the whole fetch; these apply to single operations.
            timeout=limits.seconds,
        )

    async def fetch(self, uri: str) -> bytes:
        """Return the content of a URL; raises `ValueError`, also for a redirect elsewhere."""
        url = parse_http(uri)
        if not self._covers(url):
            raise ValueError(f"{excerpt(safe(uri))} is below no --fetch prefix, and not fetched")
        for pause in (*self._limits.pauses, None):
            try:
                return await self._follow(url)
            except _RepeatableError as error:
                if pause is None:
                    raise ValueError(f"{excerpt(safe(uri))}: {error}") from None
                await asyncio.sleep(pause)
        raise AssertionError  # the last pause is None

    async def close(self) -> None:
        await self._client.aclose()

    async def _follow(self, first: httpx.URL) -> bytes:
        url = first
        for _ in range(self._limits.redirects + 1):
            answer = await self._get(url)
            if isinstance(answer, bytes):
                return answer
            url = self._redirected(first, url, answer)
        raise ValueError(
            f"{excerpt(safe(str(first)))} is redirected over {self._limits.redirects} times"
        )

    def _redirected(self, first: httpx.URL, url: httpx.URL, location: str) -> httpx.URL:
        """Return where a URL is redirected; raises `ValueError` for what is not below a prefix."""
        # Checked as any URL is: the server that answered chooses where its redirects lead.
        shown = excerpt(safe(str(first)))
        try:
            # Before it is joined, which might turn a backslash into something else.
            if "\\" in location:
                raise ValueError("a location with a backslash")  # noqa: TRY301  # as the others
            target = parse_http(str(url.join(location)))
        except (httpx.InvalidURL, ValueError) as error:
            raise ValueError(f"{shown} is redirected to what is not fetched: {error}") from None
        if not self._covers(target):
            raise ValueError(
                f"{shown} is redirected to what is below no --fetch prefix, on {_origin(target)}"
            )
        return target

    async def _get(self, url: httpx.URL) -> bytes | str:
        """Return the content of a URL, or the location to which it is redirected."""
        headers: Mapping[str, str] = {}
        try:
            # For each request: a redirect to elsewhere must not carry the token.
            if self._studio is not None and self._studio.holds(url):
                headers = await self._studio.headers(self._client)
            async with self._client.stream("GET", url, headers=headers) as answer:
                status = answer.status_code
                location: str | None = answer.headers.get("location")
                if status in _REDIRECTS and location is not None:
                    return location
                if status in _BUSY:
                    raise _RepeatableError(f"the server answers {_status(answer)}")
                if status != 200:
                    raise ValueError(f"{excerpt(safe(str(url)))}: {self._refusal(url, answer)}")
                return await self._content(answer)
        except httpx.TransportError as error:
            # The text of some errors quotes what the server sent.
            reason = f"{type(error).__name__}: {error!s:.100}" if str(error) else "no answer"
            raise _RepeatableError(f"it cannot be fetched ({reason})") from None

    async def _content(self, answer: httpx.Response) -> bytes:
        shown, most = excerpt(safe(str(answer.url))), self._limits.size
        encoding = answer.headers.get("content-encoding", "identity").lower()
        if encoding != "identity":
            raise ValueError(
                f"{shown} is sent with the encoding {excerpt(encoding)}; let the server send it as "
                "it is"
            )
        length = answer.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > most:
            raise ValueError(
                f"{shown} has {int(length[:20]):,} bytes; at most {most:,} are fetched"
            )
        content = bytearray()
        # Raw, and counted: a server may send more than it said, or not say how much it sends.
        async for chunk in answer.aiter_raw():
            content += chunk
            if len(content) > most:
                raise ValueError(f"{shown} has over {most:,} bytes, which are not fetched")
        return bytes(content)

    def _refusal(self, url: httpx.URL, answer: httpx.Response) -> str:
        reason = f"the server answers {_status(answer)}"
        if answer.status_code not in {401, 403}:
            return reason
        if self._studio is not None and self._studio.holds(url):
            return f"{reason}; {self._studio.advice}"
        return f"{reason}; it needs credentials, and none are sent to it"

    def _covers(self, url: httpx.URL) -> bool:
        return any(prefix.covers(url) for prefix in self._prefixes)


def _origin(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.netloc.decode('latin-1')}"


def _status(answer: httpx.Response) -> str:
    # Not the server's own words, which may be any text.
    return f"{answer.status_code} {httpx.codes.get_reason_phrase(answer.status_code)}".rstrip()
