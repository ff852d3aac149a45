"""Open connections: how many there may be, and how long and how large a request's head may be.

uvicorn bounds none of these. Its protocol is wrapped here, through the methods of
`asyncio.Protocol` alone. A second parser, of the kind that uvicorn uses, finds where heads begin
and end; it sees all bytes first, so that uvicorn never holds a head that is over the limits.
"""

from __future__ import annotations

import asyncio
import ipaddress
import sys
import time
from collections import Counter
from typing import Any, Final

import httptools
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from registry.server.metrics import Metrics
from registry.server.settings import Settings

HEALTH: Final = 16
"""Connections above the limit, which are let in to ask for the server's health."""
_FILES = 256
"""Files that are kept for the database and for connections that are accepted and closed at once."""
_PIECE = 1 << 14
"""Bytes that are parsed at a time: a head is measured this exactly."""
_SWEEP = 1.0
"""Seconds between two looks for connections that have waited too long."""
STATE: Final = "connection"
"""The name of a request's connection in its state."""
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


def most_connections(wanted: int) -> int:
    """Return how many of the wanted connections the process's limit on open files allows."""
    if sys.platform == "win32":
        return wanted
    import resource  # noqa: PLC0415  # there is none on Windows

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, files - min(_FILES, files // 2))


class Connections:
    """All open connections of one event loop.

    A connection waits for its client until a head is complete, between requests, and while an
    answer is not read. Where there is no room for a new connection, the one that has waited
    longest is closed for it.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.limit = most_connections(settings.connections)
        self._proxies = [ipaddress.ip_network(each) for each in settings.forwarded_allow_ips]
        self._open: set[Connection] = set()
        self._by_address: Counter[str] = Counter()
        self._waiting: dict[Connection, float] = {}
        self._sweeping = False
        self._gauge = metrics.connections
        self._closed = metrics.connections_closed

    def enter(self, connection: Connection) -> bool:
        """Count a new connection; False where there is no room for it."""
        if not self._has_room(connection.address):
            self._closed.labels("refused").inc()
            return False
        self._open.add(connection)
        self._by_address[connection.address] += 1
        self._gauge.inc()
        self.wait(connection, self.settings.header_timeout)
        return True

    def leave(self, connection: Connection) -> None:
        """Forget a connection, if it was not yet."""
        if connection not in self._open:
            return
        self._open.remove(connection)
        self._waiting.pop(connection, None)
        self._by_address[connection.address] -= 1
        if not self._by_address[connection.address]:
            del self._by_address[connection.address]
        self._gauge.dec()

    def wait(self, connection: Connection, seconds: float) -> None:
        """Close the connection in so many seconds, or sooner where another needs its room."""
        if connection not in self._open:
            return
        self._waiting.pop(connection, None)
        self._waiting[connection] = time.monotonic() + seconds
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(_SWEEP, self._sweep)

    def work(self, connection: Connection) -> None:
        """Leave the connection open: its client waits for the server."""
        self._waiting.pop(connection, None)

    def close(self, connection: Connection, reason: str) -> None:
        self._closed.labels(reason).inc()
        self.leave(connection)
        connection.abort()

    def _has_room(self, address: str) -> bool:
        full = self._by_address[address] >= self.settings.connections_per_address
        if full and not self._is_proxy(address):
            return self._make_room(address)
        count = len(self._open)
        return count < self.limit or self._make_room(None) or count < self.limit + HEALTH

    def _is_proxy(self, address: str) -> bool:
        ip = ipaddress.ip_network(address).network_address
        return any(ip in network for network in self._proxies)

    def _make_room(self, address: str | None) -> bool:
        """Close what has waited longest, of this address or of all."""
        for waiting in self._waiting:
            if address in (None, waiting.address):
                self.close(waiting, "crowded out")
                return True
        return False

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in [each for each, until in self._waiting.items() if until <= now]:
            self.close(connection, "timeout")
        self._sweeping = bool(self._waiting)
        if self._sweeping:
            asyncio.get_running_loop().call_later(_SWEEP, self._sweep)


class Connection(asyncio.Protocol):
    """One connection: uvicorn's protocol within these limits."""

    def __init__(self, connections: Connections, inner: HttpToolsProtocol) -> None:
        self.address = ""
        """The client's network: its address, or of IPv6 the 64 bits that one client has."""
        self._connections = connections
        self._settings = connections.settings
        self._inner = inner
        self._transport: asyncio.Transport
        self._entered = False
        self._paused = False
        self._requests = 0
        """Requests whose heads are complete, and which are not answered."""
        self._parser = httptools.HttpRequestParser(self)
        # As uvicorn's: otherwise the two would not agree on what follows a last request.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._in_head = False
        self._bytes = 0
        self._count = 0
        self._too_many = False

    def connection_made(  # type: ignore[override]  # uvloop's is none of asyncio's classes
        self, transport: asyncio.Transport
    ) -> None:
        self._transport = transport
        self.address = _network(transport)
        self._entered = self._connections.enter(self)
        if self._entered:
            self._inner.connection_made(transport)
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._entered:
            self._connections.leave(self)
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        owed = self._requests
        if self._fits(data):
            self._inner.data_received(data)
        elif owed:
            self._connections.close(self, "head")  # another answer would come in between
        else:
            self._transport.write(_TOO_LARGE)
            self._transport.close()

    def eof_received(self) -> None:
        self._inner.eof_received()

    def pause_writing(self) -> None:
        # A client that does not read its answer holds the connection as one that sends nothing.
        self._connections.wait(self, self._settings.idle)
        self._paused = True
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._paused = False
        self._wait_or_work()
        self._inner.resume_writing()

    def abort(self) -> None:
        self._transport.abort()

    def answered(self) -> None:
        """Wait for the next request where this was the last answer that is owed."""
        self._requests -= 1
        self._wait_or_work()

    def on_message_begin(self) -> None:
        self._in_head, self._bytes, self._count = True, 0, 0

    def on_header(self, _name: bytes, _value: bytes) -> None:
        self._count += 1
        self._too_many |= self._count > self._settings.header_count

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._requests += 1
        self._wait_or_work()

    def _wait_or_work(self) -> None:
        if self._paused:
            return
        if self._requests:
            self._connections.work(self)
        else:
            self._connections.wait(self, self._settings.header_timeout)

    def _fits(self, data: bytes) -> bool:
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            try:
                self._parser.feed_data(piece)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade):
                return True  # uvicorn's parser ends here, too, and uvicorn answers
            if self._in_head:
                self._bytes += len(piece)
            if self._too_many or self._bytes >= self._settings.header_bytes:
                return False
        return True


def limited(connections: Connections) -> type[asyncio.Protocol]:
    """Return the protocol that uvicorn is to speak."""

    class Limited(Connection):
        def __init__(
            self,
            config: Config,
            server_state: ServerState,
            app_state: dict[str, Any],
            _loop: asyncio.AbstractEventLoop | None = None,
        ) -> None:
            state = {**app_state, STATE: self}
            super().__init__(connections, HttpToolsProtocol(config, server_state, state, _loop))

    return Limited


def _network(transport: asyncio.Transport) -> str:
    """Return the network that the client is counted in."""
    peer = transport.get_extra_info("peername")
    if not peer:  # it has gone already
        return "0.0.0.0"  # noqa: S104  # nothing listens there
    ip = ipaddress.ip_address(peer[0].partition("%")[0])
    if ip.version == 4:
        return str(ip)
    return str(ipaddress.ip_network((ip, 64), strict=False))
