"""Who may do what: tokens, remembered for a moment, and how often each may ask."""

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
"""Seconds for which a token that was looked up is believed; one that is revoked opens nothing
after that."""
FAILURES: Final = 10.0
"""Attempts a second, per address, without a good token."""
_MOST = 4096


class Buckets:
    """Token buckets: each name may take ``rate`` a second, after a burst of twice as many."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, name: Hashable, count: int = 1) -> None:
        """Raise `Problem` where the name has had its share; with ``count`` 0, take nothing."""
        now = time.monotonic()
        left, when = self._left.pop(name, (2 * self._rate, now))
        left = min(2 * self._rate, left + (now - when) * self._rate)
        self._left[name] = (max(0.0, left - count), now)
        if len(self._left) > _MOST:
            self._left.popitem(last=False)
        if left < 1:
            raise Problem(429, f"more than {self._rate:g} requests a second; send it again later")


class Access:
    """Lets requests in."""

    def __init__(self, registry: Registry, settings: Settings, threads: Threads) -> None:
        self._engine = registry.engine
        self._settings = settings
        self._threads = threads
        self._known: OrderedDict[bytes, tuple[Token | None, float]] = OrderedDict()
        self._asked = Buckets(settings.rate)
        self._failed = Buckets(FAILURES)

    async def require(self, request: HTTPConnection, right: Right, dataset: str | None) -> None:
        """Raise `Problem` unless the request may do this; ``dataset`` None means all of them."""
        token = await self.token(request)
        if token is not None and not token.opens(dataset, right):
            what = "every dataset" if dataset is None else f"the dataset {dataset!r:.140}"
            raise Problem(403, f"the token {token.name!r} may not {right} {what}")

    async def token(self, request: HTTPConnection) -> Token | None:
        """Return the request's token, None where all are let in; raises `Problem`."""
        if self._settings.insecure:
            self._check_local(request)
            return None
        host = request.client.host if request.client else None
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        token = None
        if scheme.lower() == "bearer" and secret.strip():
            token = await self._look_up(tokens.digest(secret.strip()), host)
        if token is None:
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
            # Somebody who guesses must not keep the database busy, nor lock out whom it knows.
            self._failed.take(host, 0)
        patience = self._settings.patience
        token = await self._threads.read(tokens.check, self._engine, digest, patience)
        self._known[digest] = (token, now)
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
        return token

    @staticmethod
    def _check_local(request: HTTPConnection) -> None:
        """Refuse a web page that had its own name resolve to this machine (DNS rebinding)."""
        try:
            host = urlsplit(f"//{request.headers.get('host', '')}").hostname
        except ValueError:
            host = None
        if not is_loopback(host or ""):
            raise Problem(421, "a server without tokens answers to localhost only")
