"""Runs the migrations, for the ``alembic`` command and for ``registry init``."""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy import Connection, text

from registry.engine import make_engine, parse_url, writing
from registry.models import metadata
from registry.schema import VERSION_TABLE

# Any number will do that no other tool takes: "registry" read as bytes, cut to 63 bits.
LOCK = int.from_bytes(b"registry") >> 1


def url() -> str:
    """Return the URL from ``-x url=…``, ``$REGISTRY_URL`` or the embedded default."""
    chosen = context.get_x_argument(as_dictionary=True).get("url")
    return chosen or os.environ.get("REGISTRY_URL") or "sqlite:///registry.db"


def run(connection: Connection) -> None:
    """Upgrade over an open connection, in its transaction.

    Two upgrades at once would both find the old revision: the second waits here for the first.
    The lock goes with the transaction. On SQLite, BEGIN IMMEDIATE does the same.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        include_name=ours,
        render_as_batch=connection.dialect.name == "sqlite",
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def ours(name: str | None, kind: str, _: object) -> bool:
    """Tell whether autogenerate should look at a table: others may share the database."""
    return kind != "table" or name in metadata.tables


def offline() -> None:
    """Write the upgrade as SQL."""
    context.configure(
        dialect_name=parse_url(url()).get_dialect().name,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        literal_binds=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    offline()
elif given := context.config.attributes.get("connection"):
    run(given)
else:
    engine = make_engine(url())
    with writing(engine) as opened:
        run(opened)
    engine.dispose()
