"""The lock between the processes that write a mirror's files, if it is free.

Each batch of new rows takes it once. `FileLock` needs longer for that than it takes to write the
rows, so it serves only where it is waited for, and where the operating system has no ``flock``.
Both lock the same file, and so exclude each other.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_FLAGS = os.O_RDWR | os.O_CREAT
_held: set[int] = set()
"""The descriptors of lock files that are open, by which a forked child would share the locks."""


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Yield whether no other process, and no other thread, holds a lock; the block then holds it.

    The file's folder is created if there is none. Raises `OSError` if the file cannot be opened.
    """
    try:
        descriptor = os.open(path, _FLAGS, 0o644)
    except FileNotFoundError:
        # Somebody has removed the mirror, which is then created again, as by `FileLock`.
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, _FLAGS, 0o644)
    _held.add(descriptor)
    try:
        locked = _lock(descriptor)
        if locked is not None:
            yield locked
            return
    finally:
        # In a forked child, `_in_child` has closed it.
        if descriptor in _held:
            _held.discard(descriptor)
            _unlock(descriptor)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


if sys.platform == "win32":

    def _lock(_: int) -> None:
        return None

    def _unlock(descriptor: int) -> None:
        os.close(descriptor)

else:
    import fcntl

    def _lock(descriptor: int) -> bool | None:
        """Lock a file; return False if it is locked already, and None where there is no flock."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the latter on some network file systems
            return False
        except OSError as error:
            if error.errno == errno.ENOSYS:
                return None
            raise
        return True

    def _unlock(descriptor: int) -> None:
        # Closing is not enough: a child that was forked meanwhile may have the descriptor, too.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)


def _in_child() -> None:
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
