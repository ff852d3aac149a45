"""HTTP servers: in a thread of this process, or in another process that can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from registry import Registry
from registry.server import tokens
from registry.server.serve import listen, make_server
from registry.server.settings import ServerSettings
from tests.support.datasets import digit

POST = "/v1/datasets/digits/samples"
JSON = {"content-type": "application/json"}
NDJSON = {"content-type": "application/x-ndjson"}
SECRETS = {"digits": {"cvat": ("mykey",), "argilla": ("c2VjcmV0IG9mIGFyZ2lsbGE=",)}}


def item(number: int, **more: object) -> dict[str, object]:
    """Return a sample of `digits`, as a request has it."""
    return {"key": f"k{number}", "fields": digit(number), **more}


def problem(answer: httpx.Response, status: int, **members: object) -> str:
    """Check that an answer is a problem with these members, and return its detail."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert {name: body.get(name) for name in members} == members
    detail: str = body["detail"]
    return detail


@contextmanager
def serving(reg: Registry, settings: ServerSettings | None = None) -> Iterator[str]:
    """Run a server on a registry, and yield its address."""
    running = make_server(reg, settings or ServerSettings(secrets=SECRETS))
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            running.should_exit = True
            thread.join()


@contextmanager
def client(
    reg: Registry, settings: ServerSettings | None = None, **token: Any
) -> Iterator[httpx.Client]:
    """Run a server and return a client for it that has a token."""
    secret = tokens.create(reg.engine, "client", **token)
    headers = {"authorization": f"Bearer {secret}"}
    with (
        serving(reg, settings) as at,
        # Without TLS: to load the certificates of authorities takes longer than a request.
        httpx.Client(base_url=at, headers=headers, verify=False) as client,
    ):
        yield client


@dataclass
class Served:
    """A server in a separate process, started again at the same port after it was killed."""

    url: str
    log: Path
    options: tuple[str, ...] = ()
    files: int | None = None
    """The limit on open files, as `ulimit -n` sets it."""
    port: int = 0
    process: subprocess.Popen[str] | None = None

    @property
    def at(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "registry", "serve", "--url", self.url, *self.options]
        if self.files is not None:
            command = ["prlimit", f"--nofile={self.files}", *command]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("serving http"), self.log.read_text()
        self.port = int(line.rpartition(":")[2])
        self.process.stdout.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        """Terminate the server, and return its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)


def eventually(done: Any, seconds: float = 30) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.01)
