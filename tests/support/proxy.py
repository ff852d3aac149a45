"""A proxy between client and PostgreSQL that cuts, delays or swallows what goes through it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import URL

Direction = Literal["to server", "to client"]
DIRECTIONS: tuple[Direction, ...] = ("to server", "to client")


@dataclass
class Fault:
    """What to do after ``after`` bytes in one direction, once.

    Either the connection is cut, or it becomes ``silent``: it stays open, and what is sent on it is
    read and dropped.
    """

    direction: Direction
    after: int
    silent: bool


@dataclass
class Link:
    """A connection; ``silent`` once something of it was dropped."""

    silent: bool = False


class Proxy:
    """Forwards connections to a server; `arm` sets the next fault.

    While ``black_hole`` is true, everything is read and nothing forwarded, also of new connections.
    ``delay`` is the time in seconds by which everything is delayed.
    """

    def __init__(self, server: URL) -> None:
        self._server = server
        self._fault: Fault | None = None
        self.black_hole = False
        self.delay = 0.0
        self.forwarded: dict[Direction, int] = dict.fromkeys(DIRECTIONS, 0)
        self.cuts = 0
        self.port = 0

    def arm(self, direction: Direction, after: int, *, silent: bool = False) -> None:
        self._fault = Fault(direction, after, silent)

    def disarm(self) -> None:
        self._fault = None

    async def serve(self, host: str, ready: threading.Event, stop: asyncio.Event) -> None:
        listener = await asyncio.start_server(self._connect, host, 0)
        self.port = listener.sockets[0].getsockname()[1]
        ready.set()
        async with listener:
            await stop.wait()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link, ends = Link(), [writer]
        pumps: list[asyncio.Future[None]] = []
        try:
            server_side = await self._reach()
            ends.append(server_side[1])
            pumps = [
                asyncio.ensure_future(self._pump(link, reader, server_side[1], "to server")),
                asyncio.ensure_future(self._pump(link, server_side[0], writer, "to client")),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass  # the proxy is closing
        finally:
            for pump in pumps:
                pump.cancel()
            for end in ends:
                end.transport.abort()
            for end in ends:
                with suppress(ConnectionError):
                    await end.wait_closed()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self._server.query.get("host") or self._server.host, self._server.port or 5432
        if isinstance(host, str) and host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(str(host), port)

    async def _pump(
        self,
        link: Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: Direction,
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if self.delay:
                    await asyncio.sleep(self.delay)
                link.silent |= self.black_hole
                fault = self._fault
                if fault is not None and fault.direction == direction and not link.silent:
                    if len(data) > fault.after:
                        self._fault = None
                        self.cuts += 1
                        data = data[: fault.after]
                        writer.write(data)
                        await writer.drain()
                        if not fault.silent:
                            return
                        link.silent = True
                    fault.after -= len(data)
                if not link.silent:
                    self.forwarded[direction] += len(data)
                    writer.write(data)
                    await writer.drain()


@contextmanager
def proxied(server: URL, host: str = "127.0.0.1") -> Iterator[tuple[Proxy, URL]]:
    """Run a proxy; return it and the URL that leads through it."""
    proxy = Proxy(server)
    ready = threading.Event()
    stop = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await proxy.serve(host, ready, stop)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    query = {name: value for name, value in server.query.items() if name != "host"}
    try:
        yield proxy, server.set(host=host, port=proxy.port, query=query)
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join()
