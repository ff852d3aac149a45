"""What happens to the rows of a file that do not fit their dataset."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlalchemy import Connection, and_, delete, insert, or_

from registry.catalog.dataset import Dataset
from registry.errors import ImportFileError, PermissionDeniedError
from registry.io.storable import storable
from registry.storage.database.models import InboxRow
from registry.storage.database.transactions import read, write
from registry.storage.log.inbox_corrections import (
    Correction,
    discard_corrected,
    rejected_keys,
)

RejectedRow = tuple[ImportFileError, Mapping[str, Any] | None]
"""A row of a file that does not fit: why, and what could be read of it, by feature."""
SHOWN = 20
"""Faults that are kept in full; of the others, only the number is."""
_LONGEST = 1 << 16
"""Bytes of an array or image that are kept in a rejected row; the file has it."""


@dataclass
class Faults:
    """The faults of a file: the first one is raised or, with ``keep_going``, all are counted.

    ``first`` has the first `SHOWN` of them, in the order of the file. ``outdated`` counts the
    rejected rows of an earlier import that this one corrects, and that the role may not remove.
    """

    keep_going: bool = False
    first: list[ImportFileError] = field(default_factory=list)
    count: int = 0
    outdated: int = 0

    def add(self, error: ImportFileError) -> None:
        """Count a fault, or raise it."""
        if not self.keep_going:
            raise error
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(error)


def keep_rejected(dataset: Dataset, source: str, rows: Sequence[RejectedRow]) -> None:
    """Store rejected rows of a file in the inbox, in place of those of an earlier import of it."""
    # The error says the file and the line.
    if not rows:
        return
    values = [
        {
            "dataset_id": dataset.id,
            "key": error.key,
            "fields": None if fields is None else storable(_plain(fields)),
            "action": "insert",
            "source": source,
            "error": storable(str(error)),
        }
        for error, fields in rows
    ]

    def replace(connection: Connection) -> None:
        keys = [row["key"] for row in values if row["key"] is not None]
        errors = [row["error"] for row in values if row["key"] is None]
        same = or_(InboxRow.key.in_(keys), and_(InboxRow.key.is_(None), InboxRow.error.in_(errors)))
        connection.execute(
            delete(InboxRow).where(
                InboxRow.dataset_id == dataset.id,
                InboxRow.source == source,
                InboxRow.error.is_not(None),
                same,
            )
        )
        connection.execute(insert(InboxRow), values)

    write(dataset.inbox.engine, replace)
    dataset.inbox.prune()


def discard_outdated(dataset: Dataset, source: str, keys: Sequence[str]) -> int:
    """Remove the rejected rows of a file whose keys now have accepted rows of it.

    Returns the number of those that the role may not remove.
    """
    engine = dataset.inbox.engine
    outdated = read(engine, rejected_keys, dataset.id, source, keys)
    if not outdated:
        return 0
    corrections = [Correction(key, source, None) for key in outdated]
    try:
        write(engine, discard_corrected, dataset.id, corrections)
    # A role that only writes samples may not change the inbox, and its rows are stored already.
    except PermissionDeniedError:
        return len(outdated)
    return 0


def _plain(value: Any) -> Any:
    """Return a value as JSON, with ``…`` in place of what would make the row long."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist() if value.nbytes <= _LONGEST else "…"
    if isinstance(value, bytes):
        return b64encode(value).decode() if len(value) <= _LONGEST else "…"
    return value
