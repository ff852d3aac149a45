"""Recording how far a run was trained on, while it is trained on."""

from __future__ import annotations

import threading
from contextlib import suppress

from registry.errors import RegistryError
from registry.training.run import Run

INTERVAL = 1.0
"""Seconds after which what was trained on is recorded, at most."""


class Recorder:
    """Records the furthest sample reached, within a second, and never holds up the training.

    A timer does it rather than the next batch, because after Ctrl-C no next batch comes; the
    process waits for its thread before it ends. Safe to share between threads.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._reached: int | None = None
        self._written: int | None = None
        self._timer: threading.Timer | None = None

    def reach(self, sample: int) -> None:
        """Note that the run's first ``sample`` samples have been trained on."""
        with self._lock:
            if self._reached is not None and sample <= self._reached:
                return
            self._reached = sample
            if self._timer is None:
                self._timer = threading.Timer(INTERVAL, self._write_in_background)
                self._timer.start()

    def flush(self) -> None:
        """Record what was reached, now."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            reached = self._reached
        if reached is not None and reached != self._written:
            self._run.record_at_least(reached)
            self._written = reached

    def _write_in_background(self) -> None:
        with suppress(RegistryError):  # the next writing tries again, the last one raises it
            self.flush()
