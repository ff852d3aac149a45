"""Recording in the background how many of a run's samples were trained on."""

from __future__ import annotations

import threading
from contextlib import suppress

from registry.errors import RegistryError
from registry.training.mix import Mix
from registry.training.run import Run

INTERVAL = 1.0
"""Seconds until a sample that was trained on is recorded, at most."""


class Recorder:
    """Records the furthest sample reached, within a second, without blocking the training.

    A timer's thread writes to the database, not the call for the next batch, because no next batch
    comes after Ctrl-C. The process waits for this thread before it ends. Safe to share between
    threads.
    """

    def __init__(self, run: Run | Mix) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._reached: int | None = None
        self._written: int | None = None
        self._timer: threading.Timer | None = None

    def reach(self, sample: int) -> None:
        """Note that the run's first ``sample`` samples have been trained on.

        A number below an earlier one is ignored.
        """
        with self._lock:
            if self._reached is not None and sample <= self._reached:
                return
            self._reached = sample
            if self._timer is None:
                self._timer = threading.Timer(INTERVAL, self._write_in_background)
                self._timer.start()

    def flush(self) -> None:
        """Record the furthest sample now, in this thread. Raises the database's errors."""
        # The lock is not held during the write, or `reach` would block the training meanwhile.
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            reached = self._reached
        if reached is not None and reached != self._written:
            # Two threads may get here in any order; "at least" keeps the later from going back.
            self._run.record_at_least(reached)
            self._written = reached

    def _write_in_background(self) -> None:
        # The next write tries again, and the last one, by `flush`, raises the error.
        with suppress(RegistryError):
            self.flush()
