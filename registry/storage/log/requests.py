"""Requests of tools, of which many are committed together."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Engine

from registry.samples.codec import Codec
from registry.storage.log.batch import Outcome, Report
from registry.storage.log.changes import Change, batches
from registry.storage.log.inbox_corrections import Correction, discard_corrected
from registry.storage.log.writer import Writer, transact


def append_requests(
    engine: Engine, dataset_id: int, codec: Codec, requests: Sequence[Sequence[Change]]
) -> list[Outcome]:
    """Append requests in one transaction: see `Dataset.apply`."""
    # Encoded before the transaction, during which other writers of the dataset wait.
    encoded = batches(codec, requests)

    def work(writer: Writer) -> list[Outcome]:
        outcomes = writer.append(encoded)
        stored = (
            Correction.of(change)
            for changes, outcome in zip(requests, outcomes, strict=True)
            if isinstance(outcome, Report)
            for change in changes
        )
        corrections = [each for each in stored if each is not None]
        discard_corrected(writer.connection, dataset_id, corrections)
        return outcomes

    return transact(engine, dataset_id, work)
