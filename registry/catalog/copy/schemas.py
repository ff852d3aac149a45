"""Copying the schemas of a dataset, each before the first row that is written in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from registry.catalog.copy.rows import overtaken
from registry.errors import DivergenceError
from registry.samples.schema import Schema
from registry.storage.database.models import SchemaRow
from registry.storage.database.transactions import read, write
from registry.storage.log.head import Head, lock_head, store_schema
from registry.storage.log.reader import Log


def first_schema(origin: Log) -> tuple[Schema, datetime]:
    """Return the schema that the source was created with, and when, in UTC."""
    query = select(SchemaRow.created_at).where(
        SchemaRow.dataset_id == origin.dataset_id, SchemaRow.number == 0
    )
    created_at = read(origin.engine, lambda connection: connection.execute(query).scalar_one())
    return origin.schemas.numbered(0), created_at


def check_schemas(origin: Log, copy: Log) -> None:
    """Raise `DivergenceError` unless the copy's schemas are the first ones of the source's."""
    origin.schemas.refresh()
    schemas = [*origin.schemas]
    for schema in copy.schemas:
        if schemas[schema.number : schema.number + 1] != [schema]:
            raise DivergenceError(
                f"the copy's features were changed at position {schema.since}, other than the "
                "source's; copy to another database"
            )


def copy_schemas(origin: Log, copy: Log, head: Head, number: int) -> Head:
    """Copy the schemas up to a number, which begin at the copy's head; return the new head.

    Raises `DivergenceError` if the copy ends at another head.
    """
    if head.schema >= number:
        return head
    after = replace(head, schema=number)
    rows = read(origin.engine, _rows, origin.dataset_id, head.schema, number)

    def store(connection: Connection) -> None:
        existing = lock_head(connection, copy.dataset_id)
        # An attempt before this one may have been committed, although its answer was lost.
        if existing == after:
            return
        if existing != head:
            raise overtaken(head.position)
        values = [{**row, "dataset_id": copy.dataset_id} for row in rows]
        connection.execute(insert(SchemaRow), values)
        store_schema(connection, copy.dataset_id, number)

    write(copy.engine, store)
    return after


def _rows(
    connection: Connection, dataset_id: int, after: int, number: int
) -> Sequence[Mapping[str, Any]]:
    numbers = (SchemaRow.number > after, SchemaRow.number <= number)
    query = select(SchemaRow).where(SchemaRow.dataset_id == dataset_id, *numbers)
    return [dict(row) for row in connection.execute(query).mappings()]
