"""The address of a Label Studio server, and the token that its files are fetched with."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence

import httpx

from registry.io.fetch.prefix import HttpPrefix, parse_http
from registry.io.media import MediaError

TOKEN_VARIABLE = "REGISTRY_LABEL_STUDIO_TOKEN"  # noqa: S105  # the name of a variable
URL_VARIABLE = "REGISTRY_LABEL_STUDIO_URL"
_FRESH = 120.0
"""Seconds for which an access token is used; Label Studio accepts one for five minutes."""
_LARGEST_ANSWER = 1 << 16


class LabelStudio:
    """A Label Studio server below ``prefix``, and how requests to it are authorized.

    A legacy token is sent as it is. A personal access token, which is a JWT, is exchanged for an
    access token.
    """

    def __init__(self, prefix: HttpPrefix, token: str | None) -> None:
        self.prefix = prefix
        # Whoever writes tasks chooses the paths: with the token, they could read the server's API.
        self._files = HttpPrefix(prefix.url.copy_with(raw_path=prefix.url.raw_path + b"data/"))
        self._token = token
        self._access: str | None = None
        self._access_time = 0.0

    def holds(self, url: httpx.URL) -> bool:
        """Return whether a URL is one of the server's files, which the token is sent to."""
        return self._files.covers(url)

    @property
    def advice(self) -> str:
        """What to do if the server refuses a request."""
        if self._token is None:
            return f"put a token of Label Studio into ${TOKEN_VARIABLE}"
        return f"check the token in ${TOKEN_VARIABLE}, and what its user may see"

    async def headers(self, client: httpx.AsyncClient) -> Mapping[str, str]:
        """Return the headers of a request to the server; raises `ValueError`."""
        if self._token is None:
            return {}
        if self._token.count(".") != 2:
            return {"authorization": f"Token {self._token}"}
        if self._access is None or time.monotonic() - self._access_time > _FRESH:
            self._access = await self._refreshed(client)
            self._access_time = time.monotonic()
        return {"authorization": f"Bearer {self._access}"}

    async def _refreshed(self, client: httpx.AsyncClient) -> str:
        url = self.prefix.url.join("api/token/refresh/")
        body = bytearray()
        # Not followed if it is redirected: the token is sent to this server only.
        async with client.stream("POST", url, json={"refresh": self._token}) as answer:
            if answer.status_code != 200:
                raise ValueError(
                    f"Label Studio answers {answer.status_code} to the personal access token; "
                    f"{self.advice}"
                )
            async for chunk in answer.aiter_raw():
                body += chunk
                if len(body) > _LARGEST_ANSWER:
                    break
        try:
            access = json.loads(body)["access"]
        except (ValueError, TypeError, LookupError):
            access = None
        if not isinstance(access, str) or not access.isascii() or not access.isprintable():
            raise ValueError("Label Studio sends no access token for the personal access token")
        return access


def label_studio(
    prefixes: Sequence[HttpPrefix], environment: Mapping[str, str]
) -> LabelStudio | None:
    """Return the server that the environment names, or the only prefix; raises `MediaError`.

    Returns None without prefixes, and for several if neither a token nor the URL is set.
    """
    token, url = (environment.get(name, "").strip() for name in (TOKEN_VARIABLE, URL_VARIABLE))
    # The characters of a header; also, an error of the client would quote the token.
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise MediaError(f"${TOKEN_VARIABLE} is no token")
    candidates = prefixes
    if url:
        try:
            wanted = parse_http(url if url.endswith("/") else f"{url}/")
        except ValueError as error:
            raise MediaError(f"${URL_VARIABLE}: {error}") from None
        candidates = [prefix for prefix in prefixes if prefix.url == wanted]
        if not candidates:
            raise MediaError(
                f"${URL_VARIABLE} is none of the --fetch prefixes; give it as one, too"
            )
    if len(candidates) == 1:
        return LabelStudio(candidates[0], token or None)
    if token and candidates:
        raise MediaError(
            f"${TOKEN_VARIABLE} is set, and there are {len(candidates)} --fetch prefixes of HTTP; "
            f"put that of Label Studio into ${URL_VARIABLE}, so that no other gets the token"
        )
    return None
