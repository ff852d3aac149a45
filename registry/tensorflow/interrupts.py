"""Noticing Ctrl-C while the main thread waits inside TensorFlow.

Python calls the handler of a signal when its main thread runs Python again, which it does not
while TensorFlow waits there for the next batch. But the operating system's handler, which Python
installed, writes the signal's number to the "wakeup" file descriptor at once. So whoever makes the
next batch, in another thread, reads that and gives up, and the main thread returns to Python.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

_lock = threading.Lock()
_pipe: tuple[int, int] | None = None
_pressed = 0


def watch() -> None:
    """Have Ctrl-C counted from now on, unless an event loop has the signals' numbers written to it.

    Only the main thread can do so; in others this does nothing.
    """
    global _pipe  # noqa: PLW0603  # a process has one wakeup file descriptor
    if threading.current_thread() is not threading.main_thread():
        return
    if _pipe is None:
        _pipe = os.pipe()
        for end in _pipe:
            os.set_blocking(end, False)
    before = signal.set_wakeup_fd(_pipe[1], warn_on_full_buffer=False)
    if before not in (-1, _pipe[1]):
        signal.set_wakeup_fd(before)


def count() -> int:
    """Return how many times Ctrl-C was pressed, as far as it was watched."""
    global _pressed  # noqa: PLW0603  # as the descriptor
    with _lock:
        if _pipe is not None:
            with suppress(BlockingIOError):
                _pressed += os.read(_pipe[0], 4096).count(signal.SIGINT)
        return _pressed


def _forget() -> None:
    """Leave the pipe to the parent process, whose signals these are."""
    global _pipe, _lock  # noqa: PLW0603
    _lock = threading.Lock()
    if _pipe is None:
        return
    before = signal.set_wakeup_fd(-1)
    if before not in (-1, _pipe[1]):
        signal.set_wakeup_fd(before)
    for end in _pipe:
        os.close(end)
    _pipe = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
