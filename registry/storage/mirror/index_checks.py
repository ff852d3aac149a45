"""Which indexes have been checked since their file of entries was last written to.

The file ``checked`` has, for each index that was checked, the inode, size and modification time
that its entries had then. When one of these has changed, they are checked again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from registry.storage.mirror.state_file import read_fields, write_fields

INDEX_FOLDER = "epochs"
"""The folder of a mirror that has its indexes."""
REMEMBERED = 16
"""How many indexes are remembered, at most."""


class IndexChecks:
    """The checks of the indexes in a folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "checked"

    def names(self, entries: Path) -> list[str]:
        """Return the indexes whose entries, in this file, are known to be undamaged."""
        fingerprint = _fingerprint(entries)
        return [name for name, known in self._read().items() if known == fingerprint]

    def record(self, names: Sequence[str], entries: Path) -> None:
        """Record that the entries of some indexes, in this file, are undamaged."""
        with suppress(OSError, ValueError):  # then they are checked again
            fingerprint = _fingerprint(entries)
            others = {name: known for name, known in self._read().items() if name not in names}
            known = [*others.items(), *((name, fingerprint) for name in names)]
            write_fields(self._path, {"indexes": dict(known[-REMEMBERED:])})

    def forget(self) -> None:
        """Have all indexes checked again."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, list[int]]:
        fields = read_fields(self._path)
        return {} if fields is None else fields["indexes"]


def _fingerprint(path: Path) -> list[int]:
    # The time in ns: two writes within one second would otherwise look like one.
    status = path.stat()
    return [status.st_ino, status.st_size, status.st_mtime_ns]
