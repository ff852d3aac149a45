"""The base class of the tables, and the types of their columns."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    TypeDecorator,
    func,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, mapped_column

# Must not change: the constraints of existing databases have these names.
metadata = MetaData(
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

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# Keys compare by their bytes, whatever the database's locale. Other collations are slower, and
# would sort keys differently on each database.
_KEY = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")

Key = Annotated[str, mapped_column(_KEY)]
OptionalKey = Annotated[str | None, mapped_column(_KEY)]
# SQLite generates row numbers only if the primary key's type is exactly INTEGER.
Serial = Annotated[
    int, mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
]
DatasetId = Annotated[
    int, mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), autoincrement=False)
]
DatasetKey = Annotated[
    int,
    mapped_column(
        ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    ),
]
Position = Annotated[int, mapped_column(BigInteger)]
Count = Annotated[int, mapped_column(BigInteger, server_default="0")]
Now = Annotated[datetime, mapped_column(server_default=func.now())]


class Base(DeclarativeBase):
    """Declarative base of the tables."""

    metadata = metadata
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy's own way
        str: Text,
        bytes: LargeBinary,
        datetime: UtcDateTime,
        dict[str, Any]: JSON().with_variant(postgresql.JSONB(), "postgresql"),
    }
