"""Who reads for long: with the memory of a short while, and nothing left open in the database."""

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
"""The part of a run after which its memory is to stay as it is."""
MOST = 0.05

pytestmark = pytest.mark.timeout(3600)


def endure(
    reg: Registry, kind: str, unit: str, end: int
) -> tuple[int, list[int], Counter[str | None]]:
    """Run a reader to its end.

    Returns its steps, the memory it had after warming up, and the states of its connections, at
    which it was looked between its steps.
    """
    url = reg.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.support.long_readers", url, kind, unit, str(end)]
    environment = {**os.environ, "PGAPPNAME": "enduring", "TF_CPP_MIN_LOG_LEVEL": "3"}
    states: Counter[str | None] = Counter()
    found: list[tuple[int, int]] = []
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        for line in running.stdout:
            steps, size = line.split()
            found.append((int(steps), int(size)))
            states.update(_states(reg))
            running.stdin.write("\n")
            running.stdin.flush()
    assert running.returncode == 0
    return found[-1][0], [size for _, size in found[int(WARM * len(found)) :]], states


def _states(reg: Registry) -> Sequence[str | None]:
    if reg.engine.dialect.name == "sqlite":
        return []
    query = "SELECT state FROM pg_stat_activity WHERE application_name = 'enduring'"
    return read(reg.engine, lambda connection: connection.execute(text(query)).scalars().all())


def spread(found: list[int]) -> float:
    """Return how far the memory strays from what is usual, as a part of it."""
    middle = median(found)
    return max(max(found) - middle, middle - min(found)) / middle


@contextmanager
def writing(dataset: Dataset) -> Iterator[Callable[[], int]]:
    """Insert, revise and retract all the while; lend the count of transactions."""
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


def check(figure: Figure, what: str, found: list[int], states: Counter[str | None]) -> None:
    strays = spread(found)
    seen = f", 0 idle in transaction in {states.total():,} looks" if states else ""
    figure(what, f"memory {median(found) / 2**20:.0f} MiB ± {strays:.1%}{seen}")
    # What a process gives back in the end, TensorFlow for one, is no growth.
    assert max(found) <= (1 + MOST) * found[0], found
    assert not [state for state in states if state and "in transaction" in state]


@rounds(1_500, 1_000_000)
def test_a_reader_of_many_pages_keeps_its_memory_and_no_transaction(
    reg: Registry, digits: Dataset, rounds: int, figure: Figure
) -> None:
    digits.insert([digit(number) for number in range(1000)])
    steps, found, states = endure(reg, "pages", "steps", rounds)
    kind = reg.engine.dialect.name
    check(figure, f"{kind}: {steps:,} pages read", found, states)
    assert states or kind == "sqlite"


@rounds(1, 600)
def test_a_follower_of_many_writes_keeps_its_memory_and_no_transaction(
    reg: Registry, digits: Dataset, rounds: int, figure: Figure
) -> None:
    with writing(digits) as written:
        steps, found, states = endure(reg, "follow", "seconds", rounds)
    kind = reg.engine.dialect.name
    check(figure, f"{kind}: {written():,} writes in {rounds} s followed", found, states)
    assert steps > rounds
    assert states or kind == "sqlite"


@rounds(400, 300_000)
def test_a_stream_over_many_epochs_keeps_its_memory_and_no_transaction(
    reg: Registry, digits: Dataset, rounds: int, figure: Figure
) -> None:
    digits.insert([digit(number) for number in range(2000)])
    steps, found, states = endure(reg, "stream", "steps", rounds)
    check(figure, f"{reg.engine.dialect.name}: {steps:,} batches streamed", found, states)


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1_000])
def test_many_datasets_and_iterators_of_tensorflow_keep_their_memory(
    sqlite_url: str, rounds: int, figure: Figure
) -> None:
    with registry.connect(sqlite_url) as reg:
        reg.create("digits", FIXED).insert([digit(number) for number in range(1000)])
        steps, found, states = endure(reg, "tensorflow", "steps", rounds)
    check(figure, f"TensorFlow: {steps:,} epochs and {2 * steps:,} iterators", found, states)
