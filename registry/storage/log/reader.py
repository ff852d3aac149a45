"""Reading the log by cursor: page by page, and following it as it grows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

from sqlalchemy import Engine

from registry.errors import (
    ConflictError,
    DiskFullError,
    PermissionDeniedError,
    ReadOnlyError,
    RegistryError,
)
from registry.samples.codec import Codec
from registry.storage.database.address import Pickled
from registry.storage.database.retry import PATIENCE, retrying
from registry.storage.database.transactions import read
from registry.storage.log import head as heads
from registry.storage.log.divergence import check_reader
from registry.storage.log.inbox import Inbox
from registry.storage.log.notifications import Pause, listening
from registry.storage.log.page import Page
from registry.storage.log.page_queries import FIRST_ROWS, MOST_ROWS, fetch, first_rows
from registry.storage.log.replica import LAG, Replica
from registry.storage.log.standby import chain_reached

AHEAD = 3
"""Pages that are read at the same time, each on a connection of its own."""
LEAST_ROWS = 1024
"""Rows for which a page of its own, read at the same time as another, is worth while."""
STINT = 1 << 20
"""Rows that are read from the primary until its replica is asked for again."""
_LOCK_WAIT = 1.0
"""Seconds that a reader waits for a writer who is in the way of the inbox."""


@dataclass(frozen=True)
class Log(Pickled):
    """A dataset's log as a reader needs it: where it is and how its records are laid out."""

    engine: Engine
    dataset_id: int
    uid: str
    codec: Codec
    replica: Replica | None = None
    """From where pages are read, as far as it has come."""

    @property
    def primary(self) -> Log:
        """The log without its replica."""
        return replace(self, replica=None)

    def nearest(self, after: int, until: int) -> tuple[Log, int]:
        """Return from where pages of the range are to be read, and up to which position."""
        if self.replica is None:
            return self, until
        reach = self.replica.reach(self.engine, self.dataset_id, self.uid, after, until)
        if reach is None:
            return self, min(until, after + STINT)
        there = Log(self.replica.engine, reach.dataset_id, self.uid, self.codec)
        return there, reach.until

    def head(self) -> heads.Head:
        """Read where the log ends now, once what waits in the inbox has been moved there.

        Where that cannot be done, for want of rights or of room, or since another writer holds the
        lock for long, the log is read as it is.
        """
        head, waiting = read(
            self.engine, lambda connection: heads.read(connection, self.dataset_id)
        )
        if waiting:
            with suppress(PermissionDeniedError, ReadOnlyError, DiskFullError, ConflictError):
                return self.inbox.drain(wait=_LOCK_WAIT).head
        return head

    @property
    def inbox(self) -> Inbox:
        """The rows that wait to be moved here."""
        return Inbox(self.engine, self.dataset_id, self.codec)

    def chain_at(self, watermark: int) -> bytes | None:
        """Read the chain after the log's first ``watermark`` rows; None if it has not so many."""
        return read(
            self.engine, lambda connection: heads.chain_at(connection, self.dataset_id, watermark)
        )

    def chain_reached(self, watermark: int) -> bytes | None:
        """Read the chain as `chain_at` does, at a watermark that the log has reached.

        A standby that has not received it yet is waited for.
        """
        return read(
            self.engine, lambda connection: chain_reached(connection, self.dataset_id, watermark)
        )

    def page(self, after: int, until: int, patience: float | None) -> Page:
        """Read a page of the range, in a transaction of its own."""
        place = (self.dataset_id, self.codec, after, until)
        return read(self.engine, lambda connection: fetch(connection, *place), patience)


def pages(log: Log, after: int, until: int, patience: float | None = PATIENCE) -> Generator[Page]:
    """Yield the log's pages over positions ``[after, until)``, in order and without gaps.

    The whole state is one position. Nothing is held in the database between pages; a read that
    fails for a transient reason is repeated for ``patience`` seconds. What the log's replica cannot
    give is read from the primary. Raises `LogGapError` where positions are missing,
    `DivergenceError` where the log ends before them.
    """
    while after < until:
        source, stop = log.nearest(after, until)
        began = time.monotonic()
        try:
            for page in _pages(source, after, stop, patience if source is log else LAG):
                yield page
                after, began = page.stop, time.monotonic()
        except RegistryError as error:
            if source is log or log.replica is None:
                raise
            log.replica.fail(str(error), began)


def _pages(log: Log, after: int, until: int, patience: float | None) -> Iterator[Page]:
    if log.codec.fixed_width and log.engine.dialect.name == "postgresql":
        yield from _read_ahead(log, after, until, patience)
        return
    rows = first_rows(log.codec)
    while after < until:
        page = log.page(after, min(until, after + rows), patience)
        yield page
        after = page.stop
        if not log.codec.fixed_width:
            rows = min(MOST_ROWS, max(FIRST_ROWS, 2 * len(page)))


def follow(log: Log, after: int) -> Generator[Page]:
    """Yield pages from ``after`` on for ever, waiting for commits at the end of the log.

    A lost connection is made anew for as long as it takes; no row is skipped or seen twice. Raises
    `DivergenceError`, before a row of it is yielded, where the log has come to another history.
    """
    chain = log.chain_reached(after)
    while True:
        head = await_growth(log, after, chain=chain)
        assert head is not None
        for page in pages(log, after, head.position, patience=None):
            yield page
            after = page.stop
        chain = head.chain


def await_growth(
    log: Log, after: int, until: float | None = None, chain: bytes | None = None
) -> heads.Head | None:
    """Wait until the log's head is past ``after``, and return the head.

    None if the monotonic clock reaches ``until`` before. With ``chain``, raises `DivergenceError`
    unless that is the log's value at ``after``.
    """

    def look() -> heads.Head:
        head = log.head()
        if chain is not None:
            check_reader(log.engine, log.dataset_id, head, after, chain)
        return head

    pause = Pause()
    for attempt in retrying(None, log.engine):
        with attempt:
            if (head := look()).position > after:
                return head
            with listening(log.engine, log.dataset_id) as wait:
                # Listening began before this look at the head: a commit that came before it is
                # seen here, a later one ends the wait.
                while (head := look()).position <= after:
                    if until is not None and time.monotonic() >= until:
                        return None
                    wait(pause.next())
            return head
    raise AssertionError


def _read_ahead(log: Log, after: int, until: int, patience: float | None) -> Iterator[Page]:
    """Read the next pages while the consumer works on this one.

    A single connection leaves the server idle while the client takes the page in, and the other
    way round.
    """
    rows = min(first_rows(log.codec), max(LEAST_ROWS, -(-(until - after) // AHEAD)))
    ranges = ((start, min(until, start + rows)) for start in range(after, until, rows))
    if until - after <= rows:
        yield from (log.page(*place, patience) for place in ranges)
        return
    ahead: deque[Future[Page]] = deque()
    with ThreadPoolExecutor(AHEAD, thread_name_prefix="registry-pages") as pool:
        try:
            for place in ranges:
                ahead.append(pool.submit(log.page, *place, patience))
                if len(ahead) > AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
