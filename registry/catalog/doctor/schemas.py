"""Checking schemas: that every head has its own, and that each only adds to the one before."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, pairwise
from typing import Any

from sqlalchemy import Engine, select

from registry.catalog.doctor.finding import Finding, ask
from registry.errors import RegistryError
from registry.samples.features import ClassLabel, Feature
from registry.samples.schema import Schema
from registry.storage.database.models import NOT_DROPPED, DatasetRow, HeadRow, SchemaRow

_BACKUP = "restore the table schemas from a backup: records can only be read by their schema"


def check_schemas(engine: Engine) -> Iterator[Finding]:
    """Find heads without their schema, and schemas that do not add to the one before."""
    query = (
        select(
            DatasetRow.name,
            HeadRow.position,
            HeadRow.schema,
            SchemaRow.number,
            SchemaRow.since,
            SchemaRow.features,
        )
        .join(HeadRow, HeadRow.dataset_id == DatasetRow.id)
        .outerjoin(SchemaRow, SchemaRow.dataset_id == DatasetRow.id)
        .where(NOT_DROPPED)
        .order_by(DatasetRow.name, SchemaRow.number)
    )
    for name, rows in groupby(ask(engine, query), key=lambda row: row.name):
        for said in _problems(list(rows)):
            yield Finding("error", f"dataset {name}", said, _BACKUP)


def _problems(rows: list[Any]) -> Iterator[str]:
    """Yield what is wrong with the schemas of a dataset, given with its head in each row."""
    head, numbers = rows[0], [row.number for row in rows if row.number is not None]
    if numbers != list(range(head.schema + 1)):
        known = ", ".join(map(str, numbers)) or "none"
        yield f"its head is in schema {head.schema}, and its schemas are {known}"
    schemas = []
    for row in rows:
        if row.number is not None:
            try:
                schemas.append(Schema.from_json(row.number, row.since, row.features))
                _ = schemas[-1].codec
            except (RegistryError, KeyError, TypeError, ValueError) as error:
                yield f"its schema {row.number} cannot be read: {error}"
                return
    if schemas and schemas[0].since:
        yield f"its first schema begins at position {schemas[0].since}, not at 0"
    if schemas and schemas[-1].since > head.position:
        yield (
            f"its schema {schemas[-1].number} begins at position {schemas[-1].since}, after its "
            f"head at {head.position}"
        )
    for older, newer in pairwise(schemas):
        if newer.since < older.since:
            yield (
                f"its schema {newer.number} begins at position {newer.since}, before schema "
                f"{older.number} at {older.since}"
            )
        if problem := _not_added(older, newer):
            yield f"its schema {newer.number} does not only add to schema {older.number}: {problem}"


def _not_added(older: Schema, newer: Schema) -> str | None:
    """Return how a schema changes what the one before has, None if it does not."""
    names = list(newer.features)
    if names[: len(older.features)] != list(older.features):
        return f"the features were {', '.join(older.features)}, and are {', '.join(names)}"
    for name, feature in older.features.items():
        if not _extends(feature, newer.features[name]):
            return f"feature {name!r} was {feature}, and is {newer.features[name]}"
        if older.defaults.get(name) != newer.defaults.get(name):
            return f"feature {name!r} has another default"
    for name in names[len(older.features) :]:
        if name not in newer.defaults:
            return f"feature {name!r} has no default"
    return None


def _extends(older: Feature, newer: Feature) -> bool:
    if not (isinstance(older, ClassLabel) and isinstance(newer, ClassLabel)):
        return older == newer
    if older.names is None or newer.names is None:
        return older.names == newer.names and older.count <= newer.count
    return older.names == newer.names[: older.count]
