"""Authentication, authorization and rate limits of requests.

A request carries a bearer token. `Access` looks its digest up in the database and caches the
result for `REMEMBERED` seconds. Requests are limited per token, failed attempts per address. All
of it runs on the event loop, in one thread, so nothing here takes a lock.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from registry.catalog.registry import Registry
from registry.server import tokens
from registry.server.problems import Problem
from registry.server.settings import Settings, is_loopback
from registry.server.thread_pools import Threads
from registry.server.tokens import Right, Token

REMEMBERED: Final = 2.0
"""Seconds for which the result of a token lookup is cached. A revoked token is accepted for at most
this long."""
FAILURES: Final = 10.0
"""Requests without a valid token that each address may send per second."""
_MOST = 4096
"""Entries of a cache, at most: clients choose the tokens that they send."""


class Buckets:
    """Token buckets: each name may take ``rate`` per second, and a burst of twice as many."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, name: Hashable, count: int = 1) -> None:
        """Take ``count`` from the bucket of a name; raises `Problem` if less than one was left.

        With ``count`` 0 it checks the bucket and takes nothing.
        """
        now = time.monotonic()
        # Removed and inserted again, so that the dictionary is in order of last use: popitem()
        # below must evict the name that has been unused for longest, not one over its limit.
        left, when = self._left.pop(name, (2 * self._rate, now))
        left = min(2 * self._rate, left + (now - when) * self._rate)
        self._left[name] = (max(0.0, left - count), now)
        if len(self._left) > _MOST:
            self._left.popitem(last=False)
        if left < 1:
            raise Problem(429, f"more than {self._rate:g} requests a second; send it again later")


class Access:
    """Checks the tokens and rates of requests, for one event loop."""

    def __init__(self, registry: Registry, settings: Settings, threads: Threads) -> None:
        self._engine = registry.engine
        self._settings = settings
        self._threads = threads
        self._known: OrderedDict[bytes, tuple[Token | None, float]] = OrderedDict()
        self._asked = Buckets(settings.rate)
        self._failed = Buckets(FAILURES)

    async def require(self, request: HTTPConnection, right: Right, dataset: str | None) -> None:
        """Raise `Problem` unless the request has this right; ``dataset`` None means all."""
        token = await self.token(request)
        if token is not None and not token.opens(dataset, right):
            what = "every dataset" if dataset is None else f"the dataset {dataset!r:.140}"
            raise Problem(403, f"the token {token.name!r} may not {right} {what}")

    async def token(self, request: HTTPConnection) -> Token | None:
        """Return the request's token, or None on a server without tokens.

        Raises `Problem` for a missing or invalid token, and for a client over its rate.
        """
        if self._settings.insecure:
            self._check_local(request)
            return None
        host = request.client.host if request.client else None
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        token = None
        if scheme.lower() == "bearer" and secret.strip():
            token = await self._look_up(tokens.digest(secret.strip()), host)
        if token is None:
            # Charged before the answer: take() raises 429 in place of 401 for an address that
            # keeps guessing.
            self._failed.take(host)
            raise Problem(
                401, "send 'Authorization: Bearer TOKEN'; `registry token create` makes one"
            )
        self._asked.take(token.id)
        return token

    async def _look_up(self, digest: bytes, host: str | None) -> Token | None:
        now = time.monotonic()
        token, when = self._known.get(digest, (None, -REMEMBERED))
        if now - when < REMEMBERED:
            return token
        if token is None:
            # Checked before the query: a client that guesses tokens would keep the database busy.
            # A cached valid token skips the check, so that clients behind the same address work.
            self._failed.take(host, 0)
        patience = self._settings.patience
        token = await self._threads.read(tokens.check, self._engine, digest, patience)
        # An invalid token is cached too, as None, so that a repeated one costs no query.
        self._known[digest] = (token, now)
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
        return token

    @staticmethod
    def _check_local(request: HTTPConnection) -> None:
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
