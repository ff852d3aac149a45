"""Limits on open connections, and on the size and duration of a request's head.

How it works: uvicorn calls a `ClientConnection` instead of its protocol. The connection feeds
all bytes to a second httptools parser, which finds where heads begin and end, and then passes them
to uvicorn's protocol. A head over the limits is rejected before uvicorn has all of it in memory.
`OpenConnections` counts the connections and closes those that have waited too long.

uvicorn has none of these limits. Its protocol is wrapped through the methods of `asyncio.Protocol`
only. Everything here runs on the event loop, in one thread.
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
from registry.server.settings import ServerSettings

HEALTH_CONNECTIONS: Final = 16
"""Connections above the limit that are accepted nevertheless, for health checks."""
_RESERVED_FILES = 256
"""File descriptors reserved for the database and for connections that are closed at once."""
_PIECE_BYTES = 1 << 14
"""Bytes that are parsed at a time. The size of a head is measured with this precision."""
_SWEEP_SECONDS = 1.0
"""Seconds between two searches for connections that have waited too long."""
STATE_KEY: Final = "connection"
"""Key of the `ClientConnection` in the ``state`` of a request's ASGI scope."""
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


def most_connections(wanted: int) -> int:
    """Return ``wanted``, or fewer if the process may not open so many files."""
    if sys.platform == "win32":
        return wanted
    import resource  # noqa: PLC0415  # the module does not exist on Windows

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, files - min(_RESERVED_FILES, files // 2))


class OpenConnections:
    """All open connections of one event loop; not thread-safe.

    A connection waits for its client until a head is complete, between requests, and while the
    client does not read an answer. If there is no room for a new connection, the connection that
    has waited longest is closed.
    """

    def __init__(self, settings: ServerSettings, metrics: Metrics) -> None:
        self.settings = settings
        self.limit: int = most_connections(settings.connections)
        self._proxies = [ipaddress.ip_network(proxy) for proxy in settings.forwarded_allow_ips]
        self._open: set[ClientConnection] = set()
        self._by_address: Counter[str] = Counter()
        # Deadlines, in the order in which the waits began.
        self._deadlines: dict[ClientConnection, float] = {}
        self._is_sweeping = False
        self._open_gauge = metrics.connections
        self._closed_counter = metrics.connections_closed

    def add(self, connection: ClientConnection) -> bool:
        """Count a new connection; returns False if there is no room for it."""
        if not self._has_room(connection.address):
            self._closed_counter.labels("refused").inc()
            return False
        self._open.add(connection)
        self._by_address[connection.address] += 1
        self._open_gauge.inc()
        self.set_deadline(connection, self.settings.header_timeout)
        return True

    def remove(self, connection: ClientConnection) -> None:
        """Remove a connection from the count. Does nothing if it was removed before."""
        if connection not in self._open:
            return
        self._open.remove(connection)
        self._deadlines.pop(connection, None)
        self._by_address[connection.address] -= 1
        if not self._by_address[connection.address]:
            # A Counter keeps zeros: without this it would grow by each address that ever connected.
            del self._by_address[connection.address]
        self._open_gauge.dec()

    def set_deadline(self, connection: ClientConnection, seconds: float) -> None:
        """Close the connection after ``seconds``, or earlier if another needs its room."""
        if connection not in self._open:
            return
        # Assigning to a present key would keep its old place in the order.
        self._deadlines.pop(connection, None)
        self._deadlines[connection] = time.monotonic() + seconds
        if not self._is_sweeping:
            self._is_sweeping = True
            asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)

    def clear_deadline(self, connection: ClientConnection) -> None:
        """Remove the deadline of a connection: the server, not the client, has to act next."""
        self._deadlines.pop(connection, None)

    def close(self, connection: ClientConnection, reason: str) -> None:
        self._closed_counter.labels(reason).inc()
        self.remove(connection)
        connection.abort()

    def _has_room(self, address: str) -> bool:
        # A proxy opens the connections of many clients, so the limit per address is not for it.
        full = self._by_address[address] >= self.settings.connections_per_address
        if full and not self._is_proxy(address):
            return self._make_room(address)
        count = len(self._open)
        if count < self.limit or self._make_room(None):
            return True
        # Every connection is being answered. Some more are accepted: a health check that was
        # rejected would make the operator's tools restart a server that only has much to do.
        return count < self.limit + HEALTH_CONNECTIONS

    def _is_proxy(self, address: str) -> bool:
        ip = ipaddress.ip_network(address).network_address
        return any(ip in network for network in self._proxies)

    def _make_room(self, address: str | None) -> bool:
        """Close the connection that has waited longest, of this address or of all."""
        for waiting in self._deadlines:
            if address in (None, waiting.address):
                # This changes the dictionary: the loop must end here.
                self.close(waiting, "crowded out")
                return True
        return False

    def _sweep(self) -> None:
        now = time.monotonic()
        # A list, since close() removes entries from the dictionary.
        expired = [
            connection for connection, deadline in self._deadlines.items() if deadline <= now
        ]
        for connection in expired:
            self.close(connection, "timeout")
        self._is_sweeping = bool(self._deadlines)
        if self._is_sweeping:
            asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)


class ClientConnection(asyncio.Protocol):
    """One connection: passes events to uvicorn's protocol while they are within the limits."""

    def __init__(self, connections: OpenConnections, inner: HttpToolsProtocol) -> None:
        self.address: str = ""
        """The client's network: its IPv4 address, or the /64 network of its IPv6 address."""
        self._connections = connections
        self._settings = connections.settings
        self._inner = inner
        self._transport: asyncio.Transport
        self._is_counted = False
        self._is_paused = False
        self._requests = 0
        """Requests with a complete head and no complete answer."""
        self._parser = httptools.HttpRequestParser(self)
        # The same setting as in uvicorn. Otherwise the two parsers would disagree about bytes after
        # a request with "Connection: close", and a head could pass unmeasured.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._in_head = False
        self._head_bytes = 0
        self._head_fields = 0
        self._too_many_fields = False

    def connection_made(  # type: ignore[override]  # uvloop's transport does not subclass asyncio's
        self, transport: asyncio.Transport
    ) -> None:
        self._transport = transport
        self.address = _network(transport)
        self._is_counted = self._connections.add(self)
        if self._is_counted:
            self._inner.connection_made(transport)
        else:
            transport.abort()  # uvicorn never learns of this connection

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_counted:
            self._connections.remove(self)
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        unanswered = self._requests  # before _fits(), which counts the requests in these bytes, too
        if self._fits(data):
            self._inner.data_received(data)
        elif unanswered:
            # A 431 would arrive in the middle of another answer.
            self._connections.close(self, "head")
        else:
            self._transport.write(_TOO_LARGE)
            self._transport.close()

    def eof_received(self) -> None:
        self._inner.eof_received()

    def pause_writing(self) -> None:
        # A client that does not read its answer would otherwise hold the connection permanently.
        self._connections.set_deadline(self, self._settings.idle_timeout)
        self._is_paused = True
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._is_paused = False
        self._update_deadline()
        self._inner.resume_writing()

    def abort(self) -> None:
        self._transport.abort()

    def answered(self) -> None:
        """Count an answer; after the last one, the connection waits for the next request."""
        self._requests -= 1
        self._update_deadline()

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes, self._head_fields = True, 0, 0

    def on_header(self, _name: bytes, _value: bytes) -> None:
        self._head_fields += 1
        # Or-ed: another head in the same piece, with few fields, must not clear it.
        self._too_many_fields |= self._head_fields > self._settings.header_count

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._requests += 1
        self._update_deadline()

    def _update_deadline(self) -> None:
        if self._is_paused:
            return  # the deadline for reading the answer stays in force
        if self._requests:
            self._connections.clear_deadline(self)
        else:
            self._connections.set_deadline(self, self._settings.header_timeout)

    def _fits(self, data: bytes) -> bool:
        """Parse the bytes; returns False if a head in them is over the limits."""
        # In pieces: one read can hold the end of a head and megabytes of body, and only the bytes
        # of the head may count.
        for start in range(0, len(data), _PIECE_BYTES):
            piece = data[start : start + _PIECE_BYTES]
            try:
                self._parser.feed_data(piece)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade):
                return True  # uvicorn's parser fails at the same byte, and uvicorn answers
            if self._in_head:
                self._head_bytes += len(piece)
            if self._too_many_fields or self._head_bytes >= self._settings.header_bytes:
                return False
        return True


def limited(connections: OpenConnections) -> type[asyncio.Protocol]:
    """Return a protocol class for uvicorn's ``http`` option."""

    class Limited(ClientConnection):
        def __init__(
            self,
            config: Config,
            server_state: ServerState,
            app_state: dict[str, Any],
            _loop: asyncio.AbstractEventLoop | None = None,
        ) -> None:
            # A copy per connection: uvicorn passes the same dictionary to all of them.
            state = {**app_state, STATE_KEY: self}
            super().__init__(connections, HttpToolsProtocol(config, server_state, state, _loop))

    return Limited


def _network(transport: asyncio.Transport) -> str:
    """Return the network for which the client's connections are counted."""
    peer = transport.get_extra_info("peername")
    if not peer:  # the client has disconnected already
        return "0.0.0.0"  # noqa: S104  # nothing listens there
    # A link-local address ends in its zone, as in fe80::1%eth0.
    ip = ipaddress.ip_address(peer[0].partition("%")[0])
    if ip.version == 4:
        return str(ip)
    return str(ipaddress.ip_network((ip, 64), strict=False))
