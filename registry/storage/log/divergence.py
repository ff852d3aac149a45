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
    found: bytes | None = head.chain
    if head.position != known.position:
        found = chain_at(connection, dataset_id, known.position)
    if found == known.chain:
        # SQLite has no server whose connections break, so that each transaction is checked there.
        if connection.dialect.name == "postgresql":
            checked.add(dataset_id)
        return
    # Forgotten before it is raised: the caller is informed once and may then write to the new
    # history. Otherwise this process could never append to the dataset again.
    del heads[dataset_id]
    raise _parted(
        f"rows up to position {known.position} ({known.chain.hex()}) were committed here",
        head,
        found,
        "send again what must not be lost: nothing of this call is stored, the next one is",
    )


def check_reader(engine: Engine, dataset_id: int, head: Head, after: int, chain: bytes) -> None:
    """Raise `DivergenceError` where the log does not contain what a reader has read.

    ``chain`` is the value at ``after`` when the reader was there. A standby that is behind raises
    nothing, since it may still receive these rows.
    """
    found: bytes | None = head.chain
    if head.position != after:
        with reading(engine) as connection:
            found = chain_at(connection, dataset_id, after)
            if found is None and in_recovery(connection):
                return
    if found != chain:
        said = f"rows up to position {after} ({chain.hex()}) were read"
        raise _parted(said, head, found, "read again from a position where both agree")


def last_common(positions: Sequence[int], agree: Callable[[int], bool]) -> int:
    """Return the last of these ascending positions where two logs agree; 0 if they do at none.

    ``agree`` compares the logs' chains at a position. Each covers all rows before it, so that logs
    which differ at a position differ at all later ones: a binary search needs few comparisons.
    """
    count = bisect_left(positions, True, key=lambda position: not agree(position))
    return positions[count - 1] if count else 0


def _parted(what: str, head: Head, found: bytes | None, remedy: str) -> DivergenceError:
    said = (
        f"ends at position {head.position}"
        if found is None
        else f"has another history there ({found.hex()})"
    )
    return DivergenceError(
        f"{what}, but the database's log {said}: was it restored, or did it fail over to a server "
        f"that had not received them? {remedy}"
    )
