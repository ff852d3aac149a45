"""What this machine remembers of the epochs it has seen pinned, to notice another history.

A database restored from an older dump forgets epochs that were trained on, and may pin other data
under their numbers. So the last epoch of each run is kept beside the mirror, too.
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
    """Remembers the furthest epoch of one run."""

    def __init__(self, log: Log, run: runs.Settings, sources: Sources) -> None:
        self._log = log
        self._run = run
        self._sources = sources
        self._last: runs.Pin | None = None

    @property
    def last(self) -> runs.Pin | None:
        """The furthest epoch that is remembered, as `look` found it in the database."""
        return self._last

    def look(self, number: int) -> runs.Seen | None:
        """Return an epoch as the database has it; None while it is not pinned.

        Raises `DivergenceError` unless the database also has what is remembered.
        """
        last = self._recall()
        known = None if last is None else last.number
        seen = runs.look(self._log.engine, self._run, number, known)
        if last is not None:
            self._check(last, seen.get(last.number))
        return seen.get(number)

    def remember(self, pin: runs.Pin) -> None:
        """Keep an epoch in mind if none came after it."""
        last = self._recall()
        if last is not None and last.number >= pin.number:
            return
        self._last = pin
        with suppress(OSError):  # without a cache, this process alone remembers
            path = self._path()
            path.parent.mkdir(exist_ok=True)
            write_summed(path, {**asdict(pin), "chain": pin.chain.hex()})

    def _recall(self) -> runs.Pin | None:
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
        name = blake2b(self._run.name.encode(), digest_size=16).hexdigest()
        return self._sources.mirror().folder / "runs" / f"{name}.json"

    def _shared(self, last: runs.Pin) -> str:
        with suppress(OSError):
            position = self._sources.mirror().shared_with(last.watermark, last.chain)
            if position is not None:
                return f"; the logs agree up to position {position}"
        return ""
