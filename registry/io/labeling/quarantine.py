"""Quarantine: samples that do not fit are stored as rejected rows in the inbox, not in the log."""

from __future__ import annotations

from sqlalchemy import insert

from registry.io.labeling.state_table import StateTable
from registry.io.storable import storable
from registry.storage.database.models import InboxRow


def keep(table: StateTable) -> None:
    """Insert the rejected samples of a table into the inbox with the reason."""
    # In the transaction that retracts the old samples: a rejected one must not be lost.
    if table.rejected:
        table.connection.execute(
            insert(InboxRow),
            [
                {
                    "dataset_id": table.dataset_id,
                    "key": key,
                    "fields": storable(rejection.fields),
                    "action": "insert",
                    "source": rejection.source,
                    "error": storable(rejection.reason),
                    "group_key": rejection.group,
                }
                for key, rejection in table.rejected.items()
            ],
        )
