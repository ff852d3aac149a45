"""Which webhook events were received, each of them once; of a body, only its hash is kept."""

from __future__ import annotations

import re
from typing import Literal

from sqlalchemy import Connection, Engine, select

from registry.storage.database.models import DeliveryRow
from registry.storage.database.sql import insert_if_new
from registry.storage.database.transactions import write
from registry.storage.log import head as heads

Outcome = Literal["recorded", "repeated", "replayed"]

_EVENT = re.compile(r"[\w:.-]{1,64}", re.ASCII)


def record(
    engine: Engine, dataset_id: int, tool: str, event: object, digest: bytes, signed: int = 0
) -> Outcome:
    """Note an event in a transaction of its own, as `note` does."""

    def work(connection: Connection) -> Outcome:
        heads.read(connection, dataset_id)  # raises where the dataset was dropped
        return note(connection, dataset_id, tool, event, digest, signed)

    return write(engine, work)


def note(
    connection: Connection,
    dataset_id: int,
    tool: str,
    event: object,
    digest: bytes,
    signed: int = 0,
) -> Outcome:
    """Note an event unless its digest (32 bytes) is known; tell which.

    A sender that had no answer sends the event again, signed anew (``signed``, in seconds); one
    that comes with the very signature of the first was copied by somebody on the way.
    """
    name = event if isinstance(event, str) and _EVENT.fullmatch(event) else "unknown"
    noted = f"{name}@{signed}" if signed else name
    place = {"dataset_id": dataset_id, "tool": tool, "digest": digest}
    if insert_if_new(connection, DeliveryRow, {**place, "event": noted}):
        return "recorded"
    first: str = connection.execute(select(DeliveryRow.event).filter_by(**place)).scalar_one()
    return "replayed" if signed and first.endswith(f"@{signed}") else "repeated"
