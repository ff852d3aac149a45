"""Pinning: how a run gets to one of its epochs.

`Epochs.find_or_pin` does all of it:

1. It reads the epoch's pin, together with the last one that this machine has used, which the
   database must still have (`divergence`).
2. If there is no pin, it counts the samples that the epoch has at the log's head, and proposes that
   watermark. While there is no sample, it waits for the log to grow. A run on a version has all
   its epochs at the version's watermark instead, and waits for nothing.
3. The database takes the first proposal only (`pin_store.insert_or_find`), so that all workers get
   the same pin. The same pin is the same samples in the same order.
4. It opens the epoch, and remembers the pin.

A part of a mix does not wait (`Epochs.find_or_repeat`). If it has nothing new, its next epoch
repeats its newest samples: those of the epoch before, or if that is a repetition already, those of
twice as many rows of the log. Otherwise a single new sample would make an epoch of each sample that
the mix takes, until another one is inserted. If nothing is left of these, it is all samples.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection

from registry.errors import DivergenceError, EpochError
from registry.samples.splits import Interval
from registry.storage.database.transactions import read
from registry.storage.log.following import await_growth
from registry.storage.log.head import Head, chain_and_erasures
from registry.storage.log.page import Page
from registry.storage.log.reader import Log
from registry.storage.log.standby import refuse_if_behind
from registry.storage.log.watermark import Watermark
from registry.training import pin_store
from registry.training.divergence import PinMemory
from registry.training.epoch import Epoch
from registry.training.pin_store import Pin
from registry.training.policy import Replay
from registry.training.population import Draw, Population
from registry.training.run_store import RunSettings
from registry.training.source import Source
from registry.training.sources import Sources


@dataclass(frozen=True)
class VersionEnd:
    """The end of the version that a run is on, in place of a head.

    ``erased`` counts the rows of the whole log whose records have been erased so far.
    """

    position: int
    chain: bytes
    schema: int
    erased: int


class Epochs:
    """The epochs of one run. Safe to share between threads."""

    def __init__(self, log: Log, run: RunSettings, interval: Interval, sources: Sources) -> None:
        self._log = log
        self._run = run
        self._interval = interval
        self._sources = sources
        self._memory = PinMemory(log, run, sources)

    def find(self, number: int) -> Epoch | None:
        """Return an epoch if it is pinned, else None.

        Raises `DivergenceError` if the database holds another history than the one that this
        machine has trained the run on.
        """
        pinned = self._memory.find(number)
        if pinned is None:
            return None
        # With the number of erasures that was read together with the pin: this saves a query.
        source = self._sources.open(pinned.pin.log_end, pinned.pin.schema, pinned.erased)
        return self._open(pinned.pin, source)

    def find_or_pin(self, number: int, timeout: float | None = None) -> Epoch | None:
        """Return an epoch: as it was pinned, or else pinned now.

        Waits for a first sample for at most ``timeout`` seconds, or indefinitely if it is None;
        None if there is none by then. Raises `EpochError` if the previous epoch is not pinned, and
        `DivergenceError` as `find` does.
        """
        if epoch := self.find(number):
            return epoch
        # Monotonic, like the clock of `await_growth`; the wall clock may be set meanwhile.
        deadline = None if timeout is None else time.monotonic() + timeout
        pinned = self._pin(number, deadline)
        return None if pinned is None else self._open(*pinned)

    def find_or_repeat(self, number: int) -> Epoch | None:
        """Return an epoch: as it was pinned, or else pinned now, with older samples if need be.

        Waits for nothing; None if there is no sample at all. Raises errors as `find_or_pin` does.
        """
        if epoch := self.find(number):
            return epoch
        pinned = self._pin_or_repeat(number)
        return None if pinned is None else self._open(*pinned)

    def population(self, number: int, since: int, watermark: int) -> Population:
        """Return the samples that an epoch with these watermarks holds."""
        policy = self._run.policy
        if policy == "all":
            return Population(watermark, self._interval, conditions=self._run.conditions)
        draw = Draw(policy, self._run.seed, number) if isinstance(policy, Replay) else None
        return Population(watermark, self._interval, since, draw, self._run.conditions)

    def unopened(self, pin: Pin) -> Epoch:
        """Return a pinned epoch to ask what it held; samples of it may be erased."""
        population = self.population(pin.number, pin.since, pin.watermark)
        schema = self._log.schemas.numbered(pin.schema)
        return Epoch(self._run, pin, schema, population, self._sources)

    def _open(self, pin: Pin, source: Source | None) -> Epoch:
        population = self.population(pin.number, pin.since, pin.watermark)
        schema = self._log.schemas.numbered(pin.schema)
        epoch = Epoch.open(self._run, pin, schema, population, self._sources, source)
        # After it has been opened: an epoch that cannot be opened was never trained on.
        self._memory.remember(pin)
        return epoch

    def _pin(self, number: int, deadline: float | None) -> tuple[Pin, Source | None] | None:
        """Pin an epoch at the first head that has samples for it; None after the deadline.

        The source is returned with the pin, unless another worker has pinned the epoch at another
        head.
        """
        before = self._before(number)
        since, start = (before.watermark, before.end) if before else (0, 0)
        head, page = self._first_head(since, deadline)
        while head is not None:
            if pinned := self._propose(number, since, start, head, page):
                return pinned
            if isinstance(head, VersionEnd):
                where = f" where {self._run.conditions}" if self._run.conditions else ""
                raise EpochError(
                    f"epoch {number} of run {self._run.name!r}: the version that it is on, which "
                    f"ends at position {head.position}, holds no sample for it{where}; choose "
                    "another one"
                )
            # Another worker may have pinned samples that were retracted before this head. Its pin
            # counts; without this read, the wait below would be for further samples.
            if head.position > since:
                pin = pin_store.find(self._log.engine, self._run, number)
                if pin is not None:
                    return pin, None
            head, page = self._grown(head.position, deadline)
        return None

    def _first_head(
        self, since: int, deadline: float | None
    ) -> tuple[Head | VersionEnd | None, Page | None]:
        """Return what `_grown` does, at the first head at which an epoch may have samples."""
        if (end := self._version_end()) is not None:
            return end, None
        if self._run.policy == "all":
            return self._log.head(), None
        # Other policies need a row that no epoch before could have.
        return self._grown(since, deadline)

    def _grown(self, after: int, deadline: float | None) -> tuple[Head | None, Page | None]:
        """Return a head past a position, and its rows from there on if they were read with it.

        The head is None after the deadline.
        """
        growth = await_growth(self._log, after, deadline)
        return (None, None) if growth is None else (growth.head, growth.page)

    def _pin_or_repeat(self, number: int) -> tuple[Pin, Source | None] | None:
        """Pin an epoch at the present head, as `_pin` does; None if there is no sample at all."""
        before = self._before(number)
        head = self._version_end() or self._log.head()
        for since in self._starts(before, head.position):
            if pinned := self._propose(number, since, before.end if before else 0, head):
                return pinned
        pin = pin_store.find(self._log.engine, self._run, number)
        return None if pin is None else (pin, None)

    def _starts(self, before: Pin | None, watermark: int) -> Iterator[int]:
        """Yield where the samples of an epoch may begin: first the new ones, at last all."""
        if before is None or self._run.policy == "all":
            yield 0 if before is None else before.watermark
            return
        yield before.watermark
        earlier = pin_store.find(self._log.engine, self._run, before.number - 1)
        repeats = earlier is not None and before.since < earlier.watermark
        yield max(0, 2 * before.since - watermark) if repeats else before.since
        yield 0

    def _propose(
        self,
        number: int,
        since: int,
        start: int,
        head: Head | VersionEnd,
        page: Page | None = None,
    ) -> tuple[Pin, Source | None] | None:
        """Pin an epoch at a head; None if no sample since ``since`` is in it.

        ``page`` may have the last rows before the head. Another worker's pin is returned if it was
        faster, and without a source if it may need another one.
        """
        source = self._sources.open(Watermark.of(head), head.schema, head.erased, page)
        # None: only an index that is made now counts, as its size is stored permanently.
        index = source.index(self.population(number, since, head.position), None)
        if not index.size:
            return None
        proposed = Pin(
            number,
            since,
            head.position,
            head.chain,
            index.size,
            start,
            older=index.older,
            schema=head.schema,
        )
        pin = pin_store.insert_or_find(self._log.engine, self._run, proposed)
        return pin, source if pin == proposed else None

    def _version_end(self) -> VersionEnd | None:
        """Return the end of the version that the run is on; None for a run that grows.

        Raises `DivergenceError` if the log has another history there.
        """
        end = self._run.watermark
        if end is None:
            return None

        def read_end(connection: Connection) -> tuple[bytes | None, int]:
            chain, erased = chain_and_erasures(connection, self._log.dataset_id, end.position)
            if chain is None:
                refuse_if_behind(connection, f"position {end.position - 1} of the log")
            return chain, erased

        chain, erased = read(self._log.engine, read_end)
        if chain != end.chain:
            instead = "ends before" if chain is None else f"has {chain.hex()} there"
            raise DivergenceError(
                f"run {self._run.name!r} is on the version at position {end}, but the database's "
                f"log {instead}: was it restored? Restore the newer database, or choose a run of "
                "another name"
            )
        return VersionEnd(end.position, end.chain, self._run.schema or 0, erased)

    def _before(self, number: int) -> Pin | None:
        """Return the pin of the epoch before ``number``, None for the first epoch."""
        # Usually the last epoch, which `find` has just checked: this saves a query.
        before = self._memory.last
        if before is None or before.number != number - 1:
            before = pin_store.find_before(self._log.engine, self._run, number)
        if before is None and number:
            raise EpochError(
                f"epoch {number} of run {self._run.name!r} cannot begin before epoch {number - 1} "
                "has"
            )
        return before
