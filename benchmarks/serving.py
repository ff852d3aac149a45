"""Subject: many clients that post single samples, committed together or one by one.

Run as a module, it is the clients: a separate process, so that they do not wait for the server's
threads. They use no HTTP library, which would cost more than the server itself.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median, quantiles

import registry
from benchmarks.data import NUMBERS, numbers
from benchmarks.measure import Bench, Contender, Result, Work, compare, interleave
from benchmarks.processes import started
from registry.server import tokens

CLIENTS = 32
TOGETHER = 6400
ALONE = 1600
"""Requests in a round."""
_NAME = "samples"


def serve(bench: Bench) -> list[Result]:
    """Run the server with its default settings, and with one that commits requests one by one."""
    together, alone = _Side(bench, TOGETHER, 512), _Side(bench, ALONE, 1)
    timings = interleave({"together": together.contender, "alone": alone.contender}, bench.rounds)
    what = f"{CLIENTS} clients posting single samples"
    worst = 1000 * median(together.p99[1:])
    return [
        compare(
            f"{what}, next to a commit for each",
            timings["together"],
            timings["alone"],
            at_least=3,
            other_rows=True,
        ),
        Result(f"{what}, 99th percentile", "ms", worst, at_most=1000),
    ]


@dataclass
class _Side:
    """A server with one setting; ``p99`` has the seconds of each round."""

    bench: Bench
    requests: int
    gather: int
    p99: list[float] = field(default_factory=list)

    @property
    def contender(self) -> Contender:
        return self._served

    @contextmanager
    def _served(self) -> Iterator[Work]:
        with self.bench.server.database() as database, registry.connect(database.url) as reg:
            dataset = reg.create(_NAME, NUMBERS)
            token = tokens.create(reg.engine, "clients", lifetime=timedelta(hours=1))
            options = ["--port", "0", "--gather", str(self.gather), "--rate", "1000000"]
            with (
                started("registry", "serve", "--url", database.url, *options) as (_, serving),
                started(__name__, serving.rpartition(":")[2], token, str(self.requests)) as (
                    clients,
                    _,
                ),
            ):
                database.settle()
                yield lambda: self._post(clients)
            if len(dataset) != self.requests:
                raise AssertionError(f"{len(dataset)} samples instead of {self.requests}")

    def _post(self, clients: subprocess.Popen[str]) -> int:
        seconds = [float(line) for line in clients.communicate("go\n")[0].split()]
        self.p99.append(quantiles(seconds, n=100)[98])
        return len(seconds)


async def post(port: int, token: str, count: int) -> list[float]:
    """Post ``count`` samples; return the seconds for each answer.

    Each client posts its next sample when it has an answer. They begin when a line is read.
    """
    samples = numbers(count)
    bodies = [
        json.dumps({"key": key, "fields": {"x": x, "label": label}}).encode()
        for key, x, label in zip(
            samples.keys,
            samples.columns["x"].tolist(),
            samples.columns["label"].tolist(),
            strict=True,
        )
    ]
    requests = iter([_request(token, body) for body in bodies])
    waits: list[float] = []
    print("ready", flush=True)
    sys.stdin.readline()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in requests:
            began = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise AssertionError(head.decode())
            length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
            await reader.readexactly(int(length))
            waits.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return waits


def _request(token: str, body: bytes) -> bytes:
    head = (
        f"POST /v1/datasets/{_NAME}/samples HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


if __name__ == "__main__":
    for wait in asyncio.run(post(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))):
        print(wait)
