"""Detecting that the database holds another history than the one that was trained on.

A database restored from an older dump has lost epochs that were trained on, and may pin other data
under their numbers. The last epoch of each run is therefore also stored in a file next to the
mirror, and is compared with the database before an epoch is used.

A run that was removed is no such loss: what is remembered of it is forgotten, and a new run of its
name begins.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from hashlib import blake2b
from pathlib import Path

from registry.errors import DivergenceError
from registry.storage.log.reader import Log
from registry.storage.mirror.state_file import read_fields, write_fields
from registry.training import run_store
from registry.training.pin_store import Pin, PinInLog, find_with_log
from registry.training.run_store import RunSettings
from registry.training.sources import Sources


class PinMemory:
    """The last epoch of one run that this machine has used, in memory and in a file.

    Without a cache directory, only this process remembers it.
    """

    def __init__(self, log: Log, run: RunSettings, sources: Sources) -> None:
        self._log = log
        self._run = run
        self._sources = sources
        self._last: Pin | None = None
        self._created_at: str | None = run.created_at.isoformat()
        """When the run of the last epoch was created; None in files that do not say it."""
        self._forgotten: set[str | None] = set()
        self._file: tuple[Path, Path] | None = None
        """The mirror's folder, and the run's file in it."""

    @property
    def last(self) -> Pin | None:
        """The last epoch that is remembered. `find` has checked it against the database."""
        return self._last

    def find(self, number: int) -> PinInLog | None:
        """Read an epoch from the database; None while it is not pinned.

        Raises `DivergenceError` unless the database also has the epoch that is remembered.
        """
        last = self._recall()
        known = None if last is None else last.number
        # Both epochs in one statement: the check and the result must be of the same snapshot.
        pins = find_with_log(self._log.engine, self._run, number, known)
        if last is not None:
            difference = self._difference(last, pins.get(last.number))
            if difference is not None:
                self._forget_if_removed(last, difference)
        return pins.get(number)

    def remember(self, pin: Pin) -> None:
        """Store an epoch unless a later one is stored."""
        last = self._recall()
        # A replay of an earlier epoch must not hide that the run was further.
        if last is not None and last.number >= pin.number:
            return
        self._last, self._created_at = pin, self._run.created_at.isoformat()
        with suppress(OSError):  # without a cache directory, only this process remembers
            path = self._path()
            fields = {**vars(pin), "chain": pin.chain.hex(), "created_at": self._created_at}
            try:
                write_fields(path, fields)
            except FileNotFoundError:
                path.parent.mkdir(exist_ok=True)
                write_fields(path, fields)

    def _recall(self) -> Pin | None:
        # Read each time: another process of the run may have reached a later epoch.
        with suppress(OSError):
            if fields := read_fields(self._path()):
                created_at = fields.pop("created_at", None)
                stored = Pin(**{**fields, "chain": bytes.fromhex(fields["chain"])})
                if created_at not in self._forgotten and (
                    self._last is None or stored.number > self._last.number
                ):
                    self._last, self._created_at = stored, created_at
        return self._last

    @staticmethod
    def _difference(last: Pin, stored: PinInLog | None) -> str | None:
        """Return how the database differs from what is remembered; None if it does not."""
        if stored is None:
            return "the database knows of no such epoch"
        if stored.pin != last:
            return f"the database pinned it at position {stored.pin.log_end}"
        if stored.chain != last.chain:
            return "the database's log has another chain there"
        return None

    def _forget_if_removed(self, last: Pin, difference: str) -> None:
        """Forget an epoch of a run that was removed; raise an error if it was not.

        Raises `RunNotFoundError` if the run that was removed is this one, else `DivergenceError`.
        """
        run, created_at = self._run, self._created_at
        since = None if created_at is None else datetime.fromisoformat(created_at)
        if not run_store.was_removed(self._log.engine, run, since):
            raise DivergenceError(
                f"run {run.name!r} reached epoch {last.number} at position {last.log_end} on "
                f"this machine, but {difference}{self._common(last)}. Was it restored from a dump? "
                "Restore the newer database, or continue under another run's name"
            )
        # This run has no row any more if it is the one that was removed.
        run_store.consumed(self._log.engine, run)
        self._forgotten.add(created_at)
        self._last = None

    def _path(self) -> Path:
        folder = self._sources.mirror().folder
        if self._file is None or self._file[0] is not folder:
            # Hashed, as a run's name may hold characters that no file name can.
            name = blake2b(self._run.name.encode(), digest_size=16).hexdigest()
            self._file = folder, folder / "runs" / f"{name}.json"
        return self._file[1]

    def _common(self, last: Pin) -> str:
        """Return the part of the message that says how far the logs agree, if that is known."""
        with suppress(OSError):
            position = self._sources.mirror().shared_with(last.log_end)
            if position is not None:
                return f"; the logs agree up to position {position}"
        return ""
