"""Detecting that the database holds another history than the one that was trained on.

A database restored from an older dump has lost epochs that were trained on, and may pin other data
under their numbers. The last epoch of each run is therefore also stored in a file next to the
mirror, and is compared with the database before an epoch is used.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path

from registry.errors import DivergenceError
from registry.storage.log.reader import Log
from registry.storage.mirror.state_file import read_fields, write_fields
from registry.training.mirror_source import Sources
from registry.training.pin_store import Pin, PinInLog, find_with_log
from registry.training.run_store import RunSettings


class PinMemory:
    """The last epoch of one run that this machine has used, in memory and in a file.

    Without a cache directory, only this process remembers it.
    """

    def __init__(self, log: Log, run: RunSettings, sources: Sources) -> None:
        self._log = log
        self._run = run
        self._sources = sources
        self._last: Pin | None = None

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
            self._check(last, pins.get(last.number))
        return pins.get(number)

    def remember(self, pin: Pin) -> None:
        """Store an epoch unless a later one is stored."""
        last = self._recall()
        # A replay of an earlier epoch must not hide that the run was further.
        if last is not None and last.number >= pin.number:
            return
        self._last = pin
        with suppress(OSError):  # without a cache directory, only this process remembers
            path = self._path()
            path.parent.mkdir(exist_ok=True)
            write_fields(path, {**asdict(pin), "chain": pin.chain.hex()})

    def _recall(self) -> Pin | None:
        # Read each time: another process of the run may have reached a later epoch.
        with suppress(OSError):
            if fields := read_fields(self._path()):
                stored = Pin(**{**fields, "chain": bytes.fromhex(fields["chain"])})
                if self._last is None or stored.number > self._last.number:
                    self._last = stored
        return self._last

    def _check(self, last: Pin, stored: PinInLog | None) -> None:
        if stored is None:
            reason = "the database knows of no such epoch"
        elif stored.pin != last:
            reason = f"the database pinned it at position {stored.pin.log_end}"
        elif stored.chain != last.chain:
            reason = "the database's log has another chain there"
        else:
            return
        raise DivergenceError(
            f"run {self._run.name!r} reached epoch {last.number} at position {last.log_end} on "
            f"this machine, but {reason}{self._common(last)}. Was it restored from a dump? Restore "
            "the newer database, or continue under another run's name"
        )

    def _path(self) -> Path:
        # Hashed, as a run's name may hold characters that no file name can.
        name = blake2b(self._run.name.encode(), digest_size=16).hexdigest()
        return self._sources.mirror().folder / "runs" / f"{name}.json"

    def _common(self, last: Pin) -> str:
        """Return the part of the message that says how far the logs agree, if that is known."""
        with suppress(OSError):
            position = self._sources.mirror().shared_with(last.log_end)
            if position is not None:
                return f"; the logs agree up to position {position}"
        return ""
