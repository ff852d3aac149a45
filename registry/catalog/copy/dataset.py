"""Copying datasets between databases, of whatever kinds: the same log under the same name.

A copy has the source's uid, positions, keys, chains and times, its runs and epochs, its webhooks'
mappings and what is known of their events, and the inbox rows that were refused. So mirrors and
training runs go on with it. Access tokens are not copied: who may come in is each server's own.

Rows travel in blocks, each stored whole or not at all behind the ones before, so that a copy that
was interrupted goes on, and one that is complete takes what was added since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, Row, insert, or_, select

from registry.catalog.copy.related import Beside, copy_beside, copy_erasures
from registry.catalog.copy.rows import fetch, overtaken, prove, store
from registry.catalog.registry import Registry
from registry.errors import DatabaseError, DatasetNotFoundError, DivergenceError
from registry.samples.codec import Codec
from registry.samples.features import Features
from registry.storage.database import models
from registry.storage.database.models import NOT_DROPPED, DatasetRow
from registry.storage.database.sql import insert_if_new
from registry.storage.database.transactions import lent, read, write, writing
from registry.storage.database.url import shown
from registry.storage.log import head as heads
from registry.storage.log.entries import utc
from registry.storage.log.hash_chain import GENESIS
from registry.storage.log.head import Head
from registry.storage.log.reader import Log
from registry.storage.log.version import Version

__all__ = ["Beside", "Copied", "copy_dataset"]

Progress = Callable[[int, int], None]
"""Told how many rows were copied by now, and how many the copy has."""


@dataclass(frozen=True)
class Copied:
    """What a copy has now: ``rows`` of it came with this call."""

    version: Version
    rows: int
    beside: Beside


def copy_dataset(
    source: Registry, target: Registry, name: str, progress: Progress | None = None
) -> Copied:
    """Bring the target's copy of a dataset up to the source's log, and prove it by its chain.

    What waits in the source's inbox is moved to its log before, where that can be done. Raises
    `DatasetNotFoundError`; `DivergenceError`, naming the position, where the target's dataset of
    this name has other rows than the source's, or more of them; and `DatabaseError`, naming it,
    where a chain does not hold.
    """
    row = _row(source, name)
    origin = _log(source, row)
    goal = origin.head()
    copy = _counterpart(target, row)
    before = _common(origin, copy, name)
    work = _Work(origin, copy, before, progress)
    head = work.advance(before, goal.position)
    # The last rows, and what lies beside them, are read in one transaction: so the runs' epochs
    # and the tools' events are those of that very log.
    with _snapshot(source.engine) as connection:
        goal, _ = heads.read(connection, origin.dataset_id)
        head = work.advance(head, goal.position, connection)
        if head.live != goal.live:
            raise DatabaseError(
                f"{shown(source.engine.url)} counts {goal.live} live samples at position "
                f"{goal.position} of {name!r}, where its log has {head.live}; see `registry doctor`"
            )
        source_place = (connection, origin.dataset_id)
        # Stored by themselves: what is erased must not stay for a run that has parted.
        with _held(copy, head) as there:
            erased = copy_erasures(source_place, (there, copy.dataset_id))
        with _held(copy, head) as there:
            beside = copy_beside(source_place, (there, copy.dataset_id), erased)
    work.prove(head)
    version = Version(name, head.position, head.chain.hex())
    return Copied(version, head.position - before.position, beside)


@dataclass(frozen=True)
class _Work:
    origin: Log
    copy: Log
    before: Head
    progress: Progress | None

    def advance(self, head: Head, until: int, connection: Connection | None = None) -> Head:
        """Copy rows up to a position; return the copy's head after them."""
        while head.position < until:
            get = partial(
                fetch, dataset_id=self.origin.dataset_id, after=head.position, until=until
            )
            block = read(self.origin.engine, get) if connection is None else get(connection)
            prove(shown(self.origin.engine.url), head.chain, block)
            head = store(self.copy.engine, self.copy.dataset_id, head, block)
            if self.progress is not None:
                self.progress(head.position - self.before.position, head.position)
        return head

    def prove(self, head: Head) -> None:
        """Read what was copied back, and compute its chain once more."""
        position, chain = self.before.position, self.before.chain
        while position < head.position:
            get = partial(
                fetch, dataset_id=self.copy.dataset_id, after=position, until=head.position
            )
            block = read(self.copy.engine, get)
            prove(shown(self.copy.engine.url), chain, block)
            position, chain = block[-1].position + 1, block[-1].chain
        assert chain == head.chain


@contextmanager
def _held(copy: Log, head: Head) -> Iterator[Connection]:
    """Lend a transaction that keeps others from writing to the copy, which ends at this head."""
    with writing(copy.engine) as connection:
        found = heads.lock(connection, copy.dataset_id)
        if (found.position, found.chain) != (head.position, head.chain):
            raise overtaken(head.position)
        yield connection


@contextmanager
def _snapshot(engine: Engine) -> Iterator[Connection]:
    """Lend a connection whose statements all see the database as it is at the first of them."""
    with lent(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        yield connection


def _row(registry: Registry, name: str) -> Row[Any]:
    wanted = select(DatasetRow).where(DatasetRow.name == name)
    row = read(registry.engine, lambda connection: connection.execute(wanted).one_or_none())
    if row is None:
        raise DatasetNotFoundError(name, registry.names())
    return row


def _log(registry: Registry, row: Row[Any]) -> Log:
    return Log(registry.engine, row.id, row.uid, Codec(Features.from_json(row.features)))


def _counterpart(target: Registry, row: Row[Any]) -> Log:
    """Return the target's log of this name and uid, made where there is neither."""
    kept = {*DatasetRow.__table__.columns.keys()} - {"id", "created_at", "dropped_at"}
    made = {name: getattr(row, name) for name in kept}

    def find_or_make(connection: Connection) -> Sequence[Row[Any]]:
        if insert_if_new(connection, DatasetRow, {**made, "created_at": utc(row.created_at)}):
            wanted = select(DatasetRow.id).where(DatasetRow.uid == row.uid)
            dataset_id = connection.execute(wanted).scalar_one()
            connection.execute(insert(models.HeadRow).values(dataset_id=dataset_id, chain=GENESIS))
        like = or_(DatasetRow.uid == row.uid, DatasetRow.name == row.name)
        return connection.execute(select(DatasetRow).where(NOT_DROPPED, like)).all()

    for found in write(target.engine, find_or_make):
        if (found.uid, found.name) != (row.uid, row.name):
            raise DivergenceError(
                f"{shown(target.engine.url)} has another dataset named {found.name!r} (uid "
                f"{found.uid}, not {row.uid}), which differs from position 0 on; drop it there, "
                "or copy to another database"
            )
    return _log(target, _row(target, row.name))


def _common(origin: Log, copy: Log, name: str) -> Head:
    """Return the copy's head; raises `DivergenceError` unless the source's log goes on from it."""
    head, _ = read(copy.engine, lambda connection: heads.read(connection, copy.dataset_id))
    if origin.chain_at(head.position) == head.chain:
        return head
    low, high = 0, head.position  # the logs agree up to low, and no longer at high
    while high - low > 1:
        middle = (low + high) // 2
        if origin.chain_at(middle) == copy.chain_at(middle):
            low = middle
        else:
            high = middle
    why = "ends there" if origin.chain_at(high) is None else "goes on otherwise"
    raise DivergenceError(
        f"{shown(copy.engine.url)} has {head.position} rows of {name!r}, which agree with the "
        f"source only up to position {low}, where that {why}; copy to another database, or drop "
        "the dataset there"
    )
