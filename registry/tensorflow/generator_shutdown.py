"""Ending Python generators, and TensorFlow's calls of them, before the interpreter is finalized.

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
_calls = set[object]()
"""An object for each call that is running.

There is no lock: a thread that waited for it could not be ended by one that holds it while it
collects garbage (`generator_thread`). Adding and removing take one step each.
"""


def has_begun() -> bool:
    """Return whether the process is about to end, so that generators must not continue."""
    return _begun.is_set()


@contextmanager
def running_call() -> Iterator[None]:
    """Know of a call of a generator while the block runs."""
    call = object()
    _calls.add(call)
    try:
        yield
    finally:
        _calls.discard(call)


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


atexit.register(_end_generators)
if hasattr(os, "register_at_fork"):
    # The child has none of the parent's threads.
    os.register_at_fork(after_in_child=_calls.clear)
