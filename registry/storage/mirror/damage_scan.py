"""The position up to which a mirror's records were scanned for damage.

The file ``scanned`` holds that position with the inode, size and modification time that the records
had then. When one of these has changed, somebody else has written to the file, and all of it is
scanned again.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from registry.storage.mirror import layout
from registry.storage.mirror.layout import State
from registry.storage.mirror.state_file import read_summed, write_summed


def sound(folder: Path, state: State) -> int:
    """Return the position up to which the records are known to be undamaged; 0 if unknown."""
    found = read_summed(folder / "scanned")
    if found is None or found["file"] != _look(folder, state):
        return 0
    return int(found["until"])


def stamp(folder: Path, state: State, until: int) -> None:
    """Record that the rows ``[0, until)`` are undamaged.

    Whoever writes to the records calls this again: the write has changed the modification time, and
    without a new stamp the next reader scans the whole file.
    """
    with suppress(OSError):  # then they are scanned again
        write_summed(folder / "scanned", {"file": _look(folder, state), "until": until})


def _look(folder: Path, state: State) -> list[int]:
    found = layout.path(folder, state.generation, "records").stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns]
