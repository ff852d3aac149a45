"""The position up to which a mirror's records were scanned for damage.

The file ``scanned`` holds that position with the inode, size and modification time that the files
of the records and their values had then. When one of these has changed, somebody else has written
to a file, and all rows are scanned again.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from registry.storage.mirror.layout import file_path, top_path
from registry.storage.mirror.state import MirrorState
from registry.storage.mirror.state_file import read_fields, write_fields


def scanned_until(folder: Path, state: MirrorState) -> int:
    """Return the position up to which the records are known to be undamaged; 0 if unknown."""
    fields = read_fields(top_path(folder, "scanned"))
    if fields is None or fields["file"] != _fingerprint(folder, state):
        return 0
    return int(fields["until"])


def record_scan(folder: Path, state: MirrorState, until: int) -> None:
    """Record that the rows ``[0, until)`` are undamaged.

    Whoever writes to the records calls this again: the write has changed the modification time, and
    without a new entry the next reader scans the whole file.
    """
    with suppress(OSError):  # then they are scanned again
        write_fields(
            top_path(folder, "scanned"), {"file": _fingerprint(folder, state), "until": until}
        )


def _fingerprint(folder: Path, state: MirrorState) -> list[int]:
    # The time in ns: two writes within one second would otherwise look like one.
    names = ("records", "values") if state.sizes["values"] else ("records",)
    each = (file_path(folder, state.generation, name).stat() for name in names)
    return [item for one in each for item in (one.st_ino, one.st_size, one.st_mtime_ns)]
