"""Follows the log as it grows.

On PostgreSQL, one exchange with the server reads the head and the rows after a position, by the
connection that is then waited on.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass

from sqlalchemy import Connection

from registry.storage.database.retry import retrying
from registry.storage.database.transactions import driver
from registry.storage.log.divergence import check_reader, refuse_other
from registry.storage.log.head import Head, head_read, reading_chain, reading_head
from registry.storage.log.notifications import Pause, listening
from registry.storage.log.page import Page
from registry.storage.log.paging import pages
from registry.storage.log.reader import Log
from registry.storage.log.rows_ahead import page_ahead, reading_rows
from registry.storage.log.watermark import GENESIS, Watermark


@dataclass(frozen=True)
class Growth:
    """The head of a log that has grown past a position.

    ``page`` has the rows from that position up to the head, if they were few enough to be read with
    it, else it is None.
    """

    head: Head
    page: Page | None = None


def follow(log: Log, after: int) -> Generator[Page]:
    """Yield pages from ``after`` on without end, waiting for commits at the end of the log.

    A lost connection is opened again, however long it takes; no row is skipped or repeated. Raises
    `DivergenceError` where the log has another history, before any of its rows is yielded.
    """
    chain = log.chain_reached(after)
    while True:
        growth = await_growth(log, after, chain=chain)
        assert growth is not None
        end = growth.head.position
        for page in [growth.page] if growth.page else pages(log, after, end, patience=None):
            yield page
            after = page.stop
        chain = growth.head.chain


def await_growth(
    log: Log, after: int, until: float | None = None, chain: bytes | None = None
) -> Growth | None:
    """Wait until the log's head is past ``after``, and return the head.

    Returns None if the monotonic clock reaches ``until`` first. With ``chain``, raises
    `DivergenceError` unless that is the log's chain value at ``after``.
    """
    reader = None if chain is None else Watermark(after, chain)
    for attempt in retrying(None, log.engine):
        with attempt, listening(log.engine, log.dataset_id) as watch:
            pause = Pause(watch.first_poll)
            while True:
                # After LISTEN: a commit between a read before and LISTEN would notify nobody here.
                growth = _read(log, watch.connection, after, reader)
                if growth.head.position > after:
                    return growth
                seconds = pause.next()
                if until is not None:
                    seconds = min(seconds, until - time.monotonic())
                if seconds <= 0:
                    return None
                watch.wait(seconds)
    raise AssertionError


def _read(log: Log, connection: Connection | None, after: int, reader: Watermark | None) -> Growth:
    """Read the head, and on a connection to PostgreSQL also the rows from ``after`` on."""
    if connection is None:
        head = log.head()
        if reader is not None:
            check_reader(log.engine, log.dataset_id, head, reader)
        return Growth(head)
    queries = [reading_head(log.dataset_id)]
    # Pages are read from the replica, if there is one.
    if log.replica is None:
        queries.append(reading_rows(log.dataset_id, after))
    if reader is not None and after:
        queries.append(reading_chain(log.dataset_id, after))
    results = driver(connection).exchange(queries)
    read, waiting = head_read(results[0])
    if reader is not None:
        rows = results[-1] if after else [(GENESIS,)]
        refuse_other(read, reader, rows[0][0] if rows else None)
    head = log.drained(read, waiting)
    if log.replica is not None or head.position <= after:
        return Growth(head)
    schema, stop = log.schemas.cut(after, head.position)
    if stop < head.position:
        return Growth(head)
    return Growth(head, page_ahead(schema, after, stop, results[1]))
