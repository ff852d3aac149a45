"""An HTTP server of images on loopback, which also answers as broken and hostile servers do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["MediaServer", BaseHTTPRequestHandler], None]


@dataclass
class MediaServer:
    """A running server: ``answers`` has what it does for each path, other paths do not exist.

    ``requests`` has the path and the Authorization header of each request.
    """

    port: int
    answers: dict[str, Answer | bytes]
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    """Set at the end of the test: answers that never end wait for it."""

    @property
    def at(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]


@contextmanager
def media_server(answers: dict[str, Answer | bytes] | None = None) -> Iterator[MediaServer]:
    """Run a server, with the content or the answer of each path."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            running.requests.append((self.path, self.headers["authorization"]))
            # Clients leave in the middle of many of these answers.
            with suppress(OSError):
                given = running.answers.get(self.path.partition("?")[0], status(404))
                (content(given) if isinstance(given, bytes) else given)(running, self)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    running = MediaServer(server.server_port, answers or {})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield running
    finally:
        running.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


def status(code: int, body: bytes = b"", **headers: str) -> Answer:
    """Answer with a status; ``_`` in the names of headers stands for ``-``."""

    def answer(_: MediaServer, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code, "s3cret words of the server")
        for name, value in ({"content_length": str(len(body))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def content(body: bytes) -> Answer:
    return status(200, body)


def redirect(location: str, code: int = 302) -> Answer:
    return status(code, location=location)


def silent(server: MediaServer, _: BaseHTTPRequestHandler) -> None:
    """Send nothing."""
    server.ended.wait()


def dripping_head(server: MediaServer, handler: BaseHTTPRequestHandler) -> None:
    """Send a head that never ends, a byte at a time."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
    while not server.ended.wait(0.01):
        handler.wfile.write(b"x")


def dripping_body(server: MediaServer, handler: BaseHTTPRequestHandler) -> None:
    """Send a body of 1,000 bytes, a byte at a time."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while not server.ended.wait(0.01):
        handler.wfile.write(b"x")


def endless(server: MediaServer, handler: BaseHTTPRequestHandler) -> None:
    """Send chunks without an end and without their length before them."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while not server.ended.is_set():
        handler.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")


def cut_off(_: MediaServer, handler: BaseHTTPRequestHandler) -> None:
    """Send less than was said, and close the connection."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nxxx")
    handler.close_connection = True


def failing(times: int, body: bytes, code: int = 503) -> Answer:
    """Fail some times, and then send the content."""
    left = [times]

    def answer(server: MediaServer, handler: BaseHTTPRequestHandler) -> None:
        left[0] -= 1
        (status(code) if left[0] >= 0 else content(body))(server, handler)

    return answer
