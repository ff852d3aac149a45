"""The schema's Alembic revision: checked on connecting, upgraded by the migrations."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from registry.errors import SchemaMissingError, SchemaTooNewError, SchemaTooOldError
from registry.storage.database.fork_safety import ThreadLock
from registry.storage.database.transactions import read, reading
from registry.storage.database.url import masked

REVISION = "0009"
"""The revision that this version of the package reads and writes; revisions sort as text."""
VERSION_TABLE = "registry_alembic_version"
_one_at_a_time = ThreadLock()
"""Alembic keeps the current migration in a global, so that two threads must not migrate at once."""


def revision(engine: Engine) -> str | None:
    """Return the database's revision, or None if it has no registry tables."""

    def find(connection: Connection) -> str | None:
        if not inspect(connection).has_table(VERSION_TABLE):
            return None
        query = text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608  # the name is our own
        number: str | None = connection.execute(query).scalar()
        return number

    # A SQLite file is locked while another process sets it up, so this retries. An unreachable
    # server is reported at once.
    if engine.dialect.name == "sqlite":
        return read(engine, find)
    with reading(engine) as connection:
        return find(connection)


def check(engine: Engine) -> None:
    """Raise a `SchemaError` that names the remedy unless the database is at `REVISION`.

    Creates the tables in a SQLite file that has none: the embedded database needs no set-up.
    """
    current = revision(engine)
    url = masked(engine.url)
    if current is None and engine.dialect.name == "sqlite":
        upgrade(engine)
    elif current is None:
        raise SchemaMissingError(f"{url} holds no registry yet; run `registry init --url {url}`")
    elif current < REVISION:
        raise SchemaTooOldError(
            f"{url} is at schema {current} and this version needs {REVISION}; "
            f"run `registry init --url {url}`"
        )
    else:
        _check_known(engine, current)


def _check_known(engine: Engine, current: str | None) -> None:
    if current is not None and current > REVISION:
        raise SchemaTooNewError(
            f"{masked(engine.url)} is at schema {current} and this version knows {REVISION}; "
            "upgrade registry"
        )


def migrations() -> Path:
    """Return the migrations' folder: inside an installed package, next to it in a checkout."""
    package = Path(__file__).parents[2]
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def upgrade(engine: Engine) -> None:
    """Upgrade the database to `REVISION`, as ``alembic upgrade head`` does."""
    _check_known(engine, revision(engine))
    _alembic(engine=engine)


def upgrade_sql(url: str) -> None:
    """Print the SQL that upgrades an empty database of the URL's kind, without connecting."""
    _alembic(url=url)


def _alembic(**attributes: object) -> None:
    # Importing Alembic takes a third of a second, and only set-up needs it.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config(attributes=attributes)
    # ConfigParser would interpolate a % in the path.
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    with _one_at_a_time:
        command.upgrade(config, "head", sql="url" in attributes)
