"""Another attempt of rejected rows, with the files and URIs that their fields name."""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry.catalog.dataset import Dataset
from registry.io.media import MediaReader
from registry.io.row_media import is_named
from registry.storage.log.inbox_fields import (
    RejectedFields,
    complete,
    rejected_fields,
    set_error,
)


@dataclass(frozen=True)
class RetriedRows:
    """How many rejected rows wait again, and of how many something could not be read."""

    waiting: int
    failed: int


def retry_with_media(
    dataset: Dataset, ids: Sequence[int] | None, media: MediaReader
) -> RetriedRows:
    """Let rejected rows wait again, all or those with the given ids, with what they name.

    A row of which a file or URI cannot be read stays rejected, with that reason. Nothing is read
    in a transaction.
    """
    inbox, names = dataset.inbox, [n for n, f in dataset.features.items() if is_named(f)]

    def load(row: RejectedFields) -> tuple[RejectedFields, Mapping[str, Any] | str]:
        loaded = {}
        for name in names:
            if isinstance(text := row.fields.get(name), str):
                try:
                    content = media.load(text)
                except ValueError as error:
                    return row, f"feature {name!r}: {error}"
                loaded[name] = binascii.b2a_base64(content, newline=False).decode()
        return row, loaded

    waiting = failed = 0
    rows = rejected_fields(inbox.engine, inbox.dataset_id, ids)
    for row, result in media.map(load, rows):
        if isinstance(result, str):
            set_error(inbox.engine, inbox.dataset_id, row.id, result)
            failed += 1
        elif result:
            fields = {**row.fields, **result}
            waiting += complete(inbox.engine, inbox.dataset_id, row.id, fields)
        else:
            waiting += inbox.retry([row.id])
    return RetriedRows(waiting, failed)
