"""What this machine remembers of the epochs it has seen pinned, to notice another history.

A database restored from an older dump forgets epochs that were trained on, and may pin other data
under their numbers. So the last epoch of each run is kept beside the mirror, too.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, replace
from hashlib import blake2b
from pathlib import Path

from registry import runs
from registry.cursor import Log
from registry.errors import DivergenceError
from registry.source import Sources


class PinMemory:
    """Remembers the furthest epoch of one run."""

    def __init__(self, log: Log, run: runs.Settings, sources: Sources) -> None:
        self._log = log
        self._run = run
        self._sources = sources
        self._last: runs.Pin | None = None

    def check(self) -> None:
        """Raise `DivergenceError` unless the database has what is remembered."""
        last = self._recall()
        if last is None:
            return
        found = runs.find(self._log.engine, self._run, last.number)
        if found == last and self._log.chain_at(last.watermark) == last.chain:
            return
        if found is None:
            said = "the database knows of no such epoch"
        elif found == last:
            said = "the database's log has another chain there"
        else:
            said = f"the database pinned it at position {found.watermark} ({found.chain.hex()})"
        raise DivergenceError(
            f"run {self._run.name!r} reached epoch {last.number} at position {last.watermark} "
            f"({last.chain.hex()}) on this machine, but {said}{self._shared(last)}. Was it "
            "restored from a dump? Restore the newer database, or go on under another run's name"
        )

    def remember(self, pin: runs.Pin) -> None:
        """Keep an epoch in mind if none came after it."""
        last = self._recall()
        if last is not None and last.number >= pin.number:
            return
        self._last = pin
        with suppress(OSError):  # without a cache, this process alone remembers
            path = self._path()
            path.parent.mkdir(exist_ok=True)
            draft = path.with_suffix(".draft")
            draft.write_text(json.dumps({**asdict(pin), "chain": pin.chain.hex()}))
            draft.replace(path)

    def _recall(self) -> runs.Pin | None:
        with suppress(OSError, ValueError, TypeError):
            kept = runs.Pin(**json.loads(self._path().read_text()))
            kept = replace(kept, chain=bytes.fromhex(kept.chain))  # type: ignore[arg-type]
            if self._last is None or kept.number > self._last.number:
                self._last = kept
        return self._last

    def _path(self) -> Path:
        name = blake2b(self._run.name.encode(), digest_size=16).hexdigest()
        return self._sources.mirror().folder / "runs" / f"{name}.json"

    def _shared(self, last: runs.Pin) -> str:
        with suppress(OSError):
            position = self._sources.mirror().shared_with(last.watermark)
            return f"; the logs agree up to position {position}"
        return ""
