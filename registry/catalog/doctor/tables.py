"""Checking the tables and indexes of the database."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Constraint, Engine, Index, UniqueConstraint
from sqlalchemy.schema import AddConstraint, CreateIndex

from registry.catalog.doctor.finding import Finding, ask
from registry.samples.text import quoted
from registry.storage.database.models import metadata

_INDEXES = {
    # `to_regclass` is NULL for a table that is missing, where a cast to regclass would raise.
    "postgresql": "SELECT indexrelid::regclass::text, indisvalid AND indisready FROM pg_index"
    " WHERE indrelid = ANY(SELECT to_regclass(name)"
    " FROM unnest(CAST(:tables AS text[])) AS named (name))",
    "sqlite": "SELECT name, 1 FROM sqlite_master WHERE type = 'index'",
}


def check_indexes(engine: Engine) -> Iterator[Finding]:
    """Find indexes that are missing or invalid."""
    dialect = engine.dialect.name
    parameters = {"tables": list(metadata.tables)} if dialect == "postgresql" else {}
    # Names as PostgreSQL prints a regclass: without the schema, if it is in the search path.
    existing = dict(ask(engine, _INDEXES[dialect], **parameters))
    for name, valid in existing.items():
        if not valid:
            yield Finding(
                "error",
                f"index {name}",
                "it is invalid, as after an interrupted build: no query can use it",
                f"REINDEX INDEX CONCURRENTLY {quoted(name)}",
            )
    for name, index in _expected(dialect).items():
        if name not in existing:
            yield Finding(
                "error",
                f"index {name}",
                "it is missing: queries are slow, and values that must be unique may be doubled",
                _statement(engine, index),
            )


def _expected(dialect: str) -> dict[str, Index | Constraint]:
    """Return the indexes that the models define, by name, also those of constraints."""
    expected: dict[str, Index | Constraint] = {}
    for table in metadata.tables.values():
        expected |= {str(index.name): index for index in table.indexes}
        # SQLite gives the indexes of constraints its own names, so they cannot be compared.
        if dialect == "postgresql":
            unique = [c for c in table.constraints if isinstance(c, UniqueConstraint)]
            expected |= {str(c.name): c for c in (table.primary_key, *unique)}
    return expected


def _statement(engine: Engine, index: Index | Constraint) -> str:
    """Return the SQL that creates an index, or the constraint that it belongs to."""
    ddl = CreateIndex(index) if isinstance(index, Index) else AddConstraint(index)
    sql = " ".join(str(ddl.compile(dialect=engine.dialect)).split())
    # Without CONCURRENTLY, CREATE INDEX blocks all writers of the table.
    if engine.dialect.name == "postgresql":
        return sql.replace(" INDEX ", " INDEX CONCURRENTLY ", 1)
    return sql


def check_tables(engine: Engine) -> Iterator[Finding]:
    """Find unlogged tables, which a crash of the server empties."""
    query = (
        "SELECT oid::regclass::text FROM pg_class WHERE relpersistence = 'u' AND oid = ANY("
        "SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) AS named (name))"
    )
    for (name,) in ask(engine, query, tables=list(metadata.tables)):
        yield Finding(
            "error",
            f"table {name}",
            "it is unlogged: a crash of the server empties it, and standbys lack it",
            f"ALTER TABLE {name} SET LOGGED",
        )
