"""What a fork does to open connections and locks: they stay the parent's; the child has its own."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from weakref import WeakSet

from sqlalchemy import Engine

from registry.errors import DatabaseError

_engines: WeakSet[Engine] = WeakSet()
_parents: list[object] = []
_in_use: set[str] = set()
"""SQLite files in use at the moment of the fork, in the child."""
_locks: WeakSet[ThreadLock] = WeakSet()


class ThreadLock:
    """A reentrant lock between threads that is free in a forked child.

    A thread that held it at the moment of the fork does not exist there, so that nobody would ever
    release it.
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
        """Make it free, whoever holds it."""
        self._lock = threading.RLock()


def watch(engine: Engine) -> None:
    """Have the engine's connections stay with the process that made them."""
    _engines.add(engine)


def check(engine: Engine) -> None:
    """Raise `DatabaseError` where a fork has made the engine's file unsafe in this process."""
    if _in_use and _file(engine) in _in_use:
        raise DatabaseError(
            f"{engine.url} was being read or written by another thread when this process was "
            "forked from it, so that its locks do not hold here; fork before that, or start "
            "processes by multiprocessing's 'spawn'"
        )


def _before() -> None:
    # SQLite's locks are counted in the process, and held by it: a child that inherits an open file
    # believes it holds them, too, and would write into a log that others then remove.
    for engine in list(_engines):
        if engine.dialect.name == "sqlite" and not _used(engine):
            engine.dispose()


def _in_child() -> None:
    for engine in list(_engines):
        if engine.dialect.name == "sqlite" and _used(engine):
            _in_use.add(_file(engine))
        _parents.append(engine.pool)  # to close its connections would say goodbye for the parent
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
