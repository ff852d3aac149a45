"""A dataset's log, as those who read it have it.

`paging` reads its rows, and `following` reads them as it grows. Both load NumPy, which opening a
dataset and reading its head do not need.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import Engine, Row

from registry.errors import ConflictError, DiskFullError, PermissionDeniedError, ReadOnlyError
from registry.storage.database.address import Pickled
from registry.storage.database.models import DatasetRow
from registry.storage.database.transactions import read
from registry.storage.log.head import Head, chain_at, read_head
from registry.storage.log.replica import Replica
from registry.storage.log.schemas import Schemas
from registry.storage.log.standby import chain_reached

if TYPE_CHECKING:
    from registry.samples.codec import Codec
    from registry.storage.log.inbox import Inbox

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
