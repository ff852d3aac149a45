"""Subject: the pages of `registry serve`, 50 requests a second, while four writers insert.

Run as a module with an address and a number of seconds, it is the visitors; with the URL of a
database, it is a writer. Both are separate processes. Requests are sent at fixed times whether or
not earlier ones were answered, and are timed from then on. `wrk` has no such rate: it would wait
for slow answers, and so leave out what others wait meanwhile.
"""

from __future__ import annotations

import itertools
import os
import selectors
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles
from typing import Self

import numpy as np
import numpy.typing as npt

import registry
from benchmarks.cache import cache
from benchmarks.measure import Bench, Result
from benchmarks.processes import started
from benchmarks.server import Database
from registry import ClassLabel, Dataset, Tensor
from registry.samples.features import Feature

RATE = 50
"""Requests in a second, of all pages in turn."""
WRITERS = 4
SECONDS = 8.0
"""Seconds of a round."""
ROWS = 50_000
"""Rows that the dataset has before."""
PAGES = (
    "/",
    "/datasets/digits",
    "/datasets/digits/samples",
    "/datasets/digits/samples/scan-7",
    "/datasets/digits/images/7/image",
    "/datasets/digits/samples?class.label=3&split=test",
    "/datasets/digits/samples?source=tool-1",
    "/datasets/digits/samples?key=scan-1",
    "/datasets/digits/runs",
    "/datasets/digits/runs/cnn-1",
    "/datasets/digits/runs/cnn-1?since=0&until=1",
    "/datasets/digits@gold",
    "/datasets/digits/rejected",
)


def pages(bench: Bench) -> list[Result]:
    """Insert rows one at a time, in rounds with and without visitors."""
    with ExitStack() as stack:
        stack.enter_context(cache())
        database = stack.enter_context(bench.server.database())
        _fill(database)
        serving = ["registry", "serve", "--insecure", "--port", "0", "--url", database.url]
        server, line = stack.enter_context(started(*serving))
        writers = [
            stack.enter_context(started(__name__, "write", database.url, f"tool-{number}"))[0]
            for number in range(WRITERS)
        ]
        at = line.split()[1]
        database.settle()
        waits: list[float] = []
        cpu: list[float] = []
        rates: dict[bool, list[float]] = {False: [], True: []}
        for turn in range(1 + bench.rounds):
            # Each is the first one in every other round: a log that grows slows both.
            for visited in (turn % 2 == 0, turn % 2 == 1):
                before = _cpu_seconds(server.pid)
                inserted, waited = _round(writers, at if visited else None)
                if turn:
                    rates[visited].append(inserted / SECONDS)
                    waits += waited
                    cpu += [(_cpu_seconds(server.pid) - before) / SECONDS] if visited else []
    ratios = tuple(w / without for w, without in zip(rates[True], rates[False], strict=True))
    what = f"pages, {RATE} requests/s while {WRITERS} writers insert"
    cuts = quantiles(waits, n=100)
    return [
        Result(f"{what}, median", "ms", 1000 * cuts[49]),
        Result(f"{what}, 99th percentile", "ms", 1000 * cuts[98], at_most=200),
        Result(f"{what}, CPU of the server", "% of a core", 100 * median(cpu)),
        Result(
            f"{WRITERS} writers, with and without {RATE} requests/s of pages",
            "rows/s",
            median(rates[True]),
            median(rates[False]),
            at_least=0.95,
            ratios=ratios,
        ),
    ]


def _fill(database: Database) -> None:
    numbers = np.random.default_rng(0)
    with registry.connect(database.url) as reg:
        features: dict[str, Feature] = {"image": Tensor("uint8", (8, 8)), "label": ClassLabel(10)}
        digits = reg.create("digits", features, splits={"train": 0.8, "test": 0.2})
        run = digits.run("cnn-1", seed=7, split="train")
        for epoch, start in enumerate(range(0, ROWS, ROWS // 5)):
            keys = [f"scan-{number}" for number in range(start, start + ROWS // 5)]
            images = numbers.integers(0, 17, (len(keys), 8, 8), np.uint8)
            labels = images.sum((1, 2)) % 10
            digits.insert({"image": images, "label": labels}, keys=keys, source=f"tool-{epoch}")
            run.epoch(epoch)
        digits.tag("gold")


def _round(writers: list[subprocess.Popen[str]], at: str | None) -> tuple[int, list[float]]:
    """Return the rows that were inserted, and the seconds that each request took."""
    with ExitStack() as stack:
        visitors = None
        if at is not None:
            visitors, _ = stack.enter_context(started(__name__, "visit", at))
        for each in [*writers, *([visitors] if visitors else [])]:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        inserted = 0
        for writer in writers:
            assert writer.stdout is not None
            inserted += int(writer.stdout.readline())
        waits = visitors.communicate(timeout=120)[0].split() if visitors else []
    return inserted, [float(each) for each in waits]


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def write(url: str, source: str) -> None:
    """Insert rows for some seconds whenever a line is read, and print how many."""
    images = np.random.default_rng(0).integers(0, 17, (100, 8, 8), np.uint8)
    serial = itertools.count()
    with registry.connect(url) as reg:
        digits = reg.open("digits")
        _insert(digits, images, source, serial, 0.2)
        print("ready", flush=True)
        for _ in sys.stdin:
            print(_insert(digits, images, source, serial, SECONDS), flush=True)


def _insert(
    digits: Dataset,
    images: npt.NDArray[np.uint8],
    source: str,
    serial: itertools.count[int],
    seconds: float,
) -> int:
    end, first = time.perf_counter() + seconds, next(serial)
    for number in serial:
        sample = {"image": images[number % 100], "label": number % 10}
        digits.insert([sample], keys=[f"{source}-{number}"], source=source)
        if time.perf_counter() > end:
            return number - first
    raise AssertionError


def visit(at: str) -> None:
    """Request pages for some seconds when a line is read, and print what each request took."""
    host, port = at.removeprefix("http://").split(":")
    address = host, int(port)
    requests = [f"GET {page} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode() for page in PAGES]
    waits: list[float] = []
    with Visitors(address) as visitors:
        print("ready", flush=True)
        sys.stdin.readline()
        began = time.perf_counter()
        for number in range(int(RATE * SECONDS)):
            due = began + number / RATE
            while (left := due - time.perf_counter()) > 0:
                waits += visitors.read(left)
            visitors.send(requests[number % len(PAGES)], due)
        while visitors.waiting:
            waits += visitors.read(60)
    for wait in waits:
        print(wait)


class Visitors:
    """Connections, each with one request at a time, in one thread.

    With no more of Python than this takes: what the visitors take is missing to the writers, and
    asyncio takes several times as much as the server's own work for a page that is kept.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._poll = selectors.DefaultSelector()
        self._idle: list[socket.socket] = []
        self.waiting: dict[socket.socket, tuple[float, bytearray]] = {}
        """When the request of each was due, and what was read of the answer."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in [*self._idle, *self.waiting]:
            each.close()
        self._poll.close()

    def send(self, request: bytes, due: float) -> None:
        """Send a request on a connection that has no other."""
        if self._idle:
            connection = self._idle.pop()
        else:
            connection = socket.create_connection(self._address)
            self._poll.register(connection, selectors.EVENT_READ, connection)
        connection.sendall(request)
        self.waiting[connection] = due, bytearray()

    def read(self, seconds: float) -> list[float]:
        """Read what arrives first; return the seconds that each complete answer took."""
        return [wait for key, _ in self._poll.select(seconds) for wait in self._read(key.data)]

    def _read(self, connection: socket.socket) -> list[float]:
        part = connection.recv(1 << 18)
        if connection not in self.waiting:
            # The server closes connections that are not used for some seconds.
            self._poll.unregister(connection)
            self._idle.remove(connection)
            connection.close()
            return []
        due, answer = self.waiting[connection]
        answer += part
        head, _, body = answer.partition(b"\r\n\r\n")
        if not part or not head.startswith(b"HTTP/1.1 200"):
            raise AssertionError(head.decode())
        if len(body) < int(head.split(b"content-length: ")[1].split(b"\r\n")[0]):
            return []
        del self.waiting[connection]
        self._idle.append(connection)
        return [time.perf_counter() - due]


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(*sys.argv[2:])
    else:
        visit(*sys.argv[2:])
