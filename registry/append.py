"""The only writer of `samples`: appends under the head lock, in commit order, without gaps.

One transaction holds the lock, gives the rows their positions and stores the new head; readers
see all of it or nothing. Retrying is safe: a commit whose answer was lost is recognised by the
chain value that it would have left, which no other rows could have produced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, Engine, select

from registry import heads, pgcopy
from registry.chain import NONE, buckets, extend
from registry.engine import driver, retrying, writing
from registry.errors import RegistryError, SampleNotFoundError
from registry.heads import Head
from registry.models import samples
from registry.notifications import notify
from registry.revisions import Latest, latest

CHUNK_ROWS = 1 << 16
CHUNK_BYTES = 64 << 20
"""A larger insert takes several transactions, so that other writers get their turn."""
_BLOCK = 4096


@dataclass(frozen=True)
class Batch:
    """Keys and records (None retracts) to append, in order.

    ``fresh`` says that the keys were made for this batch, so that no row can have them yet.
    """

    keys: Sequence[str]
    records: Sequence[bytes | None]
    source: str | None = None
    fresh: bool = False


@dataclass(frozen=True)
class Report:
    """What an append did, in samples; ``head`` is the dataset's head after it.

    ``inserted`` samples were not alive before, ``revised`` ones were, ``retracted`` ones no
    longer are, and ``unchanged`` ones had that very record already.
    """

    inserted: int
    revised: int
    retracted: int
    unchanged: int
    head: Head

    def __add__(self, later: Report) -> Report:
        return Report(
            self.inserted + later.inserted,
            self.revised + later.revised,
            self.retracted + later.retracted,
            self.unchanged + later.unchanged,
            later.head,
        )


Prepare = Callable[[Connection], Batch]


def append(engine: Engine, dataset_id: int, batch: Batch) -> Report:
    """Append a batch: all of it or, on an error, nothing.

    A batch over `CHUNK_ROWS` or `CHUNK_BYTES` is cut, and each chunk is all or nothing; should
    one fail, appending the same keys again completes the batch.
    """
    total: Report | None = None
    for chunk in _chunks(batch):
        try:
            report = _commit(engine, dataset_id, lambda _, chunk=chunk: chunk)  # type: ignore[misc]
        except RegistryError as error:
            if total is not None:
                error.add_note(f"the first chunks are stored, up to position {total.head.position}")
            raise
        total = total + report if total else report
    assert total is not None
    return total


def amend(
    engine: Engine,
    dataset_id: int,
    key: str,
    change: Callable[[bytes | None], bytes | None],
    source: str | None = None,
) -> Report:
    """Replace a key's latest record by what ``change`` makes of it, with no revision lost between.

    Raises `SampleNotFoundError` where the dataset never had the key.
    """

    def prepare(connection: Connection) -> Batch:
        found = latest(connection, dataset_id, [key]).get(key)
        if found is None:
            raise SampleNotFoundError(key)
        return Batch([key], [change(found.record)], source)

    return _commit(engine, dataset_id, prepare)


@dataclass(frozen=True)
class _Plan:
    """The rows that a batch comes to, and the counts for its report."""

    keys: Sequence[str]
    records: Sequence[bytes | None]
    supersedes: Sequence[int | None]
    inserted: int
    revised: int = 0
    retracted: int = 0
    unchanged: int = 0

    def report(self, head: Head) -> Report:
        return Report(self.inserted, self.revised, self.retracted, self.unchanged, head)


def _commit(engine: Engine, dataset_id: int, prepare: Prepare) -> Report:
    sent: tuple[str, Report] | None = None
    for attempt in retrying():
        with attempt, writing(engine) as connection:
            head = heads.lock(connection, dataset_id)
            if sent is not None and _landed(connection, dataset_id, *sent):
                return sent[1]
            batch = prepare(connection)
            look = head.position and not batch.fresh
            known = latest(connection, dataset_id, batch.keys) if look else {}
            plan = _resolve(batch, known, head.position)
            if not plan.keys:
                return plan.report(head)
            after = replace(
                head,
                position=head.position + len(plan.keys),
                live=head.live + plan.inserted - plan.retracted,
                chain=_write(connection, dataset_id, head, plan, batch.source),
            )
            heads.advance(connection, dataset_id, after)
            sent = (plan.keys[-1], plan.report(after))
    assert sent is not None
    notify(engine, dataset_id)
    return sent[1]


def _landed(connection: Connection, dataset_id: int, key: str, report: Report) -> bool:
    """Tell whether an earlier attempt was committed although its answer never came.

    The chain stands for every row up to its own, so the same value at the same position is the
    same log. Looking the keys up instead would undo a revision that came in between.
    """
    row = connection.execute(
        select(samples.c.chain, samples.c.key).where(
            samples.c.dataset_id == dataset_id, samples.c.position == report.head.position - 1
        )
    ).one_or_none()
    return row is not None and (row.chain, row.key) == (report.head.chain, key)


def _resolve(batch: Batch, known: dict[str, Latest], position: int) -> _Plan:
    """Compare a batch with what its keys hold, as if its rows came one after another."""
    if not known and len(set(batch.keys)) == len(batch.keys) and None not in batch.records:
        count = len(batch.keys)
        return _Plan(batch.keys, batch.records, [None] * count, inserted=count)
    keys: list[str] = []
    records: list[bytes | None] = []
    supersedes: list[int | None] = []
    counts = {"inserted": 0, "revised": 0, "retracted": 0, "unchanged": 0}
    for key, record in zip(batch.keys, batch.records, strict=True):
        old = known.get(key)
        if old is None and record is None:
            raise SampleNotFoundError(key)
        if old is not None and old.record == record:
            counts["unchanged"] += 1
            continue
        alive = old is not None and old.record is not None
        counts["retracted" if record is None else "revised" if alive else "inserted"] += 1
        known[key] = Latest(position + len(keys), record)
        keys.append(key)
        records.append(record)
        supersedes.append(old.position if old else None)
    return _Plan(keys, records, supersedes, **counts)


def _write(
    connection: Connection, dataset_id: int, head: Head, plan: _Plan, source: str | None
) -> bytes:
    """Store the rows and return the chain after them."""
    if connection.dialect.name == "postgresql":
        return _copy(connection, dataset_id, head, plan, source)
    hashes = buckets(plan.keys)
    chains = extend(head.chain, _links(plan.supersedes), hashes, plan.records)
    connection.exec_driver_sql(
        "INSERT INTO samples (dataset_id, position, bucket, record, chain, supersedes, source, key)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (dataset_id, position, bucket, record, chain, old, source, key)
            for position, (bucket, record, chain, old, key) in enumerate(
                zip(hashes.tolist(), plan.records, chains, plan.supersedes, plan.keys, strict=True),
                start=head.position,
            )
        ],
    )
    return chains[-1]


def _copy(
    connection: Connection, dataset_id: int, head: Head, plan: _Plan, source: str | None
) -> bytes:
    """COPY a block while the server still stores the one before."""
    chain = head.chain
    with driver(connection).cursor() as cursor, cursor.copy(pgcopy.STATEMENT) as copy:
        copy.write(pgcopy.HEADER)
        for start in range(0, len(plan.keys), _BLOCK):
            part = slice(start, start + _BLOCK)
            keys, records, supersedes = plan.keys[part], plan.records[part], plan.supersedes[part]
            hashes = buckets(keys)
            chains = extend(chain, _links(supersedes), hashes, records)
            chain = chains[-1]
            copy.write(
                pgcopy.block(
                    dataset_id,
                    head.position + start,
                    buckets=hashes,
                    chains=chains,
                    records=records,
                    keys=keys,
                    supersedes=supersedes,
                    source=source,
                )
            )
        copy.write(pgcopy.TRAILER)
    return chain


def _links(supersedes: Sequence[int | None]) -> list[int]:
    return [NONE if old is None else old for old in supersedes]


def _chunks(batch: Batch) -> Iterator[Batch]:
    """Cut a batch by rows and bytes; an empty one is still one chunk."""
    start, size = 0, 0
    for row, record in enumerate(batch.records):
        size += len(record or b"")
        if row > start and (row - start == CHUNK_ROWS or size > CHUNK_BYTES):
            yield _cut(batch, start, row)
            start, size = row, len(record or b"")
    yield _cut(batch, start, len(batch.keys))


def _cut(batch: Batch, start: int, stop: int) -> Batch:
    return replace(batch, keys=batch.keys[start:stop], records=batch.records[start:stop])
