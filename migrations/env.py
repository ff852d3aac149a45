"""Runs the migrations, for the ``alembic`` command and for ``registry init``."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, text

from registry.errors import ConflictError, DatabaseError, RegistryError
from registry.storage.database.engine import make_engine
from registry.storage.database.models import metadata
from registry.storage.database.retry import retrying
from registry.storage.database.schema import VERSION_TABLE
from registry.storage.database.transactions import lent, pooled, reading, writing
from registry.storage.database.url import parse_url, shown

# Any number will do that no other tool takes: "registry" read as bytes, cut to 63 bits.
LOCK = int.from_bytes(b"registry") >> 1
WAIT = 600
"""Seconds to wait for another process's migration, and for locks."""
LOCK_TIMEOUT = 2000
STATEMENT_TIMEOUT = 600_000
"""Milliseconds for one lock, behind which writers queue, and for one statement."""


def url() -> str:
    """Return the URL from the caller, ``-x url=…``, ``$REGISTRY_URL`` or the embedded default."""
    given: str | None = context.config.attributes.get("url")
    chosen = given or context.get_x_argument(as_dictionary=True).get("url")
    return chosen or os.environ.get("REGISTRY_URL") or "sqlite:///registry.db"


def run(engine: Engine) -> None:
    """Upgrade, or downgrade, while no other process does."""
    if pooled(engine):
        raise DatabaseError(
            f"{shown(engine.url)} leads to a pooler, which keeps neither locks nor settings; "
            "migrate by a URL of the server itself"
        )
    if engine.dialect.name == "postgresql":
        with locked(engine):
            for attempt in retrying(WAIT):
                with attempt, lent(engine) as connection:
                    migrate_gently(connection)
        return
    # One IMMEDIATE transaction: others wait for the file, and what fails leaves nothing behind.
    for attempt in retrying(WAIT):
        with attempt, writing(engine) as connection:
            migrate(connection)


@contextmanager
def locked(engine: Engine) -> Iterator[None]:
    """Hold the migrations' lock, on a connection of its own and in no transaction.

    To wait in a lock, or in a transaction, would keep an index that the other process builds
    concurrently from ever being done: hence the polling.
    """
    deadline = time.monotonic() + WAIT
    with reading(engine) as connection:
        while not connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": LOCK}):
            if time.monotonic() > deadline:
                raise ConflictError(
                    f"another process has been migrating {shown(engine.url)} for {WAIT} seconds; "
                    "wait for it to end (pg_locks shows which holds the advisory lock)"
                )
            time.sleep(random.uniform(0.05, 0.2))  # noqa: S311  # not a secret
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})


def migrate_gently(connection: Connection) -> None:
    """Upgrade in a transaction a migration, none of which keeps writers waiting for long.

    A lock that is not had in time is given up, so that those who queue behind it go on, and tried
    for again.
    """
    connection.exec_driver_sql(f"SET lock_timeout = {LOCK_TIMEOUT}")
    connection.exec_driver_sql(f"SET statement_timeout = {STATEMENT_TIMEOUT}")
    connection.commit()
    try:
        migrate(connection, transaction_per_migration=True)
    finally:
        connection.invalidate()  # it goes with its settings


def migrate(connection: Connection, *, transaction_per_migration: bool = False) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        include_name=ours,
        render_as_batch=connection.dialect.name == "sqlite",
        transactional_ddl=True,
        transaction_per_migration=transaction_per_migration,
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
        dialect_opts={"paramstyle": "named"},  # else percent signs are doubled, as for a driver
        transactional_ddl=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def main() -> None:
    if context.is_offline_mode():
        offline()
    elif given := context.config.attributes.get("engine"):
        run(given)
    else:
        made = make_engine(url())
        run(made)
        made.dispose()


try:
    main()
except RegistryError as error:
    if context.config.cmd_opts is None:  # not the ``alembic`` command
        raise
    raise CommandError(str(error)) from None
