"""Ctrl-C at any moment, and again while it is handled: no transaction stays open."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from types import FrameType

import pytest

import registry
from registry.storage.database.engine import make_engine
from registry.storage.database.transactions import writing
from registry.storage.log.head import lock_head
from tests.support.datasets import digit

INTERRUPTS = {"sqlite": 200, "postgresql": 120}  # PostgreSQL connects again after each
SECOND = (None, 5e-6, 2e-5, 5e-5, 1e-4, 2e-4, 4e-4)
"""Seconds until the second signal, tried in turn."""


class Interrupts:
    """Calls functions and interrupts them once or twice by signals, as Ctrl-C does."""

    def __init__(self) -> None:
        self._second: float | None = None
        self._expected = False
        signal.signal(signal.SIGALRM, self._interrupt)

    def __call__(self, work: Callable[[], object], first: float, second: float | None) -> bool:
        """Return whether the call was interrupted."""
        self._second, self._expected = second, True
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, first)
                work()
            finally:
                self._expected = False
        except KeyboardInterrupt:
            return True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return False

    def _interrupt(self, _: int, __: FrameType | None) -> None:
        if not self._expected:
            return
        second, self._second = self._second, None
        if second is not None:
            signal.setitimer(signal.ITIMER_REAL, second)
        raise KeyboardInterrupt


def interrupt_inserts(url: str) -> None:
    """Insert many times, interrupted at different moments; check that no lock is left."""
    numbers = count()
    reg, other, interrupts = registry.connect(url), make_engine(url), Interrupts()
    digits = reg.open("digits")

    def insert() -> None:
        number = next(numbers)
        digits.insert([digit(number)], keys=[f"k{number}"])

    insert()
    interrupted = 0
    times = INTERRUPTS[reg.engine.dialect.name]
    for number in range(times):
        since = time.perf_counter()
        insert()
        first = (time.perf_counter() - since) * (number + 1) / times
        interrupted += interrupts(insert, first, SECOND[number % len(SECOND)])
        with writing(other, wait=1) as connection:
            lock_head(connection, digits.id)
    insert()
    assert digits.verify()[0].differs is None
    assert interrupted > times / 4
    assert len(digits) > times


@pytest.mark.usefixtures("digits")
def test_an_insert_interrupted_twice_at_any_moment_leaves_no_lock(url: str) -> None:
    """In a new process, in which SQLAlchemy's caches are filled under interrupts, too."""
    command = [sys.executable, "-c", f"import {__name__} as it; it.interrupt_inserts({url!r})"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 0, process.stderr
