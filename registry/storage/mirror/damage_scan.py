"""Up to where a mirror's records were looked through for damage, going by their file's times."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from registry.storage.mirror import layout
from registry.storage.mirror.layout import State
from registry.storage.mirror.state_file import read_summed, write_summed


def sound(folder: Path, state: State) -> int:
    """Return up to where the records are known to be undamaged."""
    found = read_summed(folder / "scanned")
    if found is None or found["file"] != _look(folder, state):
        return 0
    return int(found["until"])


def stamp(folder: Path, state: State, until: int) -> None:
    """Note that the records are undamaged up to a position."""
    with suppress(OSError):  # then they are looked through again
        write_summed(folder / "scanned", {"file": _look(folder, state), "until": until})


def _look(folder: Path, state: State) -> list[int]:
    found = layout.path(folder, state.generation, "records").stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns]
