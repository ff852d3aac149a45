"""Alembic's environment: runs the migrations, for the ``alembic`` command and ``registry init``.

How it works: on PostgreSQL one connection holds an advisory lock while another one migrates, in a
transaction per migration and with short lock timeouts. What times out is tried again for up to
`WAIT` seconds. On SQLite all migrations are one IMMEDIATE transaction.
"""

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
from registry.storage.database.transactions import open_connection, pooled, reading, writing
from registry.storage.database.url import masked, parse_url

# The key of the advisory lock: the bytes of "registry", shifted to fit a signed 64-bit integer.
# Locks of other tools on the database must have other keys.
LOCK = int.from_bytes(b"registry") >> 1
WAIT = 600
"""Seconds to wait for the migration of another process, and to retry after transient errors."""
LOCK_TIMEOUT = 2000
STATEMENT_TIMEOUT = 600_000
"""Milliseconds for one attempt at a lock, and for one statement. Writers queue behind a migration
that waits for a lock, so the first is also how long they are blocked."""


def url() -> str:
    """Return the URL of the caller, ``-x url=…``, ``$REGISTRY_URL`` or the default SQLite file."""
    given: str | None = context.config.attributes.get("url")
    chosen = given or context.get_x_argument(as_dictionary=True).get("url")
    return chosen or os.environ.get("REGISTRY_URL") or "sqlite:///registry.db"


def run(engine: Engine) -> None:
    """Upgrade or downgrade, while no other process does.

    Raises `ConflictError` if another process migrates for too long, and `DatabaseError` for a
    pooler.
    """
    # Advisory locks and SET belong to a session, and a pooler changes it with each transaction.
    if pooled(engine):
        raise DatabaseError(
            f"{masked(engine.url)} leads to a pooler, which keeps neither locks nor settings; "
            "migrate by a URL of the server itself"
        )
    if engine.dialect.name == "postgresql":
        with locked(engine):
            for attempt in retrying(WAIT):
                with attempt, open_connection(engine) as connection:
                    migrate_gently(connection)
        return
    # One IMMEDIATE transaction: other processes wait for the file, and a failed migration leaves
    # nothing behind, since DDL is transactional in SQLite.
    for attempt in retrying(WAIT):
        with attempt, writing(engine) as connection:
            migrate(connection)


@contextmanager
def locked(engine: Engine) -> Iterator[None]:
    """Hold the advisory lock of the migrations, on its own connection and outside a transaction.

    It polls with ``pg_try_advisory_lock``. CREATE INDEX CONCURRENTLY waits for all transactions
    that are older: if this process waited in ``pg_advisory_lock``, the statement that waits would
    be such a transaction, and the index of the other process would never be complete.
    """
    deadline = time.monotonic() + WAIT
    with reading(engine) as connection:
        while not connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": LOCK}):
            if time.monotonic() > deadline:
                raise ConflictError(
                    f"another process has been migrating {masked(engine.url)} for {WAIT} seconds; "
                    "wait for it to end (pg_locks shows which holds the advisory lock)"
                )
            # Random, so that several waiting processes do not poll at the same moments.
            time.sleep(random.uniform(0.05, 0.2))  # noqa: S311  # not a secret
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})


def migrate_gently(connection: Connection) -> None:
    """Migrate in one transaction per migration, without blocking writers for long.

    A lock that is not granted in time raises a transient error, so that the writers that queue
    behind it continue. The caller tries again, from the last migration that was committed.
    """
    connection.exec_driver_sql(f"SET lock_timeout = {LOCK_TIMEOUT}")
    connection.exec_driver_sql(f"SET statement_timeout = {STATEMENT_TIMEOUT}")
    # SET is undone by a rollback: committed, the timeouts hold for every migration that follows.
    connection.commit()
    try:
        migrate(connection, transaction_per_migration=True)
    finally:
        connection.invalidate()  # returned to the pool, it would keep the timeouts


def migrate(connection: Connection, *, transaction_per_migration: bool = False) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        include_name=ours,
        # SQLite cannot alter most things: autogenerate must copy the table instead.
        render_as_batch=connection.dialect.name == "sqlite",
        transaction_per_migration=transaction_per_migration,
    )
    with context.begin_transaction():
        context.run_migrations()


def ours(name: str | None, kind: str, _: object) -> bool:
    """Return whether a table is one of Registry's.

    Without this, autogenerate would drop the tables of other applications in the database.
    """
    return kind != "table" or name in metadata.tables


def offline() -> None:
    """Write the migrations as SQL to stdout."""
    context.configure(
        dialect_name=parse_url(url()).get_dialect().name,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},  # otherwise percent signs are doubled
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
        engine = make_engine(url())
        run(engine)
        engine.dispose()


try:
    main()
except RegistryError as error:
    if context.config.cmd_opts is None:  # called by `registry init`, which prints it
        raise
    raise CommandError(str(error)) from None
