"""Leases of a mirror's files: while one is held, no process removes the file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from mmap import PROT_READ, mmap
from pathlib import Path
from typing import Self

from registry.storage.mirror.layout import lock_file


@dataclass(frozen=True)
class FileLease:
    """A shared lock on a file, which no process removes while this object lives.

    The mapping duplicates the file's descriptor, so the lock outlives the file object that took it.
    """

    mapping: mmap
    status: os.stat_result

    @classmethod
    def lock(cls, path: Path) -> Self:
        """Lock a file; raises `BlockingIOError` if another process is removing it."""
        with path.open("rb") as file:
            lock_file(file)
            # One byte is enough: only the descriptor that the mapping duplicates is of use.
            return cls(mmap(file.fileno(), 1, prot=PROT_READ), os.fstat(file.fileno()))

    def covers(self, path: Path) -> bool:
        """Return whether the file at the path is still the one that is locked."""
        try:
            return os.path.samestat(self.status, path.stat())
        except FileNotFoundError:
            return False

    def checked(self, path: Path) -> Self:
        """Return the lease; raises `FileNotFoundError` unless it `covers` the path."""
        # It may have been removed between opening and locking.
        if not self.covers(path):
            raise FileNotFoundError(path)
        return self
