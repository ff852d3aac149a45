"""Detecting Ctrl-C while the main thread waits inside TensorFlow.

Python calls a signal's handler only when its main thread runs Python code. It runs none while it
waits in TensorFlow for the next batch. But the C handler, which Python installed, writes the
signal's number to the "wakeup" file descriptor at once. So the thread that makes the next batch
reads the descriptor and raises an error, and the main thread returns to Python.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

_lock = threading.Lock()
_pipe: tuple[int, int] | None = None
_pressed = 0
"""How often Ctrl-C was pressed; guarded by the lock, as reading the pipe is."""


def watch() -> None:
    """Count Ctrl-C from now on, unless an event loop has set the wakeup file descriptor.

    Only the main thread can set the descriptor. In other threads this does nothing.
    """
    global _pipe  # noqa: PLW0603  # a process has one wakeup file descriptor
    if threading.current_thread() is not threading.main_thread():
        return
    if _pipe is None:
        _pipe = os.pipe()
        # `set_wakeup_fd` refuses a blocking descriptor, and `count` must not wait for a signal.
        for end in _pipe:
            os.set_blocking(end, False)
    before = signal.set_wakeup_fd(_pipe[1], warn_on_full_buffer=False)
    # There is no way to read the descriptor without setting it. asyncio's must be put back, or its
    # loop would no longer wake up for signals.
    if before not in (-1, _pipe[1]):
        signal.set_wakeup_fd(before)


def count() -> int:
    """Return how often Ctrl-C was pressed since `watch` was first called. Thread-safe."""
    global _pressed  # noqa: PLW0603  # as the descriptor
    with _lock:
        if _pipe is not None:
            with suppress(BlockingIOError):
                _pressed += os.read(_pipe[0], 4096).count(signal.SIGINT)
        return _pressed


def _forget() -> None:
    """Close the child's ends of the pipe after a fork.

    The child shares the pipe with its parent: it would read the parent's signals, and write its own
    for the parent to read.
    """
    global _pipe, _lock  # noqa: PLW0603
    # Another thread of the parent may have held the lock, which nobody would release here.
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
