"""The fetching of URIs: an event loop in a thread, in which every fetch has limits.

Only an event loop can end a fetch at any moment, even in the middle of a header that is sent a byte
a second. Callers block in threads of their own.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property, partial

from registry.io.fetch.http import HttpFetcher
from registry.io.fetch.label_studio import label_studio
from registry.io.fetch.limits import FetchLimits
from registry.io.fetch.objects import ObjectReader
from registry.io.fetch.prefix import HTTP, HttpPrefix, StorePrefix, parse_prefix, scheme_of
from registry.io.media import Fetches, Item, Result, safe
from registry.samples.json_codec import excerpt


class Fetcher:
    """Fetches what is below prefixes, and nothing else. Thread-safe.

    Raises `MediaError` for a prefix that cannot be used. `close` stops its threads.
    """

    def __init__(
        self,
        prefixes: Sequence[str],
        limits: FetchLimits | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.limits: FetchLimits = limits or FetchLimits()
        parsed = [parse_prefix(prefix) for prefix in prefixes]
        self._web = [prefix for prefix in parsed if isinstance(prefix, HttpPrefix)]
        self._studio = label_studio(self._web, environment)
        stores = [prefix for prefix in parsed if isinstance(prefix, StorePrefix)]
        self._objects = ObjectReader(stores, self.limits)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def fetch(self, uri: str) -> bytes:
        """Return the content of a URI; raises `ValueError` with the reason."""
        return self.start(uri).result()

    def start(self, uri: str, seconds: float | None = None) -> Future[bytes]:
        """Begin to fetch a URI, within the limit or ``seconds`` if that is less."""
        most = self.limits.seconds if seconds is None else min(seconds, self.limits.seconds)
        return asyncio.run_coroutine_threadsafe(self._fetch(uri, most), self._running_loop())

    def upload(self, path: str) -> str | None:
        """Return the URI of a path of Label Studio's files, None if no prefix is its server's."""
        return None if self._studio is None else f"{self._studio.prefix.url}{path.lstrip('/')}"

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results of ``work``, in order; some items are worked on at the same time."""
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(self._workers.submit(work, item))
                # No more than are fetched at a time: the results are in memory.
                if len(pending) == self.limits.at_a_time:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def within(self, seconds: float) -> Fetches:
        """Return a fetcher for one request, which has this time for all that it fetches."""
        return RequestFetcher(self, seconds)

    def close(self) -> None:
        if self._loop is not None:
            # First: workers that wait for a fetch would otherwise wait to its end.
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._loop = None
        if "_workers" in vars(self):
            self._workers.shutdown(cancel_futures=True)

    @cached_property
    def _workers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.limits.at_a_time, "registry-media")

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._slots = asyncio.Semaphore(self.limits.at_a_time)
                self._http = HttpFetcher(self._web, self.limits, self._studio)
                self._readers = asyncio.Semaphore(self.limits.at_a_time)
                # A daemon: a process that is interrupted must not wait for a fetch.
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="registry-fetch", daemon=True
                )
                self._thread.start()
            return self._loop

    async def _stop(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.close()

    async def _fetch(self, uri: str, seconds: float) -> bytes:
        try:
            async with asyncio.timeout(seconds), self._slots:
                if scheme_of(uri) in HTTP:
                    return await self._http.fetch(uri)
                return await self._read_object(uri)
        except TimeoutError:
            shown = excerpt(safe(uri))
            raise ValueError(f"{shown} could not be fetched within {seconds:.3g} seconds") from None

    async def _read_object(self, uri: str) -> bytes:
        """Read an object in a thread, which may continue after the time for it is over."""
        loop, result = asyncio.get_running_loop(), Future[bytes]()
        # Held to the end of the thread: a store that does not answer holds a bounded number.
        await self._readers.acquire()

        def read() -> None:
            try:
                content = self._objects.read(uri)
            except BaseException as error:  # noqa: BLE001  # it is raised where the result is
                outcome = partial(result.set_exception, error)
            else:
                outcome = partial(result.set_result, content)
            with suppress(InvalidStateError):  # nobody waits any more
                outcome()
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._readers.release)

        # Not of a pool: the interpreter would wait for its threads at the end, for minutes if a
        # store does not answer.
        threading.Thread(target=read, name="registry-object", daemon=True).start()
        return await asyncio.wrap_future(result)


class RequestFetcher:
    """Fetches for one request, such as a webhook: each URI once, within one time for all of them.

    The contents are kept until the request ends.
    """

    def __init__(self, fetcher: Fetcher, seconds: float) -> None:
        self._fetcher = fetcher
        self._deadline = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._started: dict[str, Future[bytes]] = {}

    def fetch(self, uri: str) -> bytes:
        """Return the content of a URI; raises `ValueError` with the reason."""
        with self._lock:
            if uri not in self._started:
                self._started[uri] = self._start(uri)
        return self._started[uri].result()

    def upload(self, path: str) -> str | None:
        """Return what the fetcher returns."""
        return self._fetcher.upload(path)

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results of ``work``, in order, as the fetcher does."""
        known = [*items]
        # Most requests have one item. Its work must not wait for the workers of others.
        return map(work, known) if len(known) == 1 else self._fetcher.map(work, known)

    def within(self, seconds: float) -> Fetches:
        """Return a fetcher for another request."""
        return self._fetcher.within(seconds)

    def close(self) -> None:
        """Do nothing: the fetcher is used by other requests."""

    def _start(self, uri: str) -> Future[bytes]:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise ValueError(
                f"{excerpt(safe(uri))} was not fetched: the time for the request was over; "
                "registry inbox retry fetches it"
            )
        return self._fetcher.start(uri, left)
