"""The base class of the tables, and the columns that several of them have.

A table is a class, so that type checkers know its columns. SQLAlchemy's ORM has such classes, too.
But nothing here needs objects for rows, the ORM takes as long to load as NumPy, and it makes each
statement slower to build. The columns are declared as `ColumnElement`, since SQLAlchemy tells type
checkers that a `Column` is no attribute of a class.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    ForeignKey,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    func,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

# Must not change: the constraints of existing databases have these names.
metadata: MetaData = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware time in UTC, also from SQLite, which stores no time zone."""

    impl: DateTime = DateTime(timezone=True)
    cache_ok: bool | None = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# Keys compare by their bytes, whatever the database's locale. Other collations are slower, and
# would sort keys differently on each database.
KEY = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
DOCUMENT: TypeEngine[Any] = JSON().with_variant(postgresql.JSONB(), "postgresql")
"""A JSON document; where the column may be NULL, `OPTIONAL_DOCUMENT`."""
OPTIONAL_DOCUMENT: TypeEngine[Any] = JSON(none_as_null=True).with_variant(
    postgresql.JSONB(none_as_null=True), "postgresql"
)


def serial() -> ColumnElement[int]:
    """Return a primary key of row numbers."""
    # SQLite generates them only if the type is exactly INTEGER.
    return Column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)


def of_dataset(*, primary_key: bool = False) -> ColumnElement[int]:
    """Return the column of the dataset that a row belongs to."""
    return Column(
        ForeignKey("datasets.id", ondelete="CASCADE"),
        primary_key=primary_key,
        autoincrement=False,
        nullable=False,
    )


def bigint() -> ColumnElement[int]:
    """Return a column of positions, or of other large numbers."""
    return Column(BigInteger, nullable=False)


def counter() -> ColumnElement[int]:
    """Return a column of numbers that begin with 0."""
    return Column(BigInteger, server_default="0", nullable=False)


def inserted_at() -> ColumnElement[datetime]:
    """Return a column of when rows were inserted."""
    return Column(UtcDateTime, server_default=func.now(), nullable=False)


class _Tables(type):
    """Makes a `Table` of the columns of a class, under the names of its attributes."""

    __table__: Table
    __tablename__: str

    def __init__(cls, name: str, bases: tuple[type, ...], attributes: dict[str, Any]) -> None:
        super().__init__(name, bases, attributes)
        columns = {key: value for key, value in attributes.items() if isinstance(value, Column)}
        if not columns:  # the base class
            return
        for key, column in columns.items():
            column.name = column.key = key
        # As SQLAlchemy's own classes have them: constraints, then a dict of options.
        arguments, options = attributes.get("__table_args__", ()), {}
        if arguments and isinstance(arguments[-1], dict):
            *arguments, options = arguments
        cls.__table__ = Table(cls.__tablename__, metadata, *columns.values(), *arguments, **options)

    def __clause_element__(cls) -> Table:
        # SQLAlchemy calls this where it takes a table, as in ``select(DatasetRow)``.
        return cls.__table__


class Base(metaclass=_Tables):
    """Base class of the tables, whose attributes are their columns."""

    __tablename__: ClassVar[str]
    __table__: ClassVar[Table]
