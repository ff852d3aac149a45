"""Detection of a log whose history has changed: rows that were committed or read are gone.

A database that was restored from a dump, or a standby that was promoted before it had received the
last commits, has lost rows that this process wrote or read. It gives their positions to other rows.

Each process remembers, per engine and dataset, the furthest head that it has committed, and a
reader the chain value at its position. Both are compared with the chain value that the log has at
the same position. The chain covers every row before it, so that an equal value is an equal history.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine

from registry.errors import DivergenceError
from registry.storage.database.transactions import reading
from registry.storage.log.head import Head, chain_at
from registry.storage.log.standby import in_recovery
from registry.storage.log.watermark import Watermark

_CHECKED = "registry_histories"
_committed: WeakKeyDictionary[Engine, dict[int, Head]] = WeakKeyDictionary()
"""The furthest head of each dataset that this process has committed through an engine."""


def remember(engine: Engine, dataset_id: int, head: Head) -> None:
    """Remember a head that was committed, unless a later one is known."""
    heads = _committed.setdefault(engine, {})
    known = heads.get(dataset_id)
    # Threads commit in one order and may arrive here in another: an earlier head must not replace
    # a later one.
    if known is None or known.position < head.position:
        heads[dataset_id] = head


def check(connection: Connection, dataset_id: int, head: Head) -> None:
    """Raise `DivergenceError`, once, unless the log contains what was committed here before.

    The caller holds the lock on the head. A failover breaks the server's connections, so that one
    check per connection is enough. Only a log that has not grown is checked each time, which needs
    no query where the position is the same.
    """
    heads = _committed.get(connection.engine, {})
    known = heads.get(dataset_id)
    checked = connection.info.setdefault(_CHECKED, set())
    if known is None or (dataset_id in checked and head.position > known.position):
        return
    chain: bytes | None = head.chain
    if head.position != known.position:
        chain = chain_at(connection, dataset_id, known.position)
    if chain == known.chain:
        # SQLite has no server whose connections break, so that each transaction is checked there.
        if connection.dialect.name == "postgresql":
            checked.add(dataset_id)
        return
    # Forgotten before it is raised: the caller is informed once and may then write to the new
    # history. Otherwise this process could never append to the dataset again.
    del heads[dataset_id]
    raise _diverged(
        f"rows up to position {Watermark.of(known)} were committed here",
        head,
        chain,
        "send again what must not be lost: nothing of this call is stored, the next one is",
    )


def check_reader(engine: Engine, dataset_id: int, head: Head, reader: Watermark) -> None:
    """Raise `DivergenceError` where the log does not contain what a reader has read.

    ``reader`` is the reader's position and the chain that the log had there. A standby that is
    behind raises nothing, since it may still receive these rows.
    """
    chain: bytes | None = head.chain
    if head.position != reader.position:
        with reading(engine) as connection:
            chain = chain_at(connection, dataset_id, reader.position)
            if chain is None and in_recovery(connection):
                return
    refuse_other(head, reader, chain)


def refuse_other(head: Head, reader: Watermark, chain: bytes | None) -> None:
    """Raise `DivergenceError` unless ``chain``, the log's at the reader's position, is its own."""
    if chain != reader.chain:
        lost = f"rows up to position {reader} were read"
        raise _diverged(lost, head, chain, "read again from a position where both agree")


def last_common(positions: Sequence[int], agree: Callable[[int], bool]) -> int:
    """Return the last of these ascending positions where two logs agree; 0 if they do at none.

    ``agree`` compares the logs' chains at a position. Each covers all rows before it, so that logs
    which differ at a position differ at all later ones: a binary search needs few comparisons.
    """
    count = bisect_left(positions, True, key=lambda position: not agree(position))
    return positions[count - 1] if count else 0


def _diverged(lost: str, head: Head, chain: bytes | None, remedy: str) -> DivergenceError:
    """Return the error; ``chain`` is what the log has in place of the lost rows, if anything."""
    instead = (
        f"ends at position {head.position}"
        if chain is None
        else f"has another history there ({chain.hex()})"
    )
    return DivergenceError(
        f"{lost}, but the database's log {instead}: was it restored, or did it fail over to a "
        f"server that had not received them? {remedy}"
    )
