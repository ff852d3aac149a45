"""Limits on clients without a token: connections, heads of requests, and addresses."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

import registry
from registry import Registry
from registry.server import tokens
from registry.server.settings import ServerSettings, SettingsError, parse_proxies
from tests.support.datasets import FIXED
from tests.support.servers import Served, eventually, serving

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
HALF = HEALTH[:-2]


@pytest.fixture
def registered(sqlite_url: str) -> Iterator[Registry]:
    """A registry with a token; nothing here depends on the database."""
    with registry.connect(sqlite_url) as reg:
        reg.create("digits", FIXED)
        tokens.create(reg.engine, "client")
        yield reg


@contextmanager
def connected(at: str, *sent: bytes, source: str = "127.0.0.1") -> Iterator[socket.socket]:
    host, port = at.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 30, source_address=(source, 0)) as one:
        for part in sent:
            one.sendall(part)
        yield one


def status(one: socket.socket) -> int:
    """Return the status of an answer that is sent in one piece, 0 if the connection is closed."""
    try:
        head = one.recv(1 << 16)
    except ConnectionError:
        return 0
    return int(head.split()[1]) if head else 0


def read_to_the_end(one: socket.socket) -> bytes:
    answers = b""
    with suppress(ConnectionError):
        while part := one.recv(1 << 16):
            answers += part
    return answers


def is_closed(one: socket.socket, sent: bytes = b"") -> bool:
    """Return whether the server has closed a connection on which it sends nothing."""
    one.setblocking(False)
    try:
        if sent:
            one.send(sent)
            return False
        return not one.recv(1 << 16)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_a_client_that_does_not_complete_a_head_is_disconnected(registered: Registry) -> None:
    """Also one that sends a few bytes at a time, or that has sent a first request."""
    with (
        serving(registered, ServerSettings(header_timeout=0.5)) as at,
        connected(at) as silent,
        connected(at, HALF) as dripping,
        connected(at, HEALTH) as second,
    ):
        assert status(second) == 200
        second.sendall(HALF)
        eventually(lambda: is_closed(silent))
        eventually(lambda: is_closed(dripping, b"a: b\r\n"))
        eventually(lambda: is_closed(second, b"a: b\r\n"))


def test_a_client_that_reads_no_answer_is_disconnected(registered: Registry) -> None:
    many = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
    with serving(registered, ServerSettings(idle_timeout=0.5)) as at, connected(at, many) as deaf:
        eventually(lambda: is_closed(deaf, b"\r\n"))


def test_a_head_over_its_limits_is_rejected_before_it_is_read(registered: Registry) -> None:
    def fields(count: int, size: int = 1) -> bytes:
        return b"".join(b"x%d: %s\r\n" % (n, b"y" * size) for n in range(count))

    with serving(registered) as at:
        for within in (fields(99), fields(1, 50_000)):
            with connected(at, HALF, within, b"\r\n") as one:
                assert status(one) == 200
        for over in (fields(100), fields(1, 90_000), fields(40, 2000)):
            with connected(at, HALF, over, b"\r\n") as one:
                assert status(one) in (431, 0)  # 0 where more was sent than was read
            with connected(at, HEALTH + HALF + over + b"\r\n") as second:
                assert read_to_the_end(second).count(b"HTTP/1.1 200") <= 1
        with connected(at, HALF + fields(100) + b"\r\n") as one:
            assert status(one) == 431


@pytest.mark.parametrize("per_address", ["256", "100000"])
def test_idle_connections_leave_room_for_health_checks(
    per_address: str, registered: Registry, tmp_path: Path
) -> None:
    options = ("--connections-per-address", per_address)
    url = registered.engine.url.render_as_string(hide_password=False)
    with Served(url, tmp_path / "log", options, files=1024) as server, ExitStack() as stack:
        idle = [stack.enter_context(connected(server.at)) for _ in range(1200)]
        for _ in range(3):
            assert httpx.get(f"{server.at}/healthz").status_code == 200
        most = min(int(per_address), 1024 - 256)
        eventually(lambda: sum(not is_closed(one) for one in idle) <= most)
        assert not is_closed(idle[-1])
    assert (tmp_path / "log").read_text() == ""


def test_a_client_with_many_connections_takes_none_from_others(registered: Registry) -> None:
    with (
        serving(registered, ServerSettings(connections_per_address=3)) as at,
        connected(at) as other,
        ExitStack() as stack,
    ):
        many = [stack.enter_context(connected(at, source="127.0.0.2")) for _ in range(9)]
        eventually(lambda: [is_closed(one) for one in many] == [True] * 6 + [False] * 3)
        other.setblocking(True)
        other.sendall(HEALTH)
        assert status(other) == 200


def test_health_checks_are_answered_at_the_limit_of_requests(registered: Registry) -> None:
    token = tokens.create(registered.engine, "slow")
    post = (
        b"POST /v1/datasets/digits/samples HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
        b"Content-Type: application/json\r\nAuthorization: Bearer %s\r\n\r\n[" % token.encode()
    )
    with serving(registered, ServerSettings(connections=4)) as at, ExitStack() as stack:
        slow = [stack.enter_context(connected(at, post)) for _ in range(4)]
        eventually(lambda: httpx.get(f"{at}/v1/datasets").status_code == 503)
        assert httpx.get(f"{at}/healthz").status_code == 200
        assert not any(is_closed(one) for one in slow)


@pytest.mark.parametrize(("proxies", "statuses"), [("", {401, 429}), ("127.0.0.1/32", {401})])
def test_only_named_proxies_may_name_the_client(
    proxies: str, statuses: set[int], registered: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that guesses tokens cannot claim another address each time."""
    monkeypatch.setattr("registry.server.auth.FAILURE_RATE", 1.0)
    settings = ServerSettings(forwarded_allow_ips=parse_proxies(proxies))
    with serving(registered, settings) as at, httpx.Client() as http:
        answers = [
            http.get(f"{at}/v1/datasets", headers={"x-forwarded-for": f"10.0.0.{n}"}).status_code
            for n in range(30)
        ]
    assert {*answers} == statuses


def test_proxies_are_addresses_and_networks() -> None:
    assert parse_proxies("10.0.0.7, ::1,10.1.0.0/16") == ("10.0.0.7", "::1", "10.1.0.0/16")
    for wrong in ("*", "proxy.example", "10.0.0.7/8"):
        with pytest.raises(SettingsError, match="is no address of a proxy"):
            parse_proxies(wrong)
