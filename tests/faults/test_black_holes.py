"""A network that accepts all bytes and delivers none: a typed error within the timeout."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import URL, text
from sqlalchemy.engine import make_url

import registry
from registry import Dataset, Registry
from registry.errors import DatabaseUnavailableError
from registry.storage.database.transactions import driver, reading, writing
from tests.support.datasets import FIXED, digit
from tests.support.figures import Figure
from tests.support.proxy import DIRECTIONS, Direction, Proxy, proxied

COPY_IN = "COPY samples (dataset_id, position, bucket, chain, key) FROM STDIN"
COPY_OUT = "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 1000000)) TO STDOUT"


@pytest.fixture
def direct(postgresql_url: str) -> Iterator[Dataset]:
    """The dataset, opened without the proxy."""
    with registry.connect(postgresql_url) as reg:
        yield reg.create("digits", FIXED)


def _copy_in(reg: Registry, silent: threading.Event) -> None:
    with (
        writing(reg.engine) as connection,
        driver(connection).cursor() as cursor,
        cursor.copy(COPY_IN) as copy,
    ):
        while not silent.is_set():
            copy.write("1\t0\t0\t\\\\x00\tkey\n" * 1000)


def _copy_out(reg: Registry, _: threading.Event) -> None:
    with reading(reg.engine) as connection, driver(connection).cursor() as cursor:
        while True:
            with cursor.copy(COPY_OUT) as copy:
                for _data in copy:
                    pass


def _sleep(reg: Registry, _: threading.Event) -> None:
    with reading(reg.engine) as connection:
        connection.execute(text("SELECT pg_sleep(1000)"))


def _read(reg: Registry, _: threading.Event) -> None:
    dataset = reg.open("digits")
    while True:
        assert len(list(dataset.pages())) == 1


def _insert(reg: Registry, _: threading.Event) -> None:
    dataset = reg.open("digits")
    while True:
        dataset.insert([digit(1)], keys=["again"])


def _commit(reg: Registry, _: threading.Event) -> None:
    while True:
        with writing(reg.engine) as connection:
            connection.execute(text("SELECT 1"))


def _connect(reg: Registry, silent: threading.Event) -> None:
    silent.wait()
    registry.connect(_text(reg.engine.url))


Work = Callable[[Registry, threading.Event], None]
WORK: dict[str, Work] = {
    "connecting": _connect,
    "a statement": _sleep,
    "pages": _read,
    "an insert": _insert,
    "a commit": _commit,
    "COPY in": _copy_in,
    "COPY out": _copy_out,
}


@pytest.mark.parametrize("seconds", [10, pytest.param(30, marks=pytest.mark.slow)])
def test_every_call_fails_in_time_when_the_network_falls_silent(
    postgresql_url: str, direct: Dataset, seconds: int, figure: Figure
) -> None:
    direct.insert([digit(0)])
    with proxied(make_url(postgresql_url)) as (proxy, plain):
        url = _text(plain if seconds == 30 else _with_timeout(plain, seconds))
        silent, connected = threading.Event(), threading.Barrier(len(WORK) + 1)
        since = 0.0

        def timed(work: Work) -> float:
            with registry.connect(url) as reg:
                connected.wait(60)
                with pytest.raises(DatabaseUnavailableError, match="check that the server is up"):
                    work(reg, silent)
                assert silent.is_set()
                return time.monotonic() - since

        with ThreadPoolExecutor(len(WORK) + 1) as pool, registry.connect(url) as reg:
            pages = reg.open("digits").follow()
            assert next(pages).stop == 1
            follower = pool.submit(lambda: next(pages).stop)
            futures = {name: pool.submit(timed, work) for name, work in WORK.items()}
            connected.wait(60)
            time.sleep(1)
            since = time.monotonic()
            proxy.black_hole = True
            silent.set()
            took = {name: future.result() for name, future in futures.items()}
            direct.insert([digit(1)])
            proxy.black_hole = False
            assert follower.result(seconds) == 2
            pages.close()
    longest = max(took, key=lambda name: took[name])
    assert took[longest] < seconds, took
    figure(
        f"black-holed network, {seconds} s allowed",
        f"typed error after {min(took.values()):.1f} to {took[longest]:.1f} s ({longest})",
    )


def test_an_insert_whose_bytes_are_lost_is_stored_once(postgresql_url: str) -> None:
    """The server's session still holds the lock. It is ended, or the retry would wait for it."""
    samples = [digit(n) for n in range(500)]

    def bytes_of_insert(proxy: Proxy, dataset: Dataset, direction: Direction) -> int:
        before = proxy.forwarded[direction]
        dataset.insert(samples)
        return proxy.forwarded[direction] - before

    def lose(direction: Direction, share: float) -> None:
        with (
            proxied(make_url(postgresql_url)) as (proxy, url),
            registry.connect(_text(_with_timeout(url, 10))) as reg,
        ):
            dataset = reg.create(f"{direction[3:]}-{share}", FIXED)
            dataset.insert(samples)
            # The least of several inserts: some notify readers, and some do not.
            total = min(bytes_of_insert(proxy, dataset, direction) for _ in range(5))
            proxy.arm(direction, int(share * total), silent=True)
            since = time.monotonic()
            dataset.insert(samples)
            assert time.monotonic() - since < 10
            assert proxy.cuts == 1
            assert len(dataset) == dataset.head.position == 7 * len(samples)

    cases = [(direction, share) for direction in DIRECTIONS for share in (0.0, 0.4, 0.8)]
    with ThreadPoolExecutor(len(cases)) as pool:
        for done in [pool.submit(lose, *case) for case in cases]:
            done.result()


@pytest.mark.slow
def test_a_statement_that_the_server_executes_may_take_longer(postgresql_url: str) -> None:
    url = _text(_with_timeout(make_url(postgresql_url), 10))
    with registry.connect(url) as reg, reading(reg.engine) as connection:
        connection.execute(text("SELECT pg_sleep(5)"))


def _with_timeout(url: URL, seconds: int) -> URL:
    return url.update_query_dict({"timeout": str(seconds)})


def _text(url: URL) -> str:
    return url.render_as_string(hide_password=False)
