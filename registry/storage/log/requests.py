"""Requests of tools, of which many are committed together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from registry.errors import InvalidSampleError, RegistryError
from registry.storage.log.batch import Batch, Outcome, Report
from registry.storage.log.changes import Change, batches
from registry.storage.log.inbox_corrections import Correction, discard_corrected
from registry.storage.log.schemas import Schemas
from registry.storage.log.writer import Writer, transact_in


def append_requests(schemas: Schemas, requests: Sequence[Sequence[Change]]) -> list[Outcome]:
    """Append requests in one transaction: see `Dataset.apply`."""
    # Encoded before the transaction, during which other writers of the dataset wait.
    encoded = _encoded(schemas, requests)

    def work(writer: Writer) -> list[Outcome]:
        # Asked for before the rows are appended: later, it would first insert them, in a round trip
        # of their own.
        connection = writer.connection
        outcomes = writer.append(encoded)
        stored = (
            Correction.of(change)
            for changes, outcome in zip(requests, outcomes, strict=True)
            if isinstance(outcome, Report)
            for change in changes
        )
        corrections = [each for each in stored if each is not None]
        discard_corrected(connection, writer.dataset_id, corrections)
        return outcomes

    return transact_in(schemas, work, batches=encoded)


def append_prepared(
    schemas: Schemas, prepare: Callable[[Connection], Sequence[Sequence[Change]]]
) -> list[Outcome]:
    """Append the requests that ``prepare`` returns: see `Dataset.amend_together`."""

    # All under the lock: changes that are prepared before it could be based on rows that
    # another writer revises before they are appended.
    def work(writer: Writer) -> list[Outcome]:
        # Read first, so that `schema` is the one in force while ``prepare`` runs.
        schema = writer.schema
        return writer.append(batches(schema, prepare(writer.connection)))

    return transact_in(schemas, work)


def _encoded(schemas: Schemas, requests: Sequence[Sequence[Change]]) -> list[Batch | RegistryError]:
    """Return the batch of each request, encoded with the newest schema, or its error."""
    while True:
        encoded = batches(schemas.newest, requests)
        invalid = any(isinstance(each, InvalidSampleError) for each in encoded)
        # What does not fit may need a class or a feature that was just added.
        if not invalid or not schemas.refresh():
            return encoded
