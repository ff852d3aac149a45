"""Threads that wait for the database in the event loop's stead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from registry.server.problems import late

Given = ParamSpec("Given")
Result = TypeVar("Result")

READERS = 16
WRITERS = 16
PARSERS = 2
"""They hold Python's lock between them: more would only keep more of what is read in memory."""
_LARGE = 1 << 16
"""Bytes of a body that would take the event loop more than a millisecond or so to parse."""


class Threads:
    """Reads and writes have threads of their own, so that neither waits for the other.

    ``patience`` is how long a request waits, in seconds; what it asked for goes on without it.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._readers = ThreadPoolExecutor(READERS, "registry-read")
        self.writers = ThreadPoolExecutor(WRITERS, "registry-write")
        self._parsers = ThreadPoolExecutor(PARSERS, "registry-parse")

    async def read(
        self, work: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
    ) -> Result:
        """Return what reading gives; raises `Problem` where it takes too long."""
        loop = asyncio.get_running_loop()
        return await self.in_time(
            loop.run_in_executor(self._readers, lambda: work(*args, **kwargs))
        )

    async def write(
        self, work: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
    ) -> Result:
        """Return what writing gives; raises `Problem` where it takes too long."""
        loop = asyncio.get_running_loop()
        return await self.in_time(loop.run_in_executor(self.writers, lambda: work(*args, **kwargs)))

    async def parse(self, body: bytes, work: Callable[[], Result]) -> Result:
        """Return what is made of a body; it has no time limit, since it waits for nobody."""
        if len(body) < _LARGE:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._parsers, work)

    async def in_time(self, work: Awaitable[Result]) -> Result:
        try:
            async with asyncio.timeout(self._patience):
                return await work
        except TimeoutError:
            raise late() from None

    def close(self) -> None:
        """Let threads end by themselves: one may wait for a database that is down."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._parsers.shutdown(wait=False, cancel_futures=True)
        self.writers.shutdown(wait=False)
