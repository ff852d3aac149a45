"""Limits on the rate of requests."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from registry.server.problems import Problem

MOST_CLIENTS: Final = 4096
"""Clients that are remembered, at most: without a limit, their addresses would fill the memory."""


class RateLimit:
    """Token buckets: each client may take ``rate`` per second, and a burst of twice as many.

    For one event loop, and not thread-safe.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        """What each client may still take, and when that was computed."""

    def take(self, client: Hashable, count: int = 1) -> None:
        """Take ``count`` from the bucket of a client; raises `Problem` if less than one was left.

        With ``count`` 0 it checks the bucket and takes nothing.
        """
        now = time.monotonic()
        # Removed and inserted again, so that the dictionary is in order of last use: popitem()
        # below must evict the client that was idle for longest, not one that is over its limit.
        level, updated = self._buckets.pop(client, (2 * self._rate, now))
        level = min(2 * self._rate, level + (now - updated) * self._rate)
        # Not below zero: a client that keeps sending would otherwise be locked out for longer and
        # longer.
        self._buckets[client] = (max(0.0, level - count), now)
        if len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        if level < 1:
            raise Problem(429, f"more than {self._rate:g} requests a second; send it again later")
