"""Quarantine: samples that do not fit are stored as rejected rows in the inbox, not in the log."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, insert

from registry.io.labeling.annotation_state import AnnotationState
from registry.io.storable import storable
from registry.storage.database.models import InboxRow


def keep(connection: Connection, dataset_id: int, rejected: Mapping[str, AnnotationState]) -> None:
    """Insert rejected samples, given by their keys, into the inbox with the reason."""
    # In the transaction that retracts the old samples: a rejected one must not be lost.
    if rejected:
        connection.execute(
            insert(InboxRow),
            [
                {
                    "dataset_id": dataset_id,
                    "key": key,
                    "fields": storable(state.values or {}),
                    "action": "insert",
                    "source": state.source,
                    "error": storable(str(state.error)),
                }
                for key, state in rejected.items()
            ],
        )
