"""Events that may fetch media, in threads of their own, a bounded number at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from registry.io.media import MediaReader
from registry.server.settings import ServerSettings
from registry.server.thread_pools import ThreadPools

Result = TypeVar("Result")

EVENTS = 8
"""Events at a time. Each holds what it fetches, and a connection to the database at its end."""


class MediaEvents:
    """Runs the work of events that may fetch media; for one event loop.

    Neither threads nor connections of other requests wait for a fetch.
    """

    def __init__(self, settings: ServerSettings, pools: ThreadPools) -> None:
        self._media = settings.media
        self._seconds = settings.fetch_timeout
        self._pools = pools
        self._slots = asyncio.Semaphore(EVENTS)
        self._threads = ThreadPoolExecutor(EVENTS, "registry-media")

    async def write(self, work: Callable[[MediaReader], Result], *, fetches: bool) -> Result:
        """Return the result of ``work``, which writes; ``fetches`` says whether it may fetch.

        Fetching has `fetch_timeout` seconds, with the wait for other events. When they are over,
        ``work`` runs with a reader that refuses to fetch: an annotation is rejected, not lost.
        Raises `Problem` if the database takes too long.
        """
        if self._media.fetcher is None:
            return await self._pools.write(work, self._media.within(self._seconds))
        if not fetches:
            return await self._pools.write(work, MediaReader())
        reader = self._media.within(self._seconds)
        try:
            async with asyncio.timeout(self._seconds):
                await self._slots.acquire()
        except TimeoutError:
            return await self._pools.write(work, reader)
        loop = asyncio.get_running_loop()
        future = self._threads.submit(work, reader)

        def release(_: Future[Result]) -> None:
            # Here rather than after the await, which may end before the thread does.
            with suppress(RuntimeError):  # the loop of a server that has ended is closed
                loop.call_soon_threadsafe(self._slots.release)

        future.add_done_callback(release)
        return await self._pools.in_time(asyncio.wrap_future(future), more=self._seconds)

    def close(self) -> None:
        """Let the events in progress end without waiting for them."""
        self._threads.shutdown(wait=False)
