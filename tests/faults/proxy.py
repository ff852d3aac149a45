"""A proxy between client and PostgreSQL that cuts a connection at a chosen byte."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import URL

Direction = Literal["to server", "to client"]


@dataclass
class Cut:
    """Where to cut: after so many bytes in one direction from now on, once."""

    direction: Direction
    after: int


class Proxy:
    """Forwards connections; `arm` has the next bytes counted and the connection cut."""

    def __init__(self, server: URL) -> None:
        self._server = server
        self._cut: Cut | None = None
        self.forwarded: dict[Direction, int] = {"to server": 0, "to client": 0}
        self.cuts = 0
        self.port = 0

    def arm(self, direction: Direction, after: int) -> None:
        self._cut = Cut(direction, after)

    def disarm(self) -> None:
        self._cut = None

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        listener = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = listener.sockets[0].getsockname()[1]
        ready.set()
        async with listener:
            await stop.wait()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._server.query.get("host") or self._server.host, self._server.port or 5432
        if isinstance(host, str) and host.startswith("/"):
            far = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            far = await asyncio.open_connection(str(host), port)
        pumps = [
            asyncio.ensure_future(self._pump(reader, far[1], "to server")),
            asyncio.ensure_future(self._pump(far[0], writer, "to client")),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass  # the proxy is closing
        finally:
            for pump in pumps:
                pump.cancel()
            for end in (far[1], writer):
                end.transport.abort()
                with suppress(ConnectionError):
                    await end.wait_closed()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                cut = self._cut
                if cut is not None and cut.direction == direction:
                    if len(data) > cut.after:
                        self._cut = None
                        self.cuts += 1
                        writer.write(data[: cut.after])
                        await writer.drain()
                        return
                    cut.after -= len(data)
                self.forwarded[direction] += len(data)
                writer.write(data)
                await writer.drain()


@contextmanager
def proxied(server: URL) -> Iterator[tuple[Proxy, URL]]:
    """Lend a running proxy and the URL that leads through it."""
    proxy = Proxy(server)
    ready = threading.Event()
    stop = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await proxy.serve(ready, stop)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    query = {name: value for name, value in server.query.items() if name != "host"}
    try:
        yield proxy, server.set(host="127.0.0.1", port=proxy.port, query=query)
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join()
