"""The memory of a real server while a client with a token sends hostile bodies."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

import registry
from registry import Bytes
from registry.server import tokens
from tests.support.servers import Served

POST = "/v1/datasets/files/samples"
SIZE = 60_000_000
MOST = 400
"""MiB by which the server may grow."""
JSON = "application/json"
NDJSON = "application/x-ndjson"
ITEM = b'{"key": "a", "fields": {"file": %s}}'


def filled(start: bytes, unit: bytes, end: bytes) -> bytes:
    return start + unit * ((SIZE - len(start) - len(end)) // len(unit)) + end


def hostile() -> Iterator[tuple[str, bytes]]:
    """Yield bodies of `SIZE` bytes with their type, one at a time: all of them are 660 MB."""
    yield JSON, filled(b"[", b"[],", b"[]]")
    yield JSON, ITEM % filled(b"[", b"[],", b"[]]")
    yield JSON, ITEM % filled(b"[", b"[1],", b"[]]")
    yield JSON, ITEM % filled(b"[", b'{"a":1},', b"{}]")
    yield JSON, ITEM % filled(b"[", b"1000,", b"1]")
    yield JSON, ITEM % filled(b"[", b'"",', b'""]')
    yield JSON, ITEM % filled(b"{", b'"aa":1,', b'"b":1}')
    yield JSON, filled(b"[", b"{},", b"{}]")
    yield NDJSON, filled(b"", b"[]\n", b"")
    yield NDJSON, filled(b"", b"\n", b"")
    yield JSON, ITEM % filled(b'"', b"a", '😀"'.encode())


def test_no_body_takes_much_memory(sqlite_url: str, tmp_path: Path) -> None:
    with registry.connect(sqlite_url) as reg:
        reg.create("files", {"file": Bytes()})
        secret = tokens.create(reg.engine, "client")
    with (
        Served(sqlite_url, tmp_path / "log") as server,
        httpx.Client(base_url=server.at, timeout=120) as http,
        ThreadPoolExecutor() as pool,
    ):

        def post(kind: str, body: bytes) -> int:
            headers = {"authorization": f"Bearer {secret}", "content-type": kind}
            return http.post(POST, content=body, headers=headers).status_code

        assert post(JSON, ITEM % b'""') == 200
        before = _peak(server)
        statuses = set()
        for kind, body in hostile():
            sent = [pool.submit(post, kind, body) for _ in range(2)]
            assert http.get("/healthz").status_code == 200
            statuses |= {each.result() for each in sent}
        assert statuses <= {400, 413, 422, 503}
        # A useful body of the same size is stored: a file of 44 MB, as base64.
        file = base64.b64encode(b"x" * 44_000_000)
        assert post(JSON, ITEM % b'"%s"' % file) == 200
        assert _peak(server) - before < MOST
        assert http.get("/healthz").status_code == 200
    assert (tmp_path / "log").read_text() == ""


def _peak(server: Served) -> float:
    """Return the most memory that the server had so far, in MiB."""
    assert server.process is not None
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
