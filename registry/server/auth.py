"""Authentication and authorization of requests.

A request carries a token, as ``Authorization: Bearer …`` or ``Token …``. `Authenticator` looks its
digest up in the database and caches the result for `CACHE_SECONDS`. Requests are limited per token,
failed attempts per address. All of it runs on the event loop, in one thread, so nothing here takes
a lock.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from registry.catalog.registry import Registry
from registry.server import tokens
from registry.server.problems import Problem
from registry.server.rate_limit import RateLimit
from registry.server.settings import ServerSettings, is_loopback
from registry.server.thread_pools import ThreadPools
from registry.server.tokens import Right, Token

CACHE_SECONDS: Final = 2.0
"""Seconds for which the result of a token lookup is cached. A revoked token is accepted for at most
this long."""
FAILURE_RATE: Final = 10.0
"""Requests without a valid token that each address may send per second."""
_CACHE_SIZE = 4096
"""Cached results, at most: clients choose the tokens that they send."""


class Authenticator:
    """Checks the tokens and rates of requests, for one event loop."""

    def __init__(self, registry: Registry, settings: ServerSettings, pools: ThreadPools) -> None:
        self._engine = registry.engine
        self._settings = settings
        self._pools = pools
        self._cache: OrderedDict[bytes, tuple[Token | None, float]] = OrderedDict()
        """The result of each lookup, and when it was made."""
        self._requests = RateLimit(settings.rate)
        self._failures = RateLimit(FAILURE_RATE)

    async def require(
        self, request: HTTPConnection, right: Right, dataset: str | None
    ) -> Token | None:
        """Return the request's token, or None on a server without tokens.

        Raises `Problem` unless the request has this right; ``dataset`` None means all.
        """
        token = await self.token(request)
        if token is not None and not token.opens(dataset, right):
            target = "every dataset" if dataset is None else f"the dataset {dataset!r:.140}"
            raise Problem(403, f"the token {token.name!r} may not {right} {target}")
        return token

    async def token(self, request: HTTPConnection) -> Token | None:
        """Return the request's token, or None on a server without tokens.

        Raises `Problem` for a missing or invalid token, and for a client over its rate.
        """
        if self._settings.insecure:
            self.check_host(request)
            return None
        address = _address(request)
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        token = None
        # "Token" is what Label Studio's own API takes, and its users write.
        if scheme.lower() in ("bearer", "token") and secret.strip():
            token = await self._look_up(tokens.digest(secret.strip()), address)
        if token is None:
            # Charged before the answer: take() raises 429 in place of 401 for an address that
            # keeps guessing.
            self._failures.take(address)
            raise Problem(
                401,
                "send 'Authorization: Bearer TOKEN', or 'Token TOKEN'; "
                "`registry token create` makes one",
            )
        # By the token's id, not by the address: clients behind one proxy have one address.
        self._requests.take(token.id)
        return token

    async def session_token(self, request: HTTPConnection, digest: bytes) -> Token | None:
        """Return the token of a session, by its digest; None if it was revoked or has expired.

        Raises `Problem` for a token over its rate.
        """
        token = await self._look_up(digest, _address(request))
        if token is not None:
            self._requests.take(token.id)
        return token

    async def check_secret(self, request: HTTPConnection, secret: str) -> Token:
        """Return the token with a secret that somebody typed; raises `Problem` if there is none."""
        address = _address(request)
        token = await self._look_up(tokens.digest(secret), address)
        if token is None:
            self._failures.take(address)
            raise Problem(401, "there is no such token")
        return token

    async def _look_up(self, digest: bytes, address: str | None) -> Token | None:
        now = time.monotonic()
        token, cached_at = self._cache.get(digest, (None, -CACHE_SECONDS))
        if now - cached_at < CACHE_SECONDS:
            return token
        if token is None:
            # Checked before the query: a client that guesses tokens would keep the database busy.
            # A cached valid token skips the check, so that clients behind the same address work.
            self._failures.take(address, 0)
        timeout = self._settings.database_timeout
        token = await self._pools.read(tokens.check, self._engine, digest, timeout)
        # An invalid token is cached too, as None, so that a repeated one costs no query.
        self._cache[digest] = (token, now)
        if len(self._cache) > _CACHE_SIZE:
            self._cache.popitem(last=False)
        return token

    @staticmethod
    def check_host(request: HTTPConnection) -> None:
        """Reject requests whose Host is not this machine.

        Without this, a web page could resolve its own name to 127.0.0.1 (DNS rebinding) and read
        the server through the user's browser.
        """
        try:
            host = urlsplit(f"//{request.headers.get('host', '')}").hostname
        except ValueError:
            host = None
        if not is_loopback(host or ""):
            raise Problem(421, "a server without tokens answers to localhost only")


def _address(request: HTTPConnection) -> str | None:
    return request.client.host if request.client else None
