"""Copying a dataset to another database of any kind: the same log under the same name.

A copy has the source's uid, positions, keys, chains and times, its runs and epochs, the mappings of
its webhooks and the state of their events, and the rejected rows of its inbox. So mirrors and
training runs continue with the copy. Access tokens are not copied, since each server has its own.

1. Find the target's dataset of this name and uid, or create an empty one.
2. Check that the copy's log is a prefix of the source's (`_checked_head`), and so its schemas.
3. Copy rows in blocks, and each schema before its first row. A block is verified by its chain, then
   appended as a whole or not at all. So an interrupted copy continues where it stopped, and a
   complete one takes the rows added since.
4. In a snapshot of the source, copy the last rows, then erasures, then runs, epochs and the rest.
5. Read the copied rows from the target and verify their chain again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, Row, or_, select

from registry.catalog.copy.related import Related, copy_erasures, copy_related
from registry.catalog.copy.rows import fetch, overtaken, store, verify_rows
from registry.catalog.copy.schemas import check_schemas, copy_schemas, first_schema
from registry.catalog.registry import Registry, find_row, insert_dataset
from registry.errors import DatabaseError, DivergenceError
from registry.storage.database.models import NOT_DROPPED, DatasetRow
from registry.storage.database.transactions import open_connection, read, write, writing
from registry.storage.database.url import masked
from registry.storage.log.divergence import last_common
from registry.storage.log.head import Head, lock_head, read_head
from registry.storage.log.reader import Log
from registry.storage.log.version import Version

__all__ = ["Copied", "Related", "copy_dataset"]

Progress = Callable[[int, int], None]
"""Called with the number of rows copied so far and the number of rows that the copy has."""


@dataclass(frozen=True)
class Copied:
    """The result of a copy: ``rows`` is the number of rows that this call has copied."""

    version: Version
    rows: int
    related: Related


def copy_dataset(
    source: Registry, target: Registry, name: str, progress: Progress | None = None
) -> Copied:
    """Bring the target's copy of a dataset up to the source's log, and verify its chain.

    Rows that wait in the source's inbox are moved to its log first, if possible. Raises
    `DatasetNotFoundError` if the source has no such dataset; `DivergenceError`, with the position,
    if the target's dataset of this name has other rows than the source's, or more; and
    `DatabaseError`, with the position, if a chain is wrong.
    """
    row = find_row(source, name)
    origin = Log.of(source.engine, row)
    goal = origin.head()  # which moves waiting rows of the inbox to the log
    copy = _find_or_create_copy(target, row, origin)
    before = _checked_head(origin, copy, name)
    check_schemas(origin, copy)
    task = _CopyTask(origin, copy, before, progress)
    head = task.advance(before, goal.position)
    # The last rows and the tables related to the log are read in one transaction. Otherwise the
    # copy could get an epoch, or the state of an event, that refers to rows it does not have.
    with _snapshot(source.engine) as connection:
        goal, _ = read_head(connection, origin.dataset_id)
        head = task.advance(head, goal.position, connection)
        head = copy_schemas(origin, copy, head, goal.schema)
        if head.live != goal.live:
            raise DatabaseError(
                f"{masked(source.engine.url)} counts {goal.live} live samples at position "
                f"{goal.position} of {name!r}, where its log has {head.live}; see `registry doctor`"
            )
        scope = (connection, origin.dataset_id)
        # Erasures have their own transaction: they must be stored even if the next one fails
        # because a run of the copy has diverged.
        with _locked(copy, head) as target_connection:
            erased = copy_erasures(scope, (target_connection, copy.dataset_id))
        with _locked(copy, head) as target_connection:
            related = copy_related(scope, (target_connection, copy.dataset_id), erased)
    task.verify(head)
    version = Version(name, head.position, head.chain.hex(), head.schema)
    return Copied(version, head.position - before.position, related)


@dataclass(frozen=True)
class _CopyTask:
    origin: Log
    copy: Log
    before: Head
    progress: Progress | None

    def advance(self, head: Head, until: int, connection: Connection | None = None) -> Head:
        """Copy rows up to a position; return the copy's head after them."""
        # Except with ``connection``, each block is its own transaction of the source: one that is
        # open for hours would keep its vacuum from removing dead rows.
        while head.position < until:
            # A block has the rows of one schema, which the copy has before them.
            schema, stop = self.origin.schemas.cut(head.position, until)
            head = copy_schemas(self.origin, self.copy, head, schema.number)
            rows = (self.origin.dataset_id, head.position, stop)
            block = (
                read(self.origin.engine, fetch, *rows)
                if connection is None
                else fetch(connection, *rows)
            )
            # Before they are stored: the target's log is append-only, too.
            verify_rows(masked(self.origin.engine.url), head.chain, block)
            head = store(self.copy.engine, self.copy.dataset_id, head, block)
            if self.progress is not None:
                self.progress(head.position - self.before.position, head.position)
        return head

    def verify(self, head: Head) -> None:
        """Read the copied rows from the target, and verify their chain."""
        # Rows copied by earlier calls were verified by those, or are by `registry verify`.
        position, chain = self.before.position, self.before.chain
        while position < head.position:
            block = read(self.copy.engine, fetch, self.copy.dataset_id, position, head.position)
            verify_rows(masked(self.copy.engine.url), chain, block)
            position, chain = block[-1].position + 1, block[-1].chain
        assert chain == head.chain


@contextmanager
def _locked(copy: Log, head: Head) -> Iterator[Connection]:
    """Yield a transaction that locks the copy's head against other writers.

    Raises `DivergenceError` if the copy does not end at ``head``.
    """
    with writing(copy.engine) as connection:
        # Compared under the lock: another writer could append after an earlier comparison.
        present = lock_head(connection, copy.dataset_id)
        if (present.position, present.chain) != (head.position, head.chain):
            raise overtaken(head.position)
        yield connection


@contextmanager
def _snapshot(engine: Engine) -> Iterator[Connection]:
    """Yield a connection whose statements all see the database as of the first of them."""
    with open_connection(engine) as connection:
        # On PostgreSQL's default level, READ COMMITTED, each statement would see later commits.
        # SQLite's read transactions are snapshots already.
        if engine.dialect.name == "postgresql":
            connection.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        yield connection


def _find_or_create_copy(target: Registry, row: Row[DatasetRow], origin: Log) -> Log:
    """Return the target's log of this name and uid, created if it has neither.

    Raises `DivergenceError` if the target has a dataset with only one of them.
    """
    copied = {*DatasetRow.__table__.columns.keys()} - {"id", "dropped_at"}
    values = {name: getattr(row, name) for name in copied}
    schema, created_at = first_schema(origin)

    def find_or_create(connection: Connection) -> Sequence[Row[DatasetRow]]:
        insert_dataset(connection, values, schema, created_at)
        like = or_(DatasetRow.uid == row.uid, DatasetRow.name == row.name)
        return connection.execute(select(DatasetRow).where(NOT_DROPPED, like)).all()

    # A name or a uid alone may be taken by another dataset, and then nothing was inserted.
    for existing in write(target.engine, find_or_create):
        if existing.uid == row.uid and existing.name != row.name:
            raise DivergenceError(
                f"{masked(target.engine.url)} has {row.name!r} under the name {existing.name!r}: "
                "one of them was renamed after it was copied; rename the copy, too: `registry "
                f"rename {existing.name} {row.name}`"
            )
        if existing.uid != row.uid:
            raise DivergenceError(
                f"{masked(target.engine.url)} has another dataset named {existing.name!r} (uid "
                f"{existing.uid}, not {row.uid}), which differs from position 0 on; drop it there, "
                "or copy to another database"
            )
    return Log.of(target.engine, find_row(target, row.name))


def _checked_head(origin: Log, copy: Log, name: str) -> Head:
    """Return the copy's head; raises `DivergenceError` unless it is on the source's log.

    The chain value at a position is a hash of all rows before it. So one comparison at the head is
    enough.
    """
    head, _ = read(copy.engine, read_head, copy.dataset_id)
    if origin.chain_at(head.position) == head.chain:
        return head
    position = last_common(
        range(head.position), lambda position: origin.chain_at(position) == copy.chain_at(position)
    )
    why = "ends there" if origin.chain_at(position + 1) is None else "differs"
    raise DivergenceError(
        f"{masked(copy.engine.url)} has {head.position} rows of {name!r}, which agree with the "
        f"source only up to position {position}, where that {why}; copy to another database, or "
        "drop the dataset there"
    )
