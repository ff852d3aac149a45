"""Ending Python generators in TensorFlow's threads before the interpreter is finalized.

How it works: at exit, before the finalization, a flag is set, and generators end at their next
call. Then the process waits until no call has run for a moment.

Why: once the interpreter is being finalized, Python ends any thread that asks for the GIL, in the
middle of TensorFlow's code. The main thread then destroys the iterators, waits for that thread, and
never returns.
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
_begun = threading.Event()
_lock = threading.Lock()
_calls = 0
"""How many generators are being called; guarded by the lock."""


def has_begun() -> bool:
    """Return whether the process is about to end, so that generators must not continue."""
    return _begun.is_set()


@contextmanager
def running_call() -> Iterator[None]:
    """Count a call of a generator while the block runs."""
    global _calls  # noqa: PLW0603  # the process has one end
    with _lock:
        _calls += 1
    try:
        yield
    finally:
        with _lock:
            _calls -= 1


def _end_generators() -> None:
    _begun.set()
    deadline = time.monotonic() + _LONGEST_WAIT
    quiet_since = time.monotonic()
    # Not merely until no call runs: between two calls of a generator, TensorFlow is on its way to
    # the next, which would ask for the GIL after the finalization began.
    while (now := time.monotonic()) < deadline and now - quiet_since < _QUIET:
        if _calls:
            quiet_since = now
        # The sleep releases the GIL, without which the calls could not end.
        time.sleep(0.01)


def _forget_calls() -> None:
    """Forget the parent's calls in a forked child, in which its threads do not run."""
    global _calls, _lock  # as above
    # Another thread of the parent may have held the lock, which nobody would release here.
    _lock, _calls = threading.Lock(), 0


atexit.register(_end_generators)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_calls)
