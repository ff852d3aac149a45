"""One log, one history: noticing a database that went back in time, and then perhaps another way.

A database that was restored from a dump, or a standby that was promoted before it had received the
last commits, has lost rows that this process wrote or read, and gives their positions to others.
"""

from __future__ import annotations

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
    """Keep in mind a head that was committed."""
    heads = _committed.setdefault(engine, {})
    known = heads.get(dataset_id)
    if known is None or known.position < head.position:
        heads[dataset_id] = head


def check(connection: Connection, dataset_id: int, head: Head) -> None:
    """Raise `DivergenceError`, once, unless the log leads to what was committed here before.

    The head is locked. A server that fails over breaks its connections, so that each is checked
    once, but for a log that is not longer than it was, which costs nothing to see.
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
        if connection.dialect.name == "postgresql":
            checked.add(dataset_id)
        return
    del heads[dataset_id]
    raise _parted(
        f"rows up to position {known.position} ({known.chain.hex()}) were committed here",
        head,
        found,
        "send again what must not be lost: nothing of this call is stored, the next one is",
    )


def check_reader(engine: Engine, dataset_id: int, head: Head, after: int, chain: bytes) -> None:
    """Raise `DivergenceError` where the log does not lead to where a reader is.

    ``chain`` is the value at ``after`` when that was read. A standby that is behind will catch up.
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
