"""The record of received webhook events: each once, by name and digest, without its body."""

from __future__ import annotations

import re
from typing import Literal

from sqlalchemy import Connection, Engine, select

from registry.storage.database.models import DeliveryRow
from registry.storage.database.sql import insert_if_new
from registry.storage.database.transactions import write
from registry.storage.log.head import read_head

DeliveryStatus = Literal["recorded", "repeated", "replayed"]

_EVENT = re.compile(r"[\w:.-]{1,64}", re.ASCII)


def record(
    engine: Engine, dataset_id: int, tool: str, event: object, digest: bytes, signed: int = 0
) -> DeliveryStatus:
    """Call `record_in` in its own transaction."""

    def work(connection: Connection) -> DeliveryStatus:
        read_head(connection, dataset_id)  # raises if the dataset was dropped
        return record_in(connection, dataset_id, tool, event, digest, signed)

    return write(engine, work)


def record_in(
    connection: Connection,
    dataset_id: int,
    tool: str,
    event: object,
    digest: bytes,
    signed: int = 0,
) -> DeliveryStatus:
    """Store an event unless its ``digest`` (32 bytes) is stored already.

    Returns "recorded" for a new event. A sender that received no answer sends the event again and
    signs it again, at another time: that one is "repeated". An event with the same time of signing
    as the first was copied by a third party: that one is "replayed". ``signed`` is in seconds since
    the epoch, 0 for an event without a time.
    """
    # The name is text from a request: what is not like the name of an event is not stored.
    name = event if isinstance(event, str) and _EVENT.fullmatch(event) else "unknown"
    stored_event = f"{name}@{signed}" if signed else name
    delivery = {"dataset_id": dataset_id, "tool": tool, "digest": digest}
    # Insert first: with a SELECT first, two deliveries at the same time would both be new.
    if insert_if_new(connection, DeliveryRow, {**delivery, "event": stored_event}):
        return "recorded"
    first: str = connection.execute(select(DeliveryRow.event).filter_by(**delivery)).scalar_one()
    return "replayed" if signed and first.endswith(f"@{signed}") else "repeated"
