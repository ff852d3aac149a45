"""Keeps connections and locks usable across a fork of the process.

Before a fork, idle SQLite connections are closed. In the child, every engine gets an empty pool,
without closing the parent's connections, and every `ThreadLock` is replaced by a free one. A SQLite
file that another thread was using at that moment is unsafe in the child, and `check` raises.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType
from weakref import WeakSet

from sqlalchemy import Engine

from registry.errors import DatabaseError

_engines: WeakSet[Engine] = WeakSet()
_parents: list[object] = []
"""The parent's pools, kept alive in the child: collecting one could close its connections."""
_in_use: set[str] = set()
"""In a child, the SQLite files that were in use at the moment of the fork."""
_locks: WeakSet[ThreadLock] = WeakSet()


class ThreadLock:
    """A reentrant lock between threads that is free in a forked child.

    A plain lock would deadlock there: the thread that held it at the moment of the fork does not
    exist in the child, so nothing ever releases it.
    """

    def __init__(self) -> None:
        self.renew()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Replace the lock by a free one, even if a thread holds it. Only safe in a new child."""
        self._lock = threading.RLock()


def watch(engine: Engine) -> None:
    """Keep a forked child from using the connections of this engine, which the parent opened."""
    _engines.add(engine)


def check(engine: Engine) -> None:
    """Raise `DatabaseError` if a fork has made the engine's SQLite file unsafe in this process."""
    if _in_use and _file(engine) in _in_use:
        raise DatabaseError(
            f"{engine.url} was being read or written by another thread when this process was "
            "forked from it, so that its locks do not hold here; fork before that, or start "
            "processes by multiprocessing's 'spawn'"
        )


def _before() -> None:
    # SQLite counts its file locks in process memory, and the operating system does not pass them to
    # a child. A child that inherits an open file believes that it holds the locks, and would write
    # to a WAL that other processes may remove at any time. https://www.sqlite.org/howtocorrupt.html
    for engine in list(_engines):
        if engine.dialect.name == "sqlite" and not _used(engine):
            engine.dispose()


def _in_child() -> None:
    for engine in list(_engines):
        if engine.dialect.name == "sqlite" and _used(engine):
            _in_use.add(_file(engine))
        # Closing the connections here would end the parent's sessions: both processes share the
        # sockets, and PostgreSQL would read the child's Terminate message as the parent's.
        _parents.append(engine.pool)
        engine.dispose(close=False)
    for lock in list(_locks):
        lock.renew()


def _used(engine: Engine) -> bool:
    count: int = engine.pool.checkedout()  # type: ignore[attr-defined]  # a QueuePool
    return count > 0


def _file(engine: Engine) -> str:
    return os.path.realpath(engine.url.database or "")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)
