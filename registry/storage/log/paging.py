"""Reads the log page by page. `following` reads it as it grows.

The state of a reader is one position. No cursor or transaction stays open in the database between
pages, so that a reader may pause for any time, and continues on another connection after an error.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from registry.errors import RegistryError
from registry.samples.schema import Schema
from registry.storage.database.retry import PATIENCE
from registry.storage.database.transactions import read
from registry.storage.log.page import Page
from registry.storage.log.page_queries import FIRST_ROWS, MOST_ROWS, fetch, first_rows
from registry.storage.log.reader import Log
from registry.storage.log.replica import LAG

AHEAD = 3
"""Pages that are read at the same time, each on its own connection."""
LEAST_ROWS = 1024
"""Rows in a page, at least, when a range is divided among concurrent reads."""


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
        page = read_page(log, schema, after, min(until, after + rows), patience)
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
        yield from (read_page(log, schema, start, stop, patience) for start, stop in ranges)
        return
    ahead: deque[Future[Page]] = deque()
    with ThreadPoolExecutor(AHEAD, thread_name_prefix="registry-pages") as pool:
        try:
            for start, stop in ranges:
                ahead.append(pool.submit(read_page, log, schema, start, stop, patience))
                if len(ahead) > AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            # The consumer may stop early. The pool waits for pages that are being read when it
            # closes; those that are not begun must be cancelled, or it would read them as well.
            for future in ahead:
                future.cancel()


def read_page(log: Log, schema: Schema, after: int, until: int, patience: float | None) -> Page:
    """Read the first page of positions ``[after, until)``, in its own transaction.

    ``schema`` is in force at all of them. Thread-safe.
    """
    return read(log.engine, fetch, log.dataset_id, schema, after, until, patience=patience)
