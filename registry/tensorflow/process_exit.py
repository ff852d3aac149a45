"""Ending Python generators in TensorFlow's threads before the interpreter ends.

Once the interpreter is being finalized, a thread that asks for the GIL is ended by Python in the
middle of TensorFlow's code. The main thread then destroys the iterators, waits for that thread,
and never returns. So before the finalization begins, generators end at their next call, and the
process waits until no call is left.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST_WAIT = 5.0
"""Seconds; a generator may be waiting for its database."""
_QUIET = 0.05
"""Seconds without a call, after which TensorFlow is taken to make no other."""
_closing = threading.Event()
_lock = threading.Lock()
_calls = 0
"""How many generators are being called; guarded by the lock."""


def is_near() -> bool:
    """Return whether the process ends: generators must not continue."""
    return _closing.is_set()


@contextmanager
def generator_call() -> Iterator[None]:
    """Count a call of a generator while the block runs."""
    global _calls  # noqa: PLW0603  # the process has one end
    with _lock:
        _calls += 1
    try:
        yield
    finally:
        with _lock:
            _calls -= 1


def _wait() -> None:
    _closing.set()
    deadline = time.monotonic() + _LONGEST_WAIT
    quiet_since = time.monotonic()
    while (now := time.monotonic()) < deadline and now - quiet_since < _QUIET:
        if _calls:
            quiet_since = now
        time.sleep(0.01)


def _forget() -> None:
    """Forget the parent's calls in a forked child, in which its threads do not run."""
    global _calls, _lock  # as above
    _lock, _calls = threading.Lock(), 0


atexit.register(_wait)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
