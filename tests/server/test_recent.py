"""Values that many requests of pages share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from registry.server.pages.recent import Recent, RecentOf


def test_one_thread_reads_and_others_get_the_result_from_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr("registry.server.pages.recent.time.monotonic", lambda: now[0])
    recent: Recent[int] = Recent(1.0)
    calls: list[int] = []
    reading, go = threading.Event(), threading.Event()

    def read() -> int:
        calls.append(len(calls))
        if len(calls) > 1:
            reading.set()
            assert go.wait(30)
        return calls[-1]

    def failing() -> int:
        raise OSError

    assert [recent.get(read), recent.get(read)] == [0, 0]
    now[0] += 1.5
    with pytest.raises(OSError):  # noqa: PT011  # it has no message
        recent.get(failing)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(recent.get, read)
        assert reading.wait(30)
        assert recent.get(read) == 0
        go.set()
        assert slow.result() == 1
    assert recent.get(read) == 1
    assert calls == [0, 1]


def test_recent_results_are_kept_for_their_time_and_for_the_last_keys() -> None:
    calls: list[str] = []

    def work(key: str) -> Callable[[], str]:
        return lambda: calls.append(key) or key  # type: ignore[func-returns-value]

    kept = RecentOf[str](1000, 2)
    for key in "aabbcb":
        assert kept.get(key, work(key)) == key
    assert calls == ["a", "b", "c"]
    kept.get("a", work("a"))  # of three keys, it was asked for least
    assert calls == ["a", "b", "c", "a"]
    fresh = RecentOf[str](0, 2)
    for _ in range(2):
        fresh.get("d", work("d"))
    assert calls[4:] == ["d", "d"]


def test_what_is_kept_is_given_without_a_call_until_it_is_too_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr("registry.server.pages.recent.time.monotonic", lambda: now[0])
    pages = RecentOf[str](1.0, 2)
    assert pages.kept("a") is None
    pages.get("a", lambda: "page")
    now[0] += 0.9
    assert (pages.kept("a"), pages.kept("b")) == ("page", None)
    now[0] += 0.2
    assert pages.kept("a") is None


def test_what_takes_long_is_kept_longer_within_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("registry.server.pages.recent.time.monotonic", lambda: now[0])
    for took, values, kept in ((0.01, 1, 1.0), (0.02, 1, 2.0), (0.005, 4, 2.0), (3.0, 1, 5.0)):
        recent: Recent[int] = Recent(1.0, 5.0)

        def work(seconds: float = took) -> int:
            now[0] += seconds
            return 1

        began = now[0]
        recent.get(work, values)
        for age, expected in ((kept - 0.1, 1), (kept + 0.1, None)):
            now[0] = max(now[0], began + age)
            assert recent.kept() == expected, took
