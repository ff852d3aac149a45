"""Examining a registry: whether its database is safe to store data in, and its parts agree.

`examine` runs one check after another; each yields findings. Nothing is changed and no lock is
taken, unless it is called with ``fix``. Counting a log takes about as long as reading its index;
records are read only to compare the newest of a dataset with splits.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Engine

from registry.catalog.doctor.finding import Check, Finding, Severity
from registry.catalog.doctor.keys import check_keys
from registry.catalog.doctor.logs import check_drops, check_epochs, check_inbox, check_logs
from registry.catalog.doctor.mirrors import check_mirrors
from registry.catalog.doctor.runs import check_conditions
from registry.catalog.doctor.schemas import check_schemas
from registry.catalog.doctor.settings import check_postgresql, check_sessions, check_sqlite
from registry.catalog.doctor.splits import check_tasks, check_twins
from registry.catalog.doctor.tables import check_indexes, check_tables
from registry.catalog.doctor.triggers import check_triggers
from registry.errors import DatabaseError, EncodingError, PermissionDeniedError
from registry.storage.database import schema
from registry.storage.database.engine import make_engine
from registry.storage.database.url import masked, may_exist
from registry.storage.log.drop import remove

__all__ = ["Finding", "Severity", "examine"]

# Checks by the name that a finding gives if a check cannot be run.
_POSTGRESQL_CHECKS: dict[str, Check] = {
    "settings": check_postgresql,
    "sessions": check_sessions,
    "tables": check_tables,
    "keys": check_keys,
}
_SQLITE_CHECKS: dict[str, Check] = {"settings": check_sqlite}
_COMMON_CHECKS: dict[str, Check] = {
    "triggers": check_triggers,
    "indexes": check_indexes,
    "schemas": check_schemas,
    "logs": check_logs,
    "epochs": check_epochs,
    "conditions": check_conditions,
    "tasks": check_tasks,
    "twins": check_twins,
    "inbox": check_inbox,
    "drops": check_drops,
    "mirrors": check_mirrors,
}


def examine(url: str, *, fix: bool = False) -> list[Finding]:
    """Return the findings about the registry at a URL, errors first.

    With ``fix``, rows that are left of dropped datasets are removed first. A table that the
    database's user may not read is a finding, too. Raises a `RegistryError` if the database cannot
    be reached at all.
    """
    engine = make_engine(url)
    try:
        findings = list(_examine(engine, fix=fix))
    except EncodingError as error:
        said = f"it is {error.encoding}, which may alter keys"
        findings = [Finding("error", "encoding", said, error.remedy)]
    finally:
        engine.dispose()
    order = ("error", "warning", "note")
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def _examine(engine: Engine, *, fix: bool) -> Iterator[Finding]:
    url = masked(engine.url)
    sqlite = engine.dialect.name == "sqlite"
    # Checked before anything connects, since SQLite would create the file.
    if not may_exist(engine.url):
        yield _unready(f"{url} is not there", f"registry init --url {url}")
        return
    # The settings do not depend on the registry's tables, so they are checked in any case.
    revision = schema.revision(engine)
    yield from _run(
        "settings", (_SQLITE_CHECKS if sqlite else _POSTGRESQL_CHECKS)["settings"], engine
    )
    if revision is None:
        yield _unready("the database holds no registry yet", f"registry init --url {url}")
    elif revision < schema.REVISION:
        said = f"it is {revision}, and this version of the package needs {schema.REVISION}"
        yield _unready(said, f"registry init --url {url}")
    elif revision > schema.REVISION:
        said = f"it is {revision}, and this version of the package knows {schema.REVISION}"
        yield _unready(said, "install the version of this package that has this schema")
    else:
        # Before the checks, which then report only what it could not remove.
        if fix:
            remove(engine)
        checks = _COMMON_CHECKS | ({} if sqlite else _POSTGRESQL_CHECKS)
        for name, check in checks.items():
            if name != "settings":
                yield from _run(name, check, engine)


def _unready(said: str, remedy: str) -> Finding:
    return Finding("error", "schema", said, remedy)


def _run(name: str, check: Check, engine: Engine) -> Iterator[Finding]:
    """Run a check. An error of the database is a finding, so that other checks still run."""
    try:
        yield from check(engine)
    # A note, not an error: a reader may examine a registry as far as its rights go.
    except PermissionDeniedError as error:
        said = f"{name} cannot be examined: {error}"
        yield Finding("note", name, said, "registry grants --reader ROLE")
    except DatabaseError as error:
        yield Finding(
            "error", name, str(error), "compare the tables with those of `registry init --sql`"
        )
