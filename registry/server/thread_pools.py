"""Thread pools for blocking work: a query on the event loop would stop all other requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from registry.server.problems import timed_out

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

READERS = 16
WRITERS = 16
PARSERS = 2
"""Parsing holds the GIL: more threads would not be faster, but hold more bodies in memory."""
DRAWERS = 2
"""Each may hold an image of 100 MB in memory while it makes a thumbnail."""
_LARGE_BODY = 1 << 16
"""Bytes of a body from which parsing would block the event loop for about a millisecond."""


class ThreadPools:
    """Separate pools for reads, writes, parsing and images, which do not wait for each other.

    ``timeout`` is how long a request waits, in seconds. A thread cannot be cancelled: its work
    continues after the request has been answered with 503.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._readers = ThreadPoolExecutor(READERS, "registry-read")
        self.writers: ThreadPoolExecutor = ThreadPoolExecutor(WRITERS, "registry-write")
        self._parsers = ThreadPoolExecutor(PARSERS, "registry-parse")
        self._drawers = ThreadPoolExecutor(DRAWERS, "registry-draw")

    async def read(
        self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Return the result of ``work``, which reads; raises `Problem` if it takes too long."""
        loop = asyncio.get_running_loop()
        return await self.in_time(
            loop.run_in_executor(self._readers, lambda: work(*args, **kwargs))
        )

    async def draw(
        self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Return the result of ``work``, which decodes an image, as `read` does."""
        loop = asyncio.get_running_loop()
        return await self.in_time(
            loop.run_in_executor(self._drawers, lambda: work(*args, **kwargs))
        )

    async def write(
        self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Return the result of ``work``, which writes; raises `Problem` if it takes too long.

        The work may still commit after that: clients must be able to send the request again.
        """
        loop = asyncio.get_running_loop()
        return await self.in_time(loop.run_in_executor(self.writers, lambda: work(*args, **kwargs)))

    async def parse(self, body: bytes, work: Callable[[], Result]) -> Result:
        """Return the result of ``work``, which parses a body. It never waits: it has no limit."""
        # A change of threads takes longer than parsing a small body.
        if len(body) < _LARGE_BODY:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._parsers, work)

    async def in_time(self, work: Awaitable[Result], *, more: float = 0) -> Result:
        """Return the result of ``work``; raises `Problem` ``more`` seconds after the timeout."""
        try:
            async with asyncio.timeout(self._timeout + more):
                return await work
        except TimeoutError:
            raise timed_out() from None

    def close(self) -> None:
        """Shut the pools down without waiting: a thread may wait for a database that is down."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._parsers.shutdown(wait=False, cancel_futures=True)
        self._drawers.shutdown(wait=False, cancel_futures=True)
        # Queued writes are not cancelled: each may be a commit of many requests.
        self.writers.shutdown(wait=False)
