"""A connection pool that soon closes what is not used.

A server has few connections, 100 by default, and many trainers may share it. Each needs several at
moments, and none, or one that waits for commits, most of the time. So a connection that was idle
for `IDLE` seconds is closed. A thread does this, which runs only while there are idle connections.
The connection that was returned last is used next, so that the others become idle.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any
from weakref import ReferenceType, ref

from sqlalchemy.pool import ConnectionPoolEntry, Pool

IDLE = 3.0
"""Seconds after which an idle connection is closed, at least."""
_INTERVAL = 0.5
"""Seconds between two checks for idle connections."""


class ExpiringPool(Pool):
    """A pool without a limit, whose idle connections are closed after `IDLE` seconds. Thread-safe.

    In a forked child, it closes no connection: the parent uses it.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # The one that was used last is at the right end. Appending and popping are atomic.
        self._idle: deque[tuple[float, ConnectionPoolEntry]] = deque()
        self._in_use: set[ConnectionPoolEntry] = set()
        self._process = os.getpid()

    def checkedout(self) -> int:
        """Return how many connections are in use."""
        return len(self._in_use)

    def _do_get(self) -> ConnectionPoolEntry:
        try:
            entry = self._idle.pop()[1]
        except IndexError:
            entry = self._create_connection()
        self._in_use.add(entry)
        return entry

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        self._in_use.discard(record)
        self._idle.append((time.monotonic(), record))
        if self._process == os.getpid():
            _closer.watch(self)

    def close_idle(self, seconds: float) -> bool:
        """Close the connections that were idle for so long; return whether there are others."""
        # Another thread may take the last one at any time.
        with suppress(IndexError):
            while True:
                if time.monotonic() - self._idle[0][0] < seconds:
                    return True
                self._idle.popleft()[1].close()
        return False

    def recreate(self) -> ExpiringPool:
        return type(self)(
            self._creator,
            echo=self.echo,
            logging_name=self._orig_logging_name,
            reset_on_return=self._reset_on_return,
            _dispatch=self.dispatch,
            dialect=self._dialect,
        )

    def dispose(self) -> None:
        with suppress(IndexError):
            while True:
                self._idle.pop()[1].close()

    def status(self) -> str:
        return f"connections in use: {self.checkedout()}, idle: {len(self._idle)}"


class _Closer:
    """The thread that closes idle connections of all pools."""

    def __init__(self) -> None:
        # No WeakSet: it must not grow while another thread iterates over it.
        self._pools: set[ReferenceType[ExpiringPool]] = set()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._starting = threading.Lock()

    def watch(self, pool: ExpiringPool) -> None:
        """Close the connections of a pool that has idle ones, when their time has come."""
        if ref(pool) not in self._pools:
            self._pools.add(ref(pool, self._pools.discard))
        if self._thread is None:
            self._start()

    def stop(self) -> None:
        """End the thread, and wait until it has ended."""
        thread = self._thread
        self._ended.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=1)

    def _start(self) -> None:
        # Not waited for: whoever holds it starts the thread.
        if not self._starting.acquire(blocking=False):
            return
        try:
            if self._thread is None:
                self._ended = threading.Event()
                thread = threading.Thread(
                    target=self._run, args=(self._ended,), name="registry-idle", daemon=True
                )
                self._thread = thread
                thread.start()
        except RuntimeError:  # the interpreter is being finalized
            self._thread = None
        finally:
            self._starting.release()

    def _run(self, ended: threading.Event) -> None:
        while not ended.wait(_INTERVAL):
            if not self.close_idle(IDLE):
                self._thread = None
                # A connection that was returned just before found the thread still there.
                if self.close_idle(IDLE):
                    self._start()
                return
        self._thread = None

    def close_idle(self, seconds: float) -> bool:
        """Do as `ExpiringPool.close_idle` in all pools."""
        pools = [reference() for reference in self._pools.copy()]
        others = [pool.close_idle(seconds) for pool in pools if pool is not None]
        return any(others)


_closer = _Closer()


def _before_fork() -> None:
    # Python warns of a fork while there are threads, and this one could be forked in the middle of
    # closing a connection.
    _closer.stop()
    # Nothing would close them later, if they are not used again.
    _closer.close_idle(0)


def _in_child() -> None:
    global _closer  # noqa: PLW0603  # the child has no such thread, and its pools are the parent's
    _closer = _Closer()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_in_child)
