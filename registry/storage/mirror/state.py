"""The state of a mirror: how many rows its files hold, and how many bytes of each file count.

The file ``state`` is replaced atomically (`state_file`), after the rows that it counts are written.
Bytes past the sizes in it are a torn tail, left by a writer that was killed, and nobody reads them.

`StateReader` checks the files that are read as a whole against the state's checksums. Files only
grow, so each process checks only what was appended since it last did.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from registry.storage.log.watermark import GENESIS, Watermark
from registry.storage.mirror.layout import ERASED, FILES, SUMMED, file_path, top_path
from registry.storage.mirror.state_file import read_fields, write_fields

FORMAT = 4
"""A mirror in another format is not read, but filled again from the database."""
FORMER = 2, 3
"""Formats before. They differ only where records vary in width: format 2 had a file ``places``, and
format 3 other sums of values."""
_FORMER_VALUES = "former values"
"""What stands for ``values`` in the sizes of a mirror whose values are in a format before."""
_READ_BYTES = 4 << 20
"""Bytes of a file that are read, and copied, at a time: whole parts of 2 MiB, as in `appender`."""


@dataclass(frozen=True)
class MirrorState:
    """What a mirror holds: the first ``position`` rows of the log, after which it has this chain.

    ``chain`` is 32 hexadecimal digits. ``sizes`` are the bytes of each file that count, ``sums``
    the CRC-32 of those in `SUMMED`. ``parted`` is the lowest position at which the mirror was ever
    cut back because the database held another history; None if it never was. ``layout`` is the
    `Schema.layout` of the records, empty for that of the log's first schema.
    """

    # The fields' names are those of the JSON in the file: renaming one changes the format.
    generation: int
    position: int
    chain: str
    sizes: dict[str, int]
    sums: dict[str, int]
    parted: int | None = None
    # Not a schema's number: a database that was restored may give the number to another schema.
    layout: str = ""

    @classmethod
    def empty(cls, generation: int, layout: str = "") -> MirrorState:
        """Return the state of a generation without rows."""
        sizes, sums = dict.fromkeys(FILES, 0), dict.fromkeys(SUMMED, 0)
        return cls(generation, 0, GENESIS.hex(), sizes, sums, layout=layout)

    @property
    def is_former(self) -> bool:
        """Whether the records are in a format before, which is not read any more."""
        return _FORMER_VALUES in self.sizes

    @property
    def watermark(self) -> Watermark:
        """The position and the chain at the end of the mirror."""
        return Watermark(self.position, bytes.fromhex(self.chain))

    @property
    def erased(self) -> int:
        """The number of the database's erasures that are applied here."""
        return self.sizes["erased"] // ERASED.itemsize


def load_state(folder: Path) -> MirrorState | None:
    """Read the state; None if there is none, it is damaged or of an unknown format."""
    fields = read_fields(top_path(folder, "state"))
    number = None if fields is None else fields.pop("format")
    if fields is None or number not in (*FORMER, FORMAT):
        return None
    if number != FORMAT:
        sizes = fields["sizes"]
        # Without values, the files are the same as now.
        values = sizes.pop("places" if number == 2 else "values")
        sizes["values" if not values else _FORMER_VALUES] = values
    return MirrorState(**fields)


def publish_state(folder: Path, state: MirrorState) -> None:
    """Make a state the current one, atomically. The caller holds the mirror's lock."""
    write_fields(top_path(folder, "state"), {"format": FORMAT, **vars(state)})


def checksum(file: BinaryIO, length: int, start: int, copy: BinaryIO | None = None) -> int:
    """Return the CRC-32 of a file's next ``length`` bytes, continued from ``start``.

    ``start`` is the CRC-32 of the bytes before. The bytes are also written to ``copy``, if given.
    """
    while length and (data := file.read(min(length, _READ_BYTES))):
        start, length = crc32(data, start), length - len(data)
        if copy is not None:
            copy.write(data)
    return start


class StateReader:
    """Reads a mirror's state and checks its files against it. Safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._checked: MirrorState | None = None

    def load(self) -> MirrorState | None:
        """Read the state; None unless the files have its sizes and sums, and can be read."""
        state = load_state(self._folder)
        # The lengths first: the sums of a file that is too short could not be computed.
        if state is None or state.is_former or not self._complete(state):
            return None
        if state != self._checked and not self._sums_match(state):
            return None
        self._checked = state
        return state

    def trust(self, state: MirrorState) -> None:
        """Take a state as checked: this process has just written what it counts."""
        self._checked = state

    def _complete(self, state: MirrorState) -> bool:
        """Return whether every file is at least as long as the state says.

        A shorter one must not be mapped: reading past its end would kill the process by SIGBUS.
        """
        try:
            return all(
                not size or file_path(self._folder, state.generation, name).stat().st_size >= size
                for name, size in state.sizes.items()
            )
        except FileNotFoundError:
            return False

    def _sums_match(self, state: MirrorState) -> bool:
        """Return whether the sums match, reading only what this process has not checked before."""
        checked = self._checked
        # A state that was cut back, or is of other files, says nothing about these bytes.
        if (
            checked is None
            or checked.generation != state.generation
            or any(checked.sizes[name] > state.sizes[name] for name in SUMMED)
        ):
            checked = MirrorState.empty(state.generation)
        try:
            for name in SUMMED:
                with file_path(self._folder, state.generation, name).open("rb") as file:
                    file.seek(checked.sizes[name])
                    length = state.sizes[name] - checked.sizes[name]
                    if checksum(file, length, checked.sums[name]) != state.sums[name]:
                        return False
        except FileNotFoundError:  # another process has removed this generation
            return False
        return True
