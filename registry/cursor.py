"""Reading the log by cursor: pages of records, and following it as it grows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, Engine

from registry import heads
from registry.codec import Codec, Column
from registry.engine import PATIENCE, driver, read, retrying
from registry.errors import LogGapError
from registry.notifications import Pause, listening

PAGE_BYTES = 1 << 20
"""Bytes of records in a page, about: the size at which PostgreSQL reads fastest."""
MOST_ROWS = 1 << 16
_FIRST_ROWS = 64
_AHEAD = 2

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Log:
    """A dataset's log as a reader needs it: where it is and how its records are laid out."""

    engine: Engine
    dataset_id: int
    codec: Codec

    def head(self) -> heads.Head:
        """Read where the log ends now."""
        return read(self.engine, lambda connection: heads.read(connection, self.dataset_id))


@dataclass(frozen=True, repr=False)
class Page:
    """The log's rows at positions ``[start, stop)``.

    ``page["image"]`` is a feature's column: one array of shape ``(rows, *shape)`` with a row for
    each record, in position order, as `Codec.decode` describes; ``positions`` (int64) says where
    each stands. Retractions have no record: their positions are in ``retracted``. Positions in
    ``superseding`` replace the older revisions at ``supersedes``, pair by pair. ``buckets``
    (uint16) has one value per position, retractions included.
    """

    start: int
    stop: int
    data: bytes
    buckets: npt.NDArray[np.uint16]
    superseding: Positions
    supersedes: Positions
    retracted: Positions
    codec: Codec

    def __len__(self) -> int:
        return self.stop - self.start

    def __repr__(self) -> str:
        return f"<page [{self.start}, {self.stop})>"

    def __getitem__(self, feature: str) -> Column:
        return self.columns[feature]

    @cached_property
    def columns(self) -> dict[str, Column]:
        """Every feature's column, by name."""
        return self.codec.decode(self.data, len(self) - len(self.retracted))

    @cached_property
    def positions(self) -> Positions:
        """The position of each record."""
        return np.setdiff1d(np.arange(self.start, self.stop), self.retracted, assume_unique=True)


def pages(
    log: Log, after: int, until: int, patience: float | None = PATIENCE
) -> Iterator[Page]:
    """Yield the log's pages over positions ``[after, until)``, in order and without gaps.

    The whole state is one position. Each page is read in a transaction of its own, so nothing is
    held between pages; a read that fails for a transient reason is repeated for ``patience``
    seconds. Raises `LogGapError` where positions are missing.
    """
    if log.codec.fixed_width and log.engine.dialect.name == "postgresql":
        yield from _read_ahead(log, after, until, patience)
        return
    rows = _page_rows(log)
    while after < until:
        page = _fetch(log, after, min(until, after + rows), patience)
        yield page
        after = page.stop
        if not log.codec.fixed_width:
            rows = min(MOST_ROWS, max(_FIRST_ROWS, 2 * len(page)))


def follow(log: Log, after: int) -> Iterator[Page]:
    """Yield pages from ``after`` on for ever, waiting for commits at the end of the log.

    A lost connection is made anew for as long as it takes; no row is skipped or seen twice.
    """
    while True:
        head = await_growth(log, after)
        for page in pages(log, after, head, patience=None):
            yield page
            after = page.stop


def await_growth(log: Log, after: int) -> int:
    """Wait until the log's head is past ``after``, and return it."""
    pause = Pause()
    for attempt in retrying(patience=None):
        with attempt:
            if (head := log.head().position) > after:
                return head
            with listening(log.engine, log.dataset_id) as wait:
                # Listening began before this look at the head: a commit that came before it is
                # seen here, a later one ends the wait.
                while (head := log.head().position) <= after:
                    wait(pause.next())
            return head
    raise AssertionError


def _read_ahead(log: Log, after: int, until: int, patience: float | None) -> Iterator[Page]:
    """Read the next page or two while the consumer works on this one, each on its connection."""
    rows = _page_rows(log)
    starts = iter(range(after, until, rows))
    if until - after <= rows:
        if after < until:
            yield _fetch(log, after, until, patience)
        return
    with ThreadPoolExecutor(_AHEAD, thread_name_prefix="registry-pages") as pool:

        def submit() -> None:
            for start in starts:
                ahead.append(pool.submit(_fetch, log, start, min(until, start + rows), patience))
                return

        ahead: deque[Future[Page]] = deque()
        try:
            for _ in range(_AHEAD):
                submit()
            while ahead:
                page = ahead.popleft().result()
                submit()
                yield page
        finally:
            for future in ahead:
                future.cancel()


def _page_rows(log: Log) -> int:
    if not log.codec.fixed_width:
        return _FIRST_ROWS
    return max(1, min(MOST_ROWS, PAGE_BYTES // log.codec.header.itemsize))


def _fetch(log: Log, after: int, until: int, patience: float | None) -> Page:
    fetch = _from_postgresql if log.engine.dialect.name == "postgresql" else _from_sqlite
    return read(log.engine, lambda connection: fetch(connection, log, after, until), patience)


# The server lays the records of a page end to end, and sends the few positions that revise or
# retract apart: one value to read, whatever the number of rows. Ordered by the primary key, which
# the index gives; buckets go as int16, being the narrowest integer that PostgreSQL can send.
_POSTGRESQL = """
    SELECT count(*), max(position), string_agg(record, '' ORDER BY position),
        string_agg(int2send((bucket - 32768)::int2), '' ORDER BY position),
        array_agg(position ORDER BY position) FILTER (WHERE supersedes IS NOT NULL),
        array_agg(supersedes ORDER BY position) FILTER (WHERE supersedes IS NOT NULL),
        array_agg(position ORDER BY position) FILTER (WHERE record IS NULL)
    FROM {rows} WHERE dataset_id = %s AND position >= %s AND position < %s {limit}
"""
_FIXED = _POSTGRESQL.format(rows="samples", limit="")
# Where records differ in length, the page ends at the row that fills it. A value's length is read
# without the value.
_VARIABLE = _POSTGRESQL.format(
    rows="""(
        SELECT *, coalesce(sum(octet_length(record)) OVER (
            ORDER BY position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
        FROM samples WHERE dataset_id = %s AND position >= %s AND position < %s
    ) AS ranked""",
    limit="AND before < %s",
)


def _from_postgresql(connection: Connection, log: Log, after: int, until: int) -> Page:
    place: tuple[int, ...] = (log.dataset_id, after, until)
    if log.codec.fixed_width:
        statement, parameters = _FIXED, place
    else:
        statement, parameters = _VARIABLE, (*place, *place, PAGE_BYTES)
    with driver(connection).cursor(binary=True) as cursor:
        row: Any = cursor.execute(statement, parameters, prepare=True).fetchone()
    count, last, data, buckets, superseding, supersedes, retracted = row
    _check_dense(after, until if log.codec.fixed_width else last + 1 if count else until, count)
    shifted = np.frombuffer(buckets, ">i2").astype(np.int32) + 32768
    return Page(
        start=after,
        stop=last + 1,
        data=data or b"",
        buckets=shifted.astype(np.uint16),
        superseding=np.array(superseding or (), np.int64),
        supersedes=np.array(supersedes or (), np.int64),
        retracted=np.array(retracted or (), np.int64),
        codec=log.codec,
    )


_SQLITE = """
    SELECT position, record, bucket, supersedes FROM samples
    WHERE dataset_id = ? AND position >= ? AND position < ? ORDER BY position
"""


def _from_sqlite(connection: Connection, log: Log, after: int, until: int) -> Page:
    cursor = connection.connection.cursor()
    rows: list[tuple[int, bytes | None, int, int | None]] = []
    size = 0
    for row in cursor.execute(_SQLITE, (log.dataset_id, after, until)):
        rows.append(row)
        size += len(row[1] or b"")
        if size >= PAGE_BYTES:
            break
    cursor.close()
    stop = rows[-1][0] + 1 if size >= PAGE_BYTES else until
    _check_dense(after, stop, len(rows))
    revised = [(position, old) for position, _, _, old in rows if old is not None]
    return Page(
        start=after,
        stop=stop,
        data=b"".join([record for _, record, _, _ in rows if record is not None]),
        buckets=np.array([bucket for _, _, bucket, _ in rows], np.uint16),
        superseding=np.array([position for position, _ in revised], np.int64),
        supersedes=np.array([old for _, old in revised], np.int64),
        retracted=np.array([p for p, record, _, _ in rows if record is None], np.int64),
        codec=log.codec,
    )


def _check_dense(after: int, until: int, found: int) -> None:
    """Positions are unique, so as many rows as positions means that none is missing."""
    if found != until - after:
        raise LogGapError(after, until, found)
