"""Readers that run for long: their memory does not grow, and no transaction stays open."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median

import pytest
from sqlalchemy import text

import registry
from registry import Dataset, Registry
from registry.storage.database.transactions import read
from tests.support.datasets import FIXED, digit
from tests.support.figures import Figure, rounds

WARM = 0.3
"""The share of a run after which its memory must stay constant."""
MOST = 0.05
"""The share by which the memory may grow after that."""

pytestmark = pytest.mark.timeout(2400)


def endure(
    reg: Registry, kind: str, unit: str, end: int
) -> tuple[int, list[int], Counter[str | None]]:
    """Run a reader to its end.

    Returns its steps, the memory after warming up, and how often each state of its connections
    was seen between steps.
    """
    url = reg.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.support.long_readers", url, kind, unit, str(end)]
    environment = {**os.environ, "PGAPPNAME": "enduring", "TF_CPP_MIN_LOG_LEVEL": "3"}
    states: Counter[str | None] = Counter()
    reports: list[tuple[int, int]] = []
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        for line in running.stdout:
            steps, size = line.split()
            reports.append((int(steps), int(size)))
            states.update(_states(reg))
            running.stdin.write("\n")
            running.stdin.flush()
    assert running.returncode == 0
    return reports[-1][0], [size for _, size in reports[int(WARM * len(reports)) :]], states


def _states(reg: Registry) -> Sequence[str | None]:
    if reg.engine.dialect.name == "sqlite":
        return []
    query = "SELECT state FROM pg_stat_activity WHERE application_name = 'enduring'"
    return read(reg.engine, lambda connection: connection.execute(text(query)).scalars().all())


def spread(sizes: list[int]) -> float:
    """Return the largest deviation from the median, as a share of it."""
    middle = median(sizes)
    return max(max(sizes) - middle, middle - min(sizes)) / middle


@contextmanager
def writing(dataset: Dataset) -> Iterator[Callable[[], int]]:
    """Insert, revise and retract in a thread; yield a function that counts the inserts."""
    done = threading.Event()
    counts = Counter[str]()

    def write() -> None:
        number = 0
        while not done.is_set():
            dataset.insert([digit(number)], keys=[f"k{number % 1000}"])
            counts["written"] += 1
            number += 1
            if number % 50 == 0:
                dataset.retract(f"k{(number - 7) % 1000}")
            time.sleep(0.002)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield lambda: counts["written"]
    finally:
        done.set()
        thread.join()


def check(figure: Figure, what: str, sizes: list[int], states: Counter[str | None]) -> None:
    deviation = spread(sizes)
    idle = f", 0 idle in transaction in {states.total():,} looks" if states else ""
    figure(what, f"memory {median(sizes) / 2**20:.0f} MiB ± {deviation:.1%}{idle}")
    # Memory may shrink at the end, as TensorFlow's does; only growth counts.
    assert max(sizes) <= (1 + MOST) * sizes[0], sizes
    assert not [state for state in states if state and "in transaction" in state]


@rounds(1_500, 1_000_000)
def test_a_reader_of_many_pages_has_constant_memory_and_no_open_transaction(
    reg: Registry, digits: Dataset, rounds: int, figure: Figure
) -> None:
    digits.insert([digit(number) for number in range(1000)])
    steps, sizes, states = endure(reg, "pages", "steps", rounds)
    kind = reg.engine.dialect.name
    check(figure, f"{kind}: {steps:,} pages read", sizes, states)
    assert states or kind == "sqlite"


@rounds(1, 600)
def test_a_follower_of_many_writes_has_constant_memory_and_no_open_transaction(
    reg: Registry, digits: Dataset, rounds: int, figure: Figure
) -> None:
    with writing(digits) as written:
        steps, sizes, states = endure(reg, "follow", "seconds", rounds)
    kind = reg.engine.dialect.name
    check(figure, f"{kind}: {written():,} writes in {rounds} s followed", sizes, states)
    assert steps > rounds
    assert states or kind == "sqlite"


@rounds(400, 300_000)
def test_a_stream_over_many_epochs_has_constant_memory_and_no_open_transaction(
    reg: Registry, digits: Dataset, rounds: int, figure: Figure
) -> None:
    digits.insert([digit(number) for number in range(2000)])
    steps, sizes, states = endure(reg, "stream", "steps", rounds)
    check(figure, f"{reg.engine.dialect.name}: {steps:,} batches streamed", sizes, states)


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1_000])
def test_many_datasets_and_iterators_of_tensorflow_have_constant_memory(
    sqlite_url: str, rounds: int, figure: Figure
) -> None:
    with registry.connect(sqlite_url) as reg:
        reg.create("digits", FIXED).insert([digit(number) for number in range(1000)])
        steps, sizes, states = endure(reg, "tensorflow", "steps", rounds)
    check(figure, f"TensorFlow: {steps:,} epochs and {2 * steps:,} iterators", sizes, states)
