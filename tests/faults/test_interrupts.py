"""Ctrl-C at any line, and once more while that is handled: no transaction stays open."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import count
from types import FrameType
from typing import Any

import registry
from registry import Dataset, heads
from registry.engine import make_engine, writing
from tests.datasets import digit

SECOND = (None, 1, 3, 8, 20, 35, 50, 90, 140)
"""After how many of Python's steps the second interrupt follows, one after the other."""
INTERRUPTS = 100


class Interrupts:
    """Raises KeyboardInterrupt at one line of what is called, and again some steps later."""

    def __init__(self, first: int | None, second: int | None) -> None:
        self.lines = 0
        self._first, self._second = first, second
        self._steps = 0

    def __call__(self, work: Callable[[], object]) -> None:
        before = sys.gettrace(), sys.getprofile()
        sys.setprofile(self._step)
        sys.settrace(self._line)
        try:
            work()
        finally:
            self._second = None
            sys.settrace(before[0])
            sys.setprofile(before[1])

    def _line(self, _: FrameType, event: str, __: Any) -> Any:
        # An exception here removes this function, and leaves the other in place.
        if event == "line":
            self.lines += 1
            if self.lines == self._first:
                raise KeyboardInterrupt
        return self._line

    def _step(self, _: FrameType, event: str, __: Any) -> None:
        # One raised at a call of a suspended generator is not caught in it; no signal is.
        if self._first and self.lines >= self._first and self._second and event != "call":
            self._steps += 1
            if self._steps == self._second:
                raise KeyboardInterrupt


def interrupt_inserts(url: str) -> None:
    """Insert often, interrupted each time at another line, and look for what was left locked."""
    numbers = count()
    reg, other = registry.connect(url), make_engine(url)
    digits = reg.open("digits")

    def insert() -> None:
        number = next(numbers)
        digits.insert([digit(number)], keys=[f"k{number}"])

    insert()
    whole = Interrupts(None, None)
    whole(insert)
    interrupted = 0
    for number, first in enumerate(range(1, whole.lines, whole.lines // INTERRUPTS)):
        try:
            Interrupts(first, SECOND[number % len(SECOND)])(insert)
        except KeyboardInterrupt:
            interrupted += 1
        with writing(other, wait=1) as connection:
            heads.lock(connection, digits.id)
        insert()
    assert digits.verify()[0].differs is None
    print("interrupted", interrupted)  # noqa: T201


def test_an_insert_interrupted_twice_at_any_line_leaves_no_lock(url: str, digits: Dataset) -> None:
    """In a process of its own, since SQLAlchemy's caches are interrupted, too."""
    command = [sys.executable, "-c", f"import {__name__} as it; it.interrupt_inserts({url!r})"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout.split()[-1]) > INTERRUPTS / 2
    assert len(digits) > INTERRUPTS
