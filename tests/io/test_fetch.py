"""Fetching by URI: only below the prefixes, within limits on time and size, without leaks."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import fsspec
import psutil  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.io.fetch.fetcher import Fetcher
from registry.io.fetch.limits import FetchLimits
from registry.io.fetch.prefix import HttpPrefix, parse_http, parse_prefix
from registry.io.media import MediaError, MediaReader, media_reader
from tests.support import media_servers as servers
from tests.support.image_files import PNG
from tests.support.media_servers import MediaServer, media_server

LIMITS = FetchLimits(seconds=30, size=1 << 20, redirects=3, pauses=(0.01, 0.01))
TOKEN = {"REGISTRY_LABEL_STUDIO_TOKEN": "s3cret-token"}


@contextmanager
def fetching(*prefixes: str, **environment: str) -> Iterator[MediaReader]:
    """A reader of these prefixes."""
    with closing(MediaReader([], Fetcher(prefixes, LIMITS, environment))) as reader:
        yield reader


@pytest.fixture
def server() -> Iterator[MediaServer]:
    with media_server({"/a/cat.png": PNG, "/a/x/big%20cat.png": PNG, "/b/dog.png": PNG}) as server:
        yield server


def refusal(reader: MediaReader, uri: str) -> str:
    """Return why a URI is not loaded."""
    with pytest.raises(ValueError, match=r".") as caught:
        reader.load(uri)
    assert type(caught.value) is ValueError
    return str(caught.value)


def test_what_is_below_a_prefix_is_fetched(server: MediaServer) -> None:
    with fetching(f"{server.at}/a") as reader:
        assert reader.load(f"{server.at}/a/cat.png") == PNG
        assert reader.load(f"HTTP://127.0.0.1:{server.port}/a/x/big cat.png?size=1#top") == PNG
        assert reader.load(f"{server.at}/b/../a/cat.png") == PNG
    assert server.paths == ["/a/cat.png", "/a/x/big%20cat.png?size=1", "/a/cat.png"]


@pytest.mark.parametrize(
    "uri",
    [
        "http://host.evil/a/cat.png",
        "http://host@evil/a/cat.png",
        "http://user:s3cret@host/a/cat.png",
        "http://host:81/a/cat.png",
        "https://host/a/cat.png",
        "http://host./a/cat.png",
        "http://host%2eevil/a/cat.png",
        "http://host\u3002evil/a/cat.png",
        "http://host\uff0fa/cat.png",
        "http://host\\@evil/a/cat.png",
        "http://evil\\@host/a/cat.png",
        "http://host/a\\..\\secret",
        "http://host/b/cat.png",
        "http://host/ab/cat.png",
        "http://host/a",
        "http://host//a/cat.png",
        "http://host/A/cat.png",
        "http://host/a/../b/cat.png",
        "http://host/a/%2e%2e/b/cat.png",
        "http://host/a/.%2E/b/cat.png",
        "http://host/a/..%2fb/cat.png",
        "http://host/a/%252e%252e/b/cat.png",
        "http://host/a/%2525252525252e./b",
        "http://host/a/..;x/b/cat.png",
        "http://host/a/..%5cb/cat.png",
        "http://host/a%2Fcat.png",
        "http://host/a/cat.png\r\nx: y",
        "http://host/a/\0",
        "http:///a/cat.png",
        "http://",
        "http://[::1/a/",
        "http://host:x/a/",
        "://host/a/",
        "ftp://host/a/cat.png",
        "HTTPS://host/a/",
        "gopher://host/a/",
        "memory://b/a/cat.png",
        "memory://a/../b/cat.png",
        "memory://a/x::file:///etc/passwd",
        "simplecache::memory://a/cat.png",
        "s3://a/cat.png",
    ],
)
def test_a_uri_that_is_not_below_a_prefix_is_not_fetched(uri: str) -> None:
    # No server is asked: a connection to any of these hosts would fail with another reason.
    with fetching("http://host/a/", "memory://a/") as reader:
        reason = refusal(reader, uri)
    assert "cannot be fetched" not in reason
    assert "s3cret" not in reason


URLS = st.lists(
    st.sampled_from(
        [
            *"/\\.;@:%?#ab",
            "..",
            "%2e",
            "%2f",
            "%5c",
            "//",
            "host",
            "http://host/a/",
            "evil",
            "[::1]",
        ]
    ),
    max_size=8,
).map("".join)


@given(URLS, st.sampled_from(["http://host/a/", "http://host/", "http://host", "http://"]))
def test_every_url_that_is_accepted_leads_below_its_prefix(text: str, beginning: str) -> None:
    prefix = parse_prefix("http://host/a/")
    assert isinstance(prefix, HttpPrefix)
    try:
        url = parse_http(beginning + text)
    except ValueError:
        return
    if prefix.covers(url):
        assert (url.scheme, url.host, url.port, url.userinfo) == ("http", "host", None, b"")
        assert str(url).startswith("http://host/a/")
        assert ".." not in str(url.copy_with(query=None)).replace("...", "").split("/")


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        (
            "/srv/images",
            "begins with one of http://, https://, s3://.*; allow a folder .* by --root",
        ),
        ("file:///srv", "allow a folder of this machine by --root"),
        ("ftp://host/", "begins with one of"),
        ("simplecache::s3://bucket/", "begins with one of"),
        ("s3://", "names no bucket; write s3://BUCKET/"),
        ("s3://a::file:///", "has '::'"),
        ("https://", "is no URL of a host"),
        ("https://user:s3cret@host/", "has a user or a password"),
        ("https://host/?key=s3cret", "a prefix has no query"),
        ("https://host/a/%2e%2e/", "has '.' or '..'"),
        ("s3://bucket/", "needs s3fs; run: pip install s3fs"),
    ],
)
def test_a_prefix_that_cannot_be_used_is_refused(
    monkeypatch: pytest.MonkeyPatch, prefix: str, reason: str
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MediaError, match=reason) as caught:
        media_reader([], [prefix])
    assert "s3cret" not in str(caught.value)


def test_redirects_are_followed_below_the_prefixes_only(server: MediaServer) -> None:
    with media_server({"/a/cat.png": PNG}) as other:
        elsewhere = {
            "/a/1": f"{other.at}/a/cat.png",
            "/a/2": "file:///etc/passwd",
            "/a/3": "/b/dog.png",
            "/a/4": f"//127.0.0.1:{other.port}/a/cat.png",
            "/a/5": "../b/dog.png",
            "/a/6": "/\\127.0.0.1/a/cat.png",
            "/a/7": f"http://x@127.0.0.1:{server.port}/a/cat.png",
            "/a/8": "%2e%2e/b/dog.png",
            "/a/9": "https://[",
        }
        server.answers |= {path: servers.redirect(to) for path, to in elsewhere.items()}
        server.answers["/a/new"] = servers.redirect("x/../cat.png", 308)
        server.answers["/a/loop"] = servers.redirect("/a/loop")
        with fetching(f"{server.at}/a/") as reader:
            assert reader.load(f"{server.at}/a/new") == PNG
            for path in elsewhere:
                assert "is redirected to" in refusal(reader, server.at + path)
            assert "is redirected over 3 times" in refusal(reader, f"{server.at}/a/loop")
        assert other.requests == []
        assert "/b/dog.png" not in server.paths
        assert server.paths.count("/a/loop") == 4
        with fetching(f"{server.at}/a/", f"{other.at}/a/") as reader:
            assert reader.load(f"{server.at}/a/1") == PNG


@pytest.mark.parametrize("answer", [servers.silent, servers.dripping_head, servers.dripping_body])
def test_a_fetch_that_never_ends_is_ended(server: MediaServer, answer: Any) -> None:
    server.answers["/a/slow"] = answer
    limits = FetchLimits(seconds=0.2)
    with closing(MediaReader([], Fetcher([f"{server.at}/"], limits))) as reader:
        assert "could not be fetched within 0.2 seconds" in refusal(reader, f"{server.at}/a/slow")


def test_content_above_the_limit_is_not_read(server: MediaServer) -> None:
    server.answers |= {
        "/a/said": servers.status(200, content_length=str(10 << 30)),
        "/a/unsaid": servers.endless,
        "/a/packed": servers.status(
            200,
            packed := gzip.compress(bytes(64 << 20)),
            content_length=str(len(packed)),
            content_encoding="gzip",
        ),
        "/a/most": bytes(1 << 20),
        "/a/more": bytes((1 << 20) + 1),
    }
    process = psutil.Process()
    with fetching(f"{server.at}/a/") as reader:
        assert len(reader.load(f"{server.at}/a/most")) == 1 << 20
        before = process.memory_info().rss
        assert "has 10,737,418,240 bytes; at most 1,048,576" in refusal(
            reader, f"{server.at}/a/said"
        )
        assert "has over 1,048,576 bytes" in refusal(reader, f"{server.at}/a/unsaid")
        assert "has 1,048,577 bytes" in refusal(reader, f"{server.at}/a/more")
        assert "is sent with the encoding 'gzip'" in refusal(reader, f"{server.at}/a/packed")
        assert process.memory_info().rss - before < 32 << 20


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (204, "answers 204 No Content"),
        (401, "answers 401 Unauthorized; it needs credentials, and none are sent to it"),
        (404, "answers 404 Not Found"),
        (418, "answers 418"),
        (500, "answers 500 Internal Server Error"),
    ],
)
def test_a_status_other_than_200_is_the_reason(server: MediaServer, code: int, reason: str) -> None:
    server.answers["/a/x"] = servers.status(code)
    with fetching(f"{server.at}/a/", f"{server.at}/b/") as reader:
        said = refusal(reader, f"{server.at}/a/x?signature=s3cret")
    assert reason in said
    assert "s3cret" not in said
    assert len(server.requests) == 1


def test_a_failure_that_may_pass_is_tried_again(server: MediaServer) -> None:
    server.answers |= {"/a/busy": servers.failing(2, PNG), "/a/cut": servers.cut_off}
    with fetching(f"{server.at}/a/") as reader:
        assert reader.load(f"{server.at}/a/busy") == PNG
        # A part of an image is never its content.
        assert "cannot be fetched (RemoteProtocolError" in refusal(reader, f"{server.at}/a/cut")
    assert (server.paths.count("/a/busy"), server.paths.count("/a/cut")) == (3, 3)
    with fetching("http://127.0.0.1:1/") as reader:
        assert "cannot be fetched (ConnectError" in refusal(reader, "http://127.0.0.1:1/x")


def test_the_token_of_label_studio_is_sent_to_its_prefix_only(server: MediaServer) -> None:
    with media_server({"/a/cat.png": PNG}) as other:
        server.answers |= {
            "/data/upload/2/a%20b.png": PNG,
            "/data/local-files/": PNG,
            "/data/away": servers.redirect(f"{other.at}/a/cat.png"),
            "/data/down": servers.redirect("/a/cat.png"),
        }
        studio = {"REGISTRY_LABEL_STUDIO_URL": f"{server.at}", **TOKEN}
        with fetching(f"{server.at}/", f"{other.at}/a/", **studio) as reader:
            assert reader.load("/data/upload/2/a%20b.png") == PNG
            assert reader.load("/data/local-files/?d=x/a.png") == PNG
            assert reader.load("/data/away") == PNG
            assert reader.load("/data/down") == PNG
            assert reader.load(f"{other.at}/a/cat.png") == PNG
            assert "check the token in $REGISTRY_LABEL_STUDIO_TOKEN" not in refusal(
                reader, f"{other.at}/a/gone.png"
            )
            assert "answers 404" in refusal(reader, f"{server.at}/api/projects/")
            assert "answers 404" in refusal(reader, "/data/../api/projects/")
        assert {path.split("/")[1] for path, token in server.requests if token is None} == {
            "a",
            "api",
        }
        assert {token for path, token in server.requests if path.startswith("/data/")} == {
            "Token s3cret-token"
        }
        assert [*map(tuple, other.requests)] == [
            ("/a/cat.png", None),
            ("/a/cat.png", None),
            ("/a/gone.png", None),
        ]
        with pytest.raises(MediaError, match="put that of Label Studio into") as caught:
            Fetcher([f"{server.at}/", f"{other.at}/a/"], LIMITS, TOKEN)
        assert "s3cret" not in str(caught.value)


def test_a_refused_token_is_not_in_the_reason(server: MediaServer) -> None:
    server.answers["/data/x.png"] = servers.status(401)
    with fetching(f"{server.at}/", **TOKEN) as reader:
        reason = refusal(reader, "/data/x.png")
    assert "check the token in $REGISTRY_LABEL_STUDIO_TOKEN" in reason
    assert "s3cret" not in reason
    with fetching(f"{server.at}/") as reader:
        assert "put a token of Label Studio into" in refusal(reader, "/data/x.png")


def test_a_personal_access_token_is_exchanged_for_an_access_token(server: MediaServer) -> None:
    server.answers |= {
        "/api/token/refresh/": b'{"access": "abc"}',
        "/data/x.png": PNG,
        "/data/y.png": PNG,
    }
    with fetching(f"{server.at}/", REGISTRY_LABEL_STUDIO_TOKEN="e30.e30.s3cret") as reader:
        assert [reader.load("/data/x.png"), reader.load("/data/y.png")] == [PNG, PNG]
    assert server.requests == [
        ("/api/token/refresh/", None),
        ("/data/x.png", "Bearer abc"),
        ("/data/y.png", "Bearer abc"),
    ]


def test_no_cookie_of_one_answer_is_part_of_the_next_request(server: MediaServer) -> None:
    cookies = []

    def answer(_: MediaServer, handler: Any) -> None:
        cookies.append(handler.headers["cookie"])
        servers.status(200, PNG, set_cookie="session=s3cret; Path=/")(_, handler)

    server.answers["/a/x"] = answer
    with fetching(f"{server.at}/a/") as reader:
        assert [reader.load(f"{server.at}/a/x") for _ in range(2)] == [PNG, PNG]
    assert cookies == [None, None]


def test_fetches_at_a_time_are_bounded_and_their_results_in_order(server: MediaServer) -> None:
    lock, running, most = threading.Lock(), [0], [0]
    full = threading.Event()

    def answer(_: MediaServer, handler: Any) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
            if running[0] == LIMITS.at_a_time:
                full.set()
        full.wait()
        with lock:
            running[0] -= 1
        servers.content(handler.path.encode())(_, handler)

    server.answers |= {f"/a/{n}": answer for n in range(20)}
    with fetching(f"{server.at}/a/") as reader:
        contents = list(reader.map(reader.load, (f"{server.at}/a/{n}" for n in range(20))))
    assert contents == [f"/a/{n}".encode() for n in range(20)]
    assert most == [LIMITS.at_a_time]


def test_a_request_fetches_a_uri_once_within_its_time_and_size(
    server: MediaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.io.media.REQUEST_BYTES", 1_000_000)
    server.answers |= {
        "/a/slow": servers.silent,
        "/a/large": bytes(900_000),
        "/a/x": bytes(200_000),
    }
    with fetching(f"{server.at}/a/") as reader:
        request = reader.within(30)
        assert [request.load(f"{server.at}/a/cat.png") for _ in range(3)] == [PNG] * 3
        assert server.paths == ["/a/cat.png"]
        assert len(request.load(f"{server.at}/a/large")) == 900_000
        assert "was not kept: what the request names has over" in refusal(
            request, f"{server.at}/a/x"
        )
        request = reader.within(0.2)
        assert "within 0.2 seconds" in refusal(request, f"{server.at}/a/slow")
        assert "the time for the request was over" in refusal(request, f"{server.at}/a/cat.png")


def test_objects_of_a_store_are_read_below_their_prefix() -> None:
    store = fsspec.filesystem("memory")
    for name, data in {
        "a/cat.png": PNG,
        "a/empty": b"",
        "b/x": PNG,
        "a/big": bytes(2 << 20),
    }.items():
        store.pipe_file(f"/media/{name}", data)
    try:
        with fetching("memory://media/a") as reader:
            assert reader.load("memory://media/a/cat.png") == PNG
            assert reader.load("memory://media/a/empty") == b""
            assert "is below no --fetch prefix" in refusal(reader, "memory://media/b/x")
            assert "does not exist" in refusal(reader, "memory://media/a/gone")
            assert "has 2,097,152 bytes" in refusal(reader, "memory://media/a/big")
            assert "is no object" in refusal(reader, "memory://media/a/")
    finally:
        store.rm("/media", recursive=True)


def test_a_store_that_never_answers_keeps_no_process_from_ending() -> None:
    code = """
import threading
from fsspec.implementations.memory import MemoryFileSystem
from registry.io.media import media_reader

MemoryFileSystem.info = lambda *_, **__: threading.Event().wait()
reader = media_reader([], ["memory://media/"], seconds=0.2)
for number in range(20):
    try:
        reader.load(f"memory://media/{number}")
    except ValueError as error:
        assert "could not be fetched within 0.2 seconds" in str(error)
print(threading.active_count())
reader.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    # The main thread, the loop's, and no more than are fetched at a time.
    assert int(done.stdout) == 10
