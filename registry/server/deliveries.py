"""The record of received webhook events: each once, by name and digest, without its body."""

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
    """Call `note` in its own transaction."""

    def work(connection: Connection) -> Outcome:
        heads.read(connection, dataset_id)  # raises if the dataset was dropped
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
    """Store an event unless its ``digest`` (32 bytes) is known.

    Returns "recorded" for a new event. A sender that received no answer sends the event again and
    signs it again, at another time: that one is "repeated". An event with the same time of signing
    as the first was copied by a third party: that one is "replayed". ``signed`` is in seconds since
    the epoch, 0 for an event without a time.
    """
    name = event if isinstance(event, str) and _EVENT.fullmatch(event) else "unknown"
    noted = f"{name}@{signed}" if signed else name
    place = {"dataset_id": dataset_id, "tool": tool, "digest": digest}
    # Insert first: with a SELECT first, two deliveries at the same time would both be new.
    if insert_if_new(connection, DeliveryRow, {**place, "event": noted}):
        return "recorded"
    first: str = connection.execute(select(DeliveryRow.event).filter_by(**place)).scalar_one()
    return "replayed" if signed and first.endswith(f"@{signed}") else "repeated"
