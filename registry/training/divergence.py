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
from registry.storage.mirror.state_file import read_summed, write_summed
from registry.training import run_store as runs
from registry.training.mirror_source import Sources


class PinMemory:
    """The last epoch of one run that this machine has seen, in memory and in a file.

    Without a cache directory, only this process remembers it.
    """

    def __init__(self, log: Log, run: runs.Settings, sources: Sources) -> None:
        self._log = log
        self._run = run
        self._sources = sources
        self._last: runs.Pin | None = None

    @property
    def last(self) -> runs.Pin | None:
        """The last epoch that is remembered. `look` has checked it against the database."""
        return self._last

    def look(self, number: int) -> runs.Seen | None:
        """Read an epoch from the database; None while it is not pinned.

        Raises `DivergenceError` unless the database also has the epoch that is remembered.
        """
        last = self._recall()
        known = None if last is None else last.number
        # Both epochs in one statement: the check and the result must be of the same snapshot.
        seen = runs.look(self._log.engine, self._run, number, known)
        if last is not None:
            self._check(last, seen.get(last.number))
        return seen.get(number)

    def remember(self, pin: runs.Pin) -> None:
        """Store an epoch unless a later one is stored."""
        last = self._recall()
        if last is not None and last.number >= pin.number:
            return
        self._last = pin
        with suppress(OSError):  # without a cache directory, only this process remembers
            path = self._path()
            path.parent.mkdir(exist_ok=True)
            write_summed(path, {**asdict(pin), "chain": pin.chain.hex()})

    def _recall(self) -> runs.Pin | None:
        # Read each time: another process of the run may have reached a later epoch.
        with suppress(OSError):
            if fields := read_summed(self._path()):
                kept = runs.Pin(**{**fields, "chain": bytes.fromhex(fields["chain"])})
                if self._last is None or kept.number > self._last.number:
                    self._last = kept
        return self._last

    def _check(self, last: runs.Pin, seen: runs.Seen | None) -> None:
        if seen is None:
            said = "the database knows of no such epoch"
        elif seen.pin != last:
            pin = seen.pin
            said = f"the database pinned it at position {pin.watermark} ({pin.chain.hex()})"
        elif seen.chain != last.chain:
            said = "the database's log has another chain there"
        else:
            return
        raise DivergenceError(
            f"run {self._run.name!r} reached epoch {last.number} at position {last.watermark} "
            f"({last.chain.hex()}) on this machine, but {said}{self._shared(last)}. Was it "
            "restored from a dump? Restore the newer database, or go on under another run's name"
        )

    def _path(self) -> Path:
        # Hashed, as a run's name may hold characters that no file name can.
        name = blake2b(self._run.name.encode(), digest_size=16).hexdigest()
        return self._sources.mirror().folder / "runs" / f"{name}.json"

    def _shared(self, last: runs.Pin) -> str:
        with suppress(OSError):
            position = self._sources.mirror().shared_with(last.watermark, last.chain)
            if position is not None:
                return f"; the logs agree up to position {position}"
        return ""
