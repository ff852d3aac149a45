"""A replica: another server that pages are read from, up to the position it has received.

Before a range is read, the replica's chain is compared with the primary's. Equal chains are equal
rows, so the replica is read only up to a position where they are equal, and only after it has
removed all that the primary has erased. What it still lacks after `LAG` seconds is read from the
primary, as is everything after it has failed. Each outage results in one warning.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, and_, bindparam, join, outerjoin, select

from registry.errors import InvalidURLError, RegistryError, ReplicaWarning
from registry.storage.database.address import Address
from registry.storage.database.engine import make_engine
from registry.storage.database.models import DatasetRow, HeadRow, SampleRow
from registry.storage.database.transactions import read
from registry.storage.database.url import masked, parse_url
from registry.storage.log.head import chain_and_erasures, chain_at
from registry.storage.log.notifications import Pause
from registry.storage.log.watermark import GENESIS, Watermark

LAG = 5.0
"""Seconds to wait for the replica, at most: for rows to arrive, or for an answer."""
RETRY = 10.0
"""Seconds from an outage until the replica is tried again, at least."""
_SHARE = 10
"""The replica is not tried for this many times the seconds in which the outage was noticed, if that
is longer than `RETRY`: a server that drops packets then costs a tenth of the time."""
_LAST = and_(
    SampleRow.dataset_id == DatasetRow.id, SampleRow.position == bindparam("watermark") - 1
)
# One statement, so that the head, the erased count and the chain are of one snapshot.
_LOG = (
    select(DatasetRow.id, HeadRow.position, HeadRow.chain, HeadRow.erased, SampleRow.chain)
    .select_from(outerjoin(join(DatasetRow, HeadRow), SampleRow, _LAST))
    .where(DatasetRow.uid == bindparam("uid"))
)


@dataclass(frozen=True)
class Reach:
    """The position up to which pages may be read from the replica, and the dataset's id there.

    The id may differ from the primary's.
    """

    dataset_id: int
    until: int


@dataclass(frozen=True)
class _ReplicaLog:
    """What the replica has of a log; ``end`` is the chain value at its head, at ``position``.

    ``chain`` is the value at the watermark asked for, None where the log ends before it.
    """

    dataset_id: int
    position: int
    end: bytes
    erased: int
    chain: bytes | None

    def received(self, until: int) -> Watermark | None:
        """Return the watermark that was asked for, if the replica has received all before it."""
        return None if self.chain is None else Watermark(until, self.chain)


class Replica:
    """The replica of a registry's database. Thread-safe.

    Outages are not pickled: an unpickled replica is tried at once.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        # Without a lock, since a fork while another thread holds it would leave it locked in the
        # child permanently. At worst, two threads warn of the same outage.
        self._failed = False
        self._retry_at = 0.0

    def __reduce__(self) -> tuple[Callable[[Address], Replica], tuple[Address]]:
        return _reopened, (Address.of(self.engine),)

    def reach(
        self, primary: Engine, dataset_id: int, uid: str, after: int, until: int
    ) -> Reach | None:
        """Return up to where positions ``[after, until)`` may be read from the replica.

        Waits up to `LAG` seconds for rows that it has not received. None where the range is to be
        read from the primary, which has all of it.
        """
        # Without a query: a replica that is down must not slow down every read.
        began = time.monotonic()
        if began < self._retry_at:
            return None
        # Before the replica is read: what the primary has erased by now must be gone there, too.
        chain, erased = read(primary, chain_and_erasures, dataset_id, until)
        if chain is None:
            return None  # the log has no such position; reading the primary raises the error
        # A replica that was out is not waited for: it is used again once it has all of the range.
        deadline = began if self._failed else began + LAG
        pause = Pause()
        while True:
            try:
                log = read(self.engine, _replica_log, uid, until, patience=LAG)
            except RegistryError as error:
                self.fail(str(error), began)
                return None
            # With fewer erasures than the primary, it would yield content that is erased there.
            if log is not None and log.erased >= erased:
                received = log.received(until)
                expected: bytes | None = chain
                # It has the first part of the range: its head is compared instead.
                if received is None and after < log.position < until and not self._failed:
                    received = Watermark(log.position, log.end)
                    expected = read(primary, chain_at, dataset_id, log.position)
                if received is not None:
                    return self._compared(log, received, expected, began)
            if time.monotonic() >= deadline:
                self.fail(_lacking(log, uid, until, erased), began)
                return None
            time.sleep(pause.next())

    def _compared(
        self, log: _ReplicaLog, received: Watermark, expected: bytes | None, began: float
    ) -> Reach | None:
        """Return how far to read; None, after a warning, if the primary has another chain there."""
        if received.chain != expected:
            self.fail(_diverged(received, expected), began)
            return None
        self._failed = False
        return Reach(log.dataset_id, received.position)

    def fail(self, why: str, began: float) -> None:
        """Use the primary for a while, after the replica has failed; warn once per outage.

        ``began`` is when the failed attempt began, by the monotonic clock.
        """
        now = time.monotonic()
        self._retry_at = now + max(RETRY, _SHARE * (now - began))
        if self._failed:
            return
        self._failed = True
        warnings.warn(
            f"the replica {masked(self.engine.url)} is not read from: {why}. The primary server is "
            "read from instead, until the replica has all that is asked for",
            ReplicaWarning,
            stacklevel=4,
        )


def _reopened(address: Address) -> Replica:
    return Replica(address.engine())


def open_replica(url: str, primary: Engine, timeout: float | None) -> Replica:
    """Return the replica at a URL, without connecting to it.

    Raises `InvalidURLError` unless both URLs name PostgreSQL servers.
    """
    parsed = parse_url(url)
    for each in (primary.url, parsed):
        if each.drivername == "sqlite":
            raise InvalidURLError(
                f"{masked(each)}: only PostgreSQL has replicas, and SQLite files have none; leave "
                "the replica out, or name two PostgreSQL servers"
            )
    return Replica(make_engine(parsed, timeout))


def _replica_log(connection: Connection, uid: str, watermark: int) -> _ReplicaLog | None:
    row = connection.execute(_LOG, {"uid": uid, "watermark": watermark}).one_or_none()
    if row is None:
        return None
    number, position, end, erased, chain = row
    return _ReplicaLog(number, position, end, erased, chain if watermark else GENESIS)


def _lacking(log: _ReplicaLog | None, uid: str, until: int, erased: int) -> str:
    if log is None:
        return f"it has no dataset of uid {uid}, so that it lags or is another database's"
    if log.erased < erased:
        return f"it lags, and still has the content of {erased - log.erased} rows that were erased"
    return f"it lags, and has {log.position} rows of {until}"


def _diverged(received: Watermark, expected: bytes | None) -> str:
    primary_has = "ends before" if expected is None else f"has {expected.hex()}"
    return (
        f"it is another database's, or has another history: its chain at position "
        f"{received.position} is {received.chain.hex()}, where the primary {primary_has}"
    )
