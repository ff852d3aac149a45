"""Checking servers and files: versions, settings that can lose data, sessions that block others."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from sqlalchemy import Engine, Row, text

from registry.catalog.doctor.finding import Finding, Severity, ask
from registry.samples.text import quoted
from registry.storage.database.models import metadata
from registry.storage.database.transactions import reading

OLDEST = 14
"""The oldest major version of PostgreSQL that is supported."""
IDLE_SECONDS = 60
"""Seconds for which a transaction may be idle while it holds locks."""

# By setting: the value that is reported, its severity, and what it can cause.
_SETTINGS: dict[str, tuple[str, Severity, str]] = {
    "fsync": ("off", "error", "a crash of the machine can damage the whole database"),
    "full_page_writes": ("off", "error", "a crash of the machine can tear pages"),
    "zero_damaged_pages": ("on", "error", "damaged pages are emptied in place of an error"),
    "ignore_checksum_failure": ("on", "error", "damaged pages are read as if they were sound"),
    "synchronous_commit": ("off", "warning", "a crash can lose what tools inserted by SQL"),
    "data_checksums": ("off", "warning", "damage on the disk is not noticed by the server"),
}
# From SQLite 3.7.0 on until these versions, two concurrent checkpoints can lose a commit or damage
# the file.
# https://www.sqlite.org/wal.html#walresetbug
_REPAIRED = ((3, 51, 3), (3, 50, 7), (3, 44, 6))


def check_postgresql(engine: Engine) -> Iterator[Finding]:
    """Find an unsupported version, a standby, and settings that can lose or hide data."""
    query = (
        "SELECT current_setting('server_version_num')::int / 10000 AS major,"
        " current_setting('server_version') AS version, pg_is_in_recovery() AS standby,"
        " current_database() AS database, current_user AS role"
    )
    (server,) = ask(engine, query)
    if server.major < OLDEST:
        yield Finding(
            "error",
            "PostgreSQL",
            f"the server has version {server.version}, and {OLDEST} or later is needed",
            "upgrade the server",
        )
    if server.standby:
        yield Finding(
            "note",
            "PostgreSQL",
            "the server is a standby: its logs may be read, and nothing can be written",
            "connect to the primary server to write",
        )
    # A server of an older version may lack some of these settings, and then has no row for them.
    for setting in _settings(engine):
        losing, severity, danger = _SETTINGS[setting.name]
        if setting.setting == losing:
            yield Finding(
                severity,
                f"setting {setting.name}",
                f"it is {losing}: {danger}",
                _resetting(setting, server),
            )


def _settings(engine: Engine) -> Sequence[Row[str, str, str]]:
    """Read the settings that the sessions of tools start with."""
    query = text("SELECT name, setting, source FROM pg_settings WHERE name = ANY(:names)")
    with reading(engine) as connection:
        # Our own sessions set synchronous_commit, which would hide the server's value. The reset
        # must not go back to the pool: later commits would not be durable. Hence `invalidate`.
        connection.exec_driver_sql("RESET synchronous_commit")
        settings = connection.execute(query, {"names": list(_SETTINGS)}).all()
        connection.invalidate()
    return settings


def _resetting(setting: Row[str, str, str], server: Row[int, str, bool, str, str]) -> str:
    """Return the SQL, or for checksums the command, that resets a setting where it was set."""
    if setting.name == "data_checksums":
        return "stop the server, and run `pg_checksums --enable`"
    by_source = {
        "database": f"ALTER DATABASE {quoted(server.database)} RESET {setting.name}",
        "user": f"ALTER ROLE {quoted(server.role)} RESET {setting.name}",
        "database user": f"ALTER ROLE {quoted(server.role)} IN DATABASE "
        f"{quoted(server.database)} RESET {setting.name}",
    }
    system = f"ALTER SYSTEM RESET {setting.name}; SELECT pg_reload_conf()"
    return by_source.get(setting.source, system)


def check_sqlite(engine: Engine) -> Iterator[Finding]:
    """Find a version of SQLite with a known defect, and modes that are slow or can lose data."""
    version, newest = sqlite3.sqlite_version_info, max(_REPAIRED)
    # A repaired release of the same branch, or any version from the newest of these on.
    if not any(version >= v and (v[:2] == version[:2] or v == newest) for v in _REPAIRED):
        yield Finding(
            "warning",
            "SQLite",
            f"version {sqlite3.sqlite_version} can, in rare cases, lose a commit or damage the "
            "file where several processes write",
            "upgrade SQLite to 3.51.3 or later (or 3.50.7, 3.44.6), or move to PostgreSQL with "
            "`registry copy`",
        )
    ((mode,),) = ask(engine, "PRAGMA journal_mode")
    if mode != "wal":
        yield Finding(
            "warning",
            "journal_mode",
            f"it is {mode}, as WAL is not possible here: readers and writers wait for one another",
            "move the file to a local disk, and leave `vfs` out of the URL",
        )
    ((synchronous,),) = ask(engine, "PRAGMA synchronous")
    if synchronous < 2:
        yield Finding(
            "error",
            "synchronous",
            f"it is {synchronous}: a power cut can lose commits",
            "leave `PRAGMA synchronous` at FULL",
        )


def check_sessions(engine: Engine) -> Iterator[Finding]:
    """Find open, idle transactions that hold locks on the registry's tables."""
    query = """
        SELECT pid, usename, application_name, round(extract(epoch FROM now() - state_change)) AS s,
            (SELECT string_agg(DISTINCT relation::regclass::text, ', ') FROM pg_locks
             WHERE pg_locks.pid = activity.pid AND relation = ANY(
                 SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) AS named (name))
            ) AS tables
        FROM pg_stat_activity AS activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
            AND state LIKE 'idle in transaction%' AND now() - state_change >= :idle * interval '1 s'
    """
    for session in ask(engine, query, tables=list(metadata.tables), idle=IDLE_SECONDS):
        if session.tables is not None:
            yield Finding(
                "warning",
                f"session {session.pid}",
                f"{session.usename} ({session.application_name or 'unnamed'}) has left a "
                f"transaction open for {session.s} s that holds locks on {session.tables}",
                f"SELECT pg_terminate_backend({session.pid})",
            )
    # To a role without this privilege, most columns of other users' sessions are NULL.
    query = (
        "SELECT count(*) AS hidden, current_user AS role FROM pg_stat_activity"
        " WHERE datname = current_database() AND backend_type IS NULL"
    )
    ((hidden, role),) = ask(engine, query)
    if hidden:
        yield Finding(
            "note",
            "sessions",
            f"{hidden} sessions of others are not shown to {role}, and may hold locks",
            f"GRANT pg_read_all_stats TO {quoted(role)}",
        )
