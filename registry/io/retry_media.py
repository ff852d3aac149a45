"""Another attempt of rejected rows, with the files and URIs that their fields name."""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry.catalog.dataset import Dataset
from registry.errors import InvalidSampleError
from registry.io.media import MediaReader
from registry.io.row_media import is_named
from registry.samples.features import Features
from registry.storage.log.batch import Report
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
    inbox, features = dataset.inbox, dataset.features

    def load(row: RejectedFields) -> tuple[RejectedFields, Mapping[str, bytes] | str]:
        try:
            return row, _loaded(features, row.fields, media)
        except InvalidSampleError as error:
            return row, str(error)

    waiting = failed = 0
    rows = rejected_fields(inbox.engine, inbox.dataset_id, ids)
    for row, result in media.map(load, rows):
        if isinstance(result, str):
            set_error(inbox.engine, inbox.dataset_id, row.id, result)
            failed += 1
        elif result:
            # As JSON: the row waits for a drain, and another process may be the one.
            encoded = {
                name: binascii.b2a_base64(content, newline=False).decode()
                for name, content in result.items()
            }
            fields = {**row.fields, **encoded}
            waiting += complete(inbox.engine, inbox.dataset_id, row.id, fields)
        else:
            waiting += inbox.retry([row.id])
    return RetriedRows(waiting, failed)


def retry_row(
    dataset: Dataset,
    number: int,
    fields: Mapping[str, Any] | None,
    source: str | None,
    media: MediaReader,
) -> Report:
    """Retry a row as `Inbox.retry_now` does, with what its fields or the given ones name.

    Raises `InvalidSampleError` if something cannot be read, and the errors of `Inbox.retry_now`.
    """
    inbox = dataset.inbox
    if not media.roots and media.fetcher is None:
        return inbox.retry_now(number, fields, source)
    given = fields
    if given is None:
        rows = rejected_fields(inbox.engine, inbox.dataset_id, [number], source)
        given = next((row.fields for row in rows), {})
    if not given.keys() <= dataset.features.keys():
        # Of a feature that another process has added since.
        dataset.schemas.refresh()
    try:
        loaded = _loaded(dataset.features, given, media)
    except InvalidSampleError as error:
        # Not the reason against other fields: those are not the row's.
        if fields is None:
            set_error(inbox.engine, inbox.dataset_id, number, str(error))
        raise
    return inbox.retry_now(number, {**given, **loaded} if loaded else fields, source)


def _loaded(
    features: Features, fields: Mapping[str, Any], media: MediaReader
) -> Mapping[str, bytes]:
    """Return the contents that fields name; raises `InvalidSampleError` with the feature."""
    loaded = {}
    for name, feature in features.items():
        text = fields.get(name)
        if is_named(feature) and isinstance(text, str):
            try:
                loaded[name] = media.load(text)
            except ValueError as error:
                raise InvalidSampleError(str(error), feature=name) from None
    return loaded
