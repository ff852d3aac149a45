"""Reads the log page by page. `following` reads it as it grows.

The state of a reader is one position. No cursor or transaction stays open in the database between
pages, so that a reader may pause for any time, and continues on another connection after an error.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import Engine, Row

from registry.errors import (
    ConflictError,
    DiskFullError,
    PermissionDeniedError,
    ReadOnlyError,
    RegistryError,
)
from registry.samples.codec import Codec
from registry.samples.schema import Schema
from registry.storage.database.address import Pickled
from registry.storage.database.models import DatasetRow
from registry.storage.database.retry import PATIENCE
from registry.storage.database.transactions import read
from registry.storage.log.head import Head, chain_at, read_head
from registry.storage.log.page import Page
from registry.storage.log.page_queries import FIRST_ROWS, MOST_ROWS, fetch, first_rows
from registry.storage.log.replica import LAG, Replica
from registry.storage.log.schemas import Schemas
from registry.storage.log.standby import chain_reached

if TYPE_CHECKING:
    from registry.storage.log.inbox import Inbox

AHEAD = 3
"""Pages that are read at the same time, each on its own connection."""
LEAST_ROWS = 1024
"""Rows in a page, at least, when a range is divided among concurrent reads."""
ROWS_UNTIL_RETRY = 1 << 20
"""Rows that are read from the primary until its replica is tried again."""
_LOCK_WAIT = 1.0
"""Seconds that a reader waits for the lock on the head in order to drain the inbox."""


@dataclass(frozen=True)
class Log(Pickled):
    """A dataset's log as a reader needs it: its database and the schemas of its records.

    It holds no connection. It can be shared between threads, and pickled to other processes.
    """

    engine: Engine
    dataset_id: int
    uid: str
    schemas: Schemas
    """Shared by all that was opened from this log, and on a replica the primary's."""
    replica: Replica | None = None
    """The server that pages are read from, up to the position that it has received."""

    @classmethod
    def of(cls, engine: Engine, row: Row[DatasetRow], replica: Replica | None = None) -> Log:
        """Return the log of a dataset, given by its row with the columns of `DatasetRow`."""
        return cls(engine, row.id, row.uid, Schemas(engine, row.id), replica)

    @property
    def codec(self) -> Codec:
        """The codec of the newest known schema."""
        return self.schemas.newest.codec

    @property
    def primary(self) -> Log:
        """The log without its replica."""
        return replace(self, replica=None)

    def nearest(self, after: int, until: int) -> tuple[Log, int]:
        """Return the log to read positions ``[after, until)`` from, and up to which position.

        That is this log itself without a replica, and while the replica cannot be used.
        """
        if self.replica is None:
            return self, until
        reach = self.replica.reach(self.engine, self.dataset_id, self.uid, after, until)
        # In a long range, a replica that has recovered is used again after `ROWS_UNTIL_RETRY` rows.
        if reach is None:
            return self, min(until, after + ROWS_UNTIL_RETRY)
        log = Log(self.replica.engine, reach.dataset_id, self.uid, self.schemas)
        return log, reach.until

    def head(self) -> Head:
        """Return the log's current head, after moving waiting rows of the inbox to the log.

        The inbox is skipped where the right or the space for that is missing, or where another
        writer holds the lock for longer than a second.
        """
        return self.drained(*read(self.engine, read_head, self.dataset_id))

    def drained(self, head: Head, waiting: bool) -> Head:
        """Return a head that was just read as `head` does; ``waiting`` is whether rows wait."""
        if waiting:
            with suppress(PermissionDeniedError, ReadOnlyError, DiskFullError, ConflictError):
                head = self.inbox.drain(wait=_LOCK_WAIT).head
        self.schemas.learn(head)
        return head

    @property
    def inbox(self) -> Inbox:
        """The dataset's inbox, from which rows are moved to this log."""
        # Loaded only here: a log whose inbox is empty is read without what writes to it.
        from registry.storage.log.inbox import Inbox  # noqa: PLC0415

        return Inbox(self.engine, self.dataset_id, self.schemas)

    def chain_at(self, position: int) -> bytes | None:
        """Read the chain after the log's first ``position`` rows; None if it has fewer."""
        return read(self.engine, chain_at, self.dataset_id, position)

    def chain_reached(self, position: int) -> bytes | None:
        """Read the chain as `chain_at` does, at a position that the log is known to have reached.

        Waits for a standby that has not received these rows yet.
        """
        return read(self.engine, chain_reached, self.dataset_id, position)

    def page(self, schema: Schema, after: int, until: int, patience: float | None) -> Page:
        """Read the first page of positions ``[after, until)``, in its own transaction.

        ``schema`` is in force at all of them. ``patience`` is the number of seconds to retry for,
        None without a limit. Thread-safe.
        """
        return read(self.engine, fetch, self.dataset_id, schema, after, until, patience=patience)


def pages(log: Log, after: int, until: int, patience: float | None = PATIENCE) -> Generator[Page]:
    """Yield the log's pages over positions ``[after, until)``, in order and without gaps.

    A read that fails for a transient reason is repeated for ``patience`` seconds, without a limit
    if it is None. What the log's replica cannot provide is read from the primary. Raises
    `LogGapError` where positions are missing and `DivergenceError` where the log ends before them.
    """
    while after < until:
        source, stop = log.nearest(after, until)
        began = time.monotonic()
        try:
            for page in _pages(source, after, stop, patience if source is log else LAG):
                yield page
                # Only now, since the consumer may have taken any time: ``after`` is where the next
                # source continues, and ``began`` times the replica alone.
                after, began = page.stop, time.monotonic()
        except RegistryError as error:
            if source is log or log.replica is None:
                raise
            # Not raised: the next round reads the rest of the range from the primary.
            log.replica.fail(str(error), began)


def _pages(log: Log, after: int, until: int, patience: float | None) -> Iterator[Page]:
    # A page has the rows of one schema, which are all decoded in the same way.
    while after < until:
        schema, stop = log.schemas.cut(after, until, patience)
        yield from _pages_of(log, schema, after, stop, patience)
        after = stop


def _pages_of(
    log: Log, schema: Schema, after: int, until: int, patience: float | None
) -> Iterator[Page]:
    """Yield the pages over positions at which one schema is in force."""
    codec = schema.codec
    if codec.fixed_width and log.engine.dialect.name == "postgresql":
        yield from _read_ahead(log, schema, after, until, patience)
        return
    rows = first_rows(codec)
    while after < until:
        page = log.page(schema, after, min(until, after + rows), patience)
        yield page
        after = page.stop
        # The size of records is not known in advance, so the number of rows grows to fill a page.
        if not codec.fixed_width:
            rows = min(MOST_ROWS, max(FIRST_ROWS, 2 * len(page)))


def _read_ahead(
    log: Log, schema: Schema, after: int, until: int, patience: float | None
) -> Iterator[Page]:
    """Read the next pages while the consumer works on this one.

    On a single connection, the server would be idle while the client receives and copies a page,
    and the client while the server reads the next one. Pages are yielded in position order.
    """
    rows = min(first_rows(schema.codec), max(LEAST_ROWS, -(-(until - after) // AHEAD)))
    ranges = ((start, min(until, start + rows)) for start in range(after, until, rows))
    if until - after <= rows:
        # One page needs no threads.
        yield from (log.page(schema, start, stop, patience) for start, stop in ranges)
        return
    ahead: deque[Future[Page]] = deque()
    with ThreadPoolExecutor(AHEAD, thread_name_prefix="registry-pages") as pool:
        try:
            for start, stop in ranges:
                ahead.append(pool.submit(log.page, schema, start, stop, patience))
                if len(ahead) > AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            # The consumer may stop early. The pool waits for pages that are being read when it
            # closes; those that are not begun must be cancelled, or it would read them as well.
            for future in ahead:
                future.cancel()
