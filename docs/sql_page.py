"""The tables of the database, as their models declare them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from page_text import in_cell, markdown, one_line
from sqlalchemy import CheckConstraint, Column, ForeignKeyConstraint, Table, UniqueConstraint
from sqlalchemy.dialects import postgresql, sqlite

from registry.storage.database import models
from registry.storage.database.schema import REVISION

SQL = f"""\
# SQL schema

The tables at the schema revision {REVISION}, which the table `registry_alembic_version` holds.
`registry init --sql` prints the statements that create all of them.

Read the tables as you like; [roles](../operate/roles.md) has the grants. Write only into `inbox`,
as [its page](../inbox.md) says:
[triggers](../operate/postgresql.md#what-postgresql-refuses) refuse what would break a log.
[Records](records.md) describes the bytes in `samples`.
"""


def sql_page() -> str:
    """Return the tables, with their columns, constraints and indexes."""
    lines = [
        SQL,
    ]
    for row in vars(models).values():
        if inspect.isclass(row) and issubclass(row, models.Base) and row is not models.Base:
            lines += ["", *_table_lines(row)]
    return "\n".join([*lines, ""])


def _table_lines(row: type[models.Base]) -> Iterator[str]:
    table = row.__table__
    yield f"## {table.name}"
    yield ""
    yield _with_tables(markdown(inspect.cleandoc(row.__doc__ or "")))
    yield ""
    yield "|column|PostgreSQL|SQLite|may be null|default|meaning|"
    yield "|---|---|---|---|---|---|"
    notes = _attribute_docstrings(row)
    for column in table.columns:
        yield _column_row(column, notes.get(column.name, ""))
    yield ""
    yield from (f"- {each}" for each in _constraints(table))


def _column_row(column: Column[Any], note: str) -> str:
    default = getattr(column.server_default, "arg", "")
    cells = [
        f"`{column.name}`",
        column.type.compile(postgresql.dialect()).lower(),
        column.type.compile(sqlite.dialect()).lower(),
        "yes" if column.nullable else "",
        f"`{default}`" if str(default) else "",
        in_cell(_with_tables(one_line(note))),
    ]
    return f"|{'|'.join(cells)}|"


def _with_tables(text: str) -> str:
    """Name the tables instead of their classes."""
    for row in vars(models).values():
        if inspect.isclass(row) and issubclass(row, models.Base) and row is not models.Base:
            text = text.replace(f"`{row.__name__}`", f"`{row.__tablename__}`")
            text = text.replace(f"`{row.__name__}.", f"`{row.__tablename__}.")
    return text


def _constraints(table: Table) -> Iterator[str]:
    yield f"primary key {_names(table.primary_key.columns)}"
    # Sorted, as a set has another order in each process.
    for each in sorted(table.constraints, key=lambda each: str(each.name)):
        if isinstance(each, UniqueConstraint):
            yield f"unique {_names(each.columns)}"
        elif isinstance(each, CheckConstraint):
            yield f"check `{each.sqltext}`"
        elif isinstance(each, ForeignKeyConstraint):
            target = each.elements[0].target_fullname
            cascade = f", on delete {each.ondelete.lower()}" if each.ondelete else ""
            yield f"{_names(each.columns)} refers to `{target}`{cascade}"
    for index in sorted(table.indexes, key=lambda each: str(each.name)):
        where = index.dialect_options["postgresql"]["where"]
        condition = f" where `{where}`" if where is not None else ""
        kind = "unique index" if index.unique else "index"
        columns = ", ".join(f"`{str(each).rpartition('.')[2]}`" for each in index.expressions)
        yield f"{kind} `{index.name}` on {columns}{condition}"


def _names(columns: Iterable[Column[Any]]) -> str:
    return ", ".join(f"`{column.name}`" for column in columns)


def _attribute_docstrings(kind: type) -> dict[str, str]:
    """Return the docstrings of a class's attributes, which only the source has."""
    body = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(body, ast.ClassDef)
    notes: dict[str, str] = {}
    name = ""
    for each in body.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            name = each.target.id
        elif isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name):
            name = each.targets[0].id
        elif isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant) and name:
            notes[name] = inspect.cleandoc(str(each.value.value))
    return notes
