"""The only writer of `samples`: appends under the lock on the head, in commit order, without gaps.

One transaction locks the head, gives the rows their positions and stores the new head; readers see
all of it or nothing. Retrying is safe: a commit whose answer was lost is recognized by the chain
value that it would have left, which no other rows could have produced.

On PostgreSQL an append of few rows takes two round trips: one that locks the head and reads the
latest revisions of the rows' keys, and one that inserts the rows, stores the head, commits, and
notifies followers.

`transact` does the locking and the retries, and `Writer` is what a caller works with in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Generic, TypeVar

from sqlalchemy import Connection, Engine

from registry.errors import RegistryError
from registry.samples.buckets import buckets
from registry.samples.schema import Schema
from registry.storage.database.exchange import Query
from registry.storage.database.retry import PATIENCE, retrying
from registry.storage.database.transactions import driver, writing
from registry.storage.log import bulk_insert, divergence, few_rows, notifications
from registry.storage.log.amended import amended, groups_of
from registry.storage.log.batch import Batch, Outcome, Plan, Report, joined, resolve
from registry.storage.log.bulk_insert import BLOCK, NewRows
from registry.storage.log.hash_chain import NONE, extend
from registry.storage.log.head import Head, advance_head, advancement, was_committed
from registry.storage.log.locking import LookedUp, few_keys, lock_and_look_up
from registry.storage.log.lookup import Latest, RecordReader, latest
from registry.storage.log.schemas import OlderRows, Schemas

Result = TypeVar("Result")


def transact_in(
    schemas: Schemas,
    work: Callable[[Writer], Result],
    wait: float | None = None,
    batches: Sequence[Batch | RegistryError] = (),
) -> Result:
    """Return the result of ``work`` as `transact` does, with the schemas that are known already."""
    return transact(schemas.engine, schemas.dataset_id, work, wait, schemas, batches)


def transact(
    engine: Engine,
    dataset_id: int,
    work: Callable[[Writer], Result],
    wait: float | None = None,
    schemas: Schemas | None = None,
    batches: Sequence[Batch | RegistryError] = (),
) -> Result:
    """Return the result of ``work``, called under the lock on the head, in one transaction.

    It may be called again after a lost connection. What it appends is appended once; if it appends
    nothing, it must be harmless when committed twice. With ``wait``, raises `ConflictError` where
    the lock cannot be taken within about that many seconds. ``batches`` are those that it is known
    to append first: their keys are looked up with the lock.
    """
    keys = few_keys(batches)
    sent: _Sent[Result] | None = None
    for attempt in retrying(PATIENCE if wait is None else wait, engine):
        with attempt, writing(engine, wait) as connection:
            head, looked_up = lock_and_look_up(connection, dataset_id, keys)
            # Under the lock, so that the log cannot change during the search for the lost commit.
            if sent is not None and sent.arrived(connection, dataset_id):
                divergence.remember(engine, dataset_id, sent.head)
                return sent.result
            divergence.check(connection, dataset_id, head)
            writer = Writer(connection, head, schemas or Schemas(engine, dataset_id), looked_up)
            result = work(writer)
            if writer.last is None:
                return result
            # Set before the commit, which is at the end of the block: its answer may get lost.
            sent = _Sent(writer.last, writer.head, result)
            notification = notifications.due(engine, dataset_id)
            writer.finish(notification)
    # After the commit: a head that was rolled back must not be remembered.
    assert sent is not None
    divergence.remember(engine, dataset_id, sent.head)
    if notification:
        notifications.note(engine, dataset_id)
    return sent.result


@dataclass(frozen=True)
class _Sent(Generic[Result]):
    """A commit whose outcome is unknown: its last row's key, the head after it, and the result."""

    key: str
    head: Head
    result: Result

    def arrived(self, connection: Connection, dataset_id: int) -> bool:
        """Return whether it was committed, although its answer was lost."""
        return was_committed(connection, dataset_id, self.head.position, self.head.chain, self.key)


@dataclass
class Writer:
    """A transaction that holds the lock on a dataset's head. Not thread-safe."""

    _connection: Connection
    head: Head
    schemas: Schemas
    looked_up: LookedUp | None = None
    last: str | None = field(default=None, init=False)
    """The key of the last row appended, None while there is none."""
    _unsent: list[Query] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        # Not the head after an append, which may be rolled back: nothing may be learned from it.
        self._locked = self.head

    @property
    def connection(self) -> Connection:
        """The transaction's connection, on which all rows appended so far are inserted."""
        if self._unsent:
            driver(self._connection).exchange(self._unsent)
            self._unsent = []
        return self._connection

    def finish(self, after_commit: Sequence[Query]) -> None:
        """Have the rows inserted with the commit, and queries sent after it."""
        if self._unsent or after_commit:
            driver(self._connection).send_with_commit(self._unsent, after_commit)
            self._unsent = []

    @property
    def dataset_id(self) -> int:
        return self.schemas.dataset_id

    @cached_property
    def schema(self) -> Schema:
        """The schema in force, in which all records are written: the lock keeps it."""
        return self.schemas.in_force(self.connection, self._locked)

    def append(self, batches: Sequence[Batch | RegistryError]) -> list[Outcome]:
        """Append batches, each completely or not at all; return a report or an error for each.

        An error among the batches is returned in its place. All reports have the head after the
        last batch, since they are committed together.
        """
        # A batch was encoded before the lock was taken, and the schema may have changed since.
        batches = [
            batch.brought_to(self.schema) if isinstance(batch, Batch) else batch
            for batch in batches
        ]
        older = self.schemas.older(self.schema)
        # What the database has is read once for all batches. It is a snapshot under the lock, so
        # that it stays true until the commit.
        known = self._known(batches, older)
        outcomes: list[Outcome] = []
        for group in groups_of(batches, known):
            if outcomes:
                # The rows before are in the database by now, and their records freed here.
                known = self._known(group, older)
            outcomes += self._append_group(group, known, older)
        return [
            replace(outcome, head=self.head)
            if isinstance(outcome, Report) and outcome.head is not self.head
            else outcome
            for outcome in outcomes
        ]

    def _append_group(
        self,
        batches: Sequence[Batch | RegistryError],
        known: dict[str, Latest],
        older: OlderRows | None,
    ) -> list[Outcome]:
        """Append batches whose latest revisions are ``known``, which is changed."""
        revisions = (revision for batch in batches for revision in amended(batch, known))
        read = RecordReader(self.connection, self.dataset_id, revisions, older)
        position = self.head.position
        plans: list[Plan | RegistryError] = []
        for batch in batches:
            try:
                if isinstance(batch, RegistryError):
                    raise batch
                plan = resolve(batch, known, position, self.schema, read)
            except RegistryError as error:
                plans.append(error)
                continue
            plans.append(plan)
            # The rows of this batch are not in the database yet, but the next ones revise them.
            if len(batches) > 1:
                rows = zip(plan.keys, plan.records, plan.each_group(), strict=True)
                known |= {
                    key: Latest(position + n, record, group)
                    for n, (key, record, group) in enumerate(rows)
                }
            position += len(plan.keys)
        self.write([plan for plan in plans if isinstance(plan, Plan)])
        return [plan.report(self.head) if isinstance(plan, Plan) else plan for plan in plans]

    def _known(
        self, batches: Sequence[Batch | RegistryError], older: OlderRows | None
    ) -> dict[str, Latest]:
        named = [batch for batch in batches if isinstance(batch, Batch) and not batch.fresh]
        keys = named[0].keys if len(named) == 1 else [key for batch in named for key in batch.keys]
        if not keys or not self.head.position:
            return {}
        compared = chain.from_iterable(batch.compared() for batch in named)
        read, self.looked_up = self.looked_up, None
        rows = read.rows if read is not None and read.keys.issuperset(keys) else None
        return latest(self.connection, self.dataset_id, keys, compared, older, rows)

    def write(self, plans: Sequence[Plan]) -> None:
        """Append the rows of plans whose positions follow this head, in order."""
        rows = plans[0] if len(plans) == 1 else joined(plans)
        if not rows.keys:
            return
        self.looked_up = None
        connection, postgresql = self.connection, self.connection.dialect.name == "postgresql"
        # Blocks are computed while they are inserted: on PostgreSQL, hashing one overlaps with the
        # server's work on the one before.
        blocks = _blocks(self.head, rows)
        if postgresql and few_rows.are_few(rows.records):
            few = [*blocks]
            self._unsent = [few_rows.insertion(self.dataset_id, block) for block in few]
            last = few[-1].chains[-1]
        else:
            last = bulk_insert.insert(connection, self.dataset_id, blocks)
        self.head = replace(
            self.head,
            position=self.head.position + len(rows.keys),
            live=self.head.live + rows.inserted - rows.retracted,
            chain=last,
        )
        if postgresql:
            self._unsent.append(advancement(self.dataset_id, self.head))
        else:
            advance_head(connection, self.dataset_id, self.head)
        self.last = rows.keys[-1]


def _blocks(head: Head, plan: Plan) -> Iterator[NewRows]:
    """Yield a plan's rows, which follow a head, in blocks; each is hashed when it is asked for."""
    chain, live = head.chain, head.live
    for start in range(0, len(plan.keys), BLOCK):
        part = slice(start, start + BLOCK)
        keys, records, supersedes = plan.keys[part], plan.records[part], plan.supersedes[part]
        groups = None if plan.groups is None else plan.groups[part]
        hashes = buckets(keys, groups)
        links = [NONE if old is None else old for old in supersedes]
        chains = extend(chain, links, hashes, records)
        # The next block continues from here: its first value depends on this block's last.
        chain = chains[-1]
        position = head.position + start
        # Not only after the last block: a version may end inside of a large commit.
        live += len(keys) if plan.gains is None else sum(plan.gains[part])
        yield NewRows(
            position,
            hashes,
            chains,
            records,
            keys,
            supersedes,
            plan.sources[part],
            groups=groups,
            live={len(keys) - 1: live},
        )
