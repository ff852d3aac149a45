"""The least privileges that each kind of user needs in a PostgreSQL database.

Privileges are granted by column where PostgreSQL supports it. Only the tables' owner can change or
delete a sample, or set a creation time. The package needs no more privileges than these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, get_args

from sqlalchemy import Connection, Engine, text

from registry.errors import RegistryError
from registry.samples.text import quoted
from registry.storage.database import schema
from registry.storage.database.schema import VERSION_TABLE
from registry.storage.database.transactions import driver, read, write
from registry.storage.database.url import masked

Kind = Literal["owner", "reader", "writer", "inbox", "server"]
"""The owner migrates, renames and drops datasets, removes runs and creates tokens; a reader trains;
a writer labels; an inbox user is a tool that inserts by plain SQL; a server serves HTTP and drains
the inbox."""

Rights = Mapping[str, tuple[str, ...]]
"""Privileges by table, as GRANT takes them: "INSERT (a, b)" is limited to these columns."""

LOG = (
    *(VERSION_TABLE, "datasets", "schemas", "heads", "samples", "erasures", "inbox"),
    *("tags", "runs", "removed_runs", "epochs"),
)
"""The tables that readers, writers and servers may read."""
PRIVATE = ("tool_annotations", "webhooks", "deliveries", "tokens")
"""The tables that only the server uses."""

READER: Rights = {
    **dict.fromkeys(LOG, ("SELECT",)),
    "runs": (
        "SELECT",
        "INSERT (dataset_id, name, seed, split, policy, conditions, watermark, chain, schema)",
        "UPDATE (consumed)",
    ),
    "epochs": (
        "SELECT",
        "INSERT (run_id, number, since, watermark, chain, size, start, schema, older)",
    ),
}
_SAMPLE_COLUMNS = (
    "dataset_id, position, bucket, record, chain, supersedes, source, key, group_key, live"
)
_INTO_INBOX = "INSERT (dataset_id, key, fields, action, source, group_key)"
WRITER: Rights = {
    **dict.fromkeys(LOG, ("SELECT",)),
    "datasets": (
        "SELECT",
        "INSERT (uid, name, splits, description)",
        "UPDATE (description)",
    ),
    "heads": (
        "SELECT",
        "INSERT (dataset_id, chain)",
        "UPDATE (position, live, chain, updated_at, schema)",
    ),
    "samples": (
        "SELECT",
        f"INSERT ({_SAMPLE_COLUMNS})",
    ),
    "inbox": ("SELECT", _INTO_INBOX),
    "schemas": ("SELECT", "INSERT (dataset_id, number, since, features)"),
    "tags": (
        "SELECT",
        "INSERT (dataset_id, name, position, chain, schema, live, note)",
        "UPDATE (position, chain, schema, live, note, created_at)",
        "DELETE",
    ),
}
INBOX: Rights = {"datasets": ("SELECT (id, name)",), "inbox": (_INTO_INBOX,)}
SERVER: Rights = {
    **WRITER,
    "inbox": (
        "SELECT",
        "INSERT (dataset_id, key, fields, action, source, error, group_key)",
        "UPDATE (error, rejected_at)",
        "DELETE",
    ),
    "tool_annotations": (
        "SELECT",
        "INSERT (dataset_id, tool, annotation, updated_at, deleted, key, task, annotator, fields)",
        "UPDATE (updated_at, deleted, key, task, annotator, fields)",
    ),
    "webhooks": ("SELECT",),
    "deliveries": ("SELECT", "INSERT (dataset_id, tool, event, digest)"),
    "tokens": ("SELECT",),
}
RIGHTS: Mapping[Kind, Rights] = {
    "reader": READER,
    "writer": WRITER,
    "inbox": INBOX,
    "server": SERVER,
}
_FUNCTIONS = (
    "samples_append_only",
    "samples_continue_log",
    "heads_agree_with_log",
    "inbox_known_action",
)
"""The tables' trigger functions, whose owner is the tables' owner."""
_SEQUENCES = ("datasets", "inbox", "runs", "deliveries")
"""Tables numbered by a sequence. An INSERT needs USAGE on it, which the table does not imply."""


class RoleError(RegistryError):
    """A role that does not exist, or a SQLite database, which has no roles.

    Remedy: create the role first; on SQLite, protect the file instead.
    """


def statements(engine: Engine, roles: Mapping[Kind, Iterable[str]]) -> list[str]:
    """Return the statements that grant each role the privileges of its kind, without ``;``.

    Raises `RoleError` for a role that does not exist, and on SQLite, which has no roles;
    `SchemaError` if the tables do not exist yet.
    """
    if engine.dialect.name != "postgresql":
        raise RoleError(
            f"{masked(engine.url)}: SQLite knows no roles; set the rights of the file and its "
            "folder instead, or name a PostgreSQL database with --url"
        )
    schema.check(engine)
    named = [(kind, role) for kind in get_args(Kind) for role in roles.get(kind, ())]

    def make(connection: Connection) -> list[str]:
        # All roles are checked before any statement is built, so that none runs if one is missing.
        known = set(connection.scalars(text("SELECT rolname FROM pg_roles")))
        builder = _Statements(connection)
        for kind, role in named:
            if role not in known:
                raise RoleError(
                    f"{masked(engine.url)} has no role {role!r} as its {kind}; "
                    f"create it first: CREATE ROLE {quoted(role)} LOGIN"
                )
        # A role of two kinds needs CONNECT and USAGE once.
        return list(dict.fromkeys(each for kind, role in named for each in builder.of(kind, role)))

    return read(engine, make)


def apply(engine: Engine, granting: Iterable[str]) -> None:
    """Run the statements in one transaction; the user must be the tables' owner."""
    each = list(granting)
    # By psycopg itself, without parameters: a % or : in a role's name would be taken for one.
    write(engine, lambda connection: [driver(connection).execute(sql.encode()) for sql in each])


class _Statements:
    """Builds the statements for one database and one schema; all names in them are quoted."""

    def __init__(self, connection: Connection) -> None:
        # The schema of the version table, not the first of the search path: the tables may be in a
        # later one, and GRANT must name them even if the role's path is another.
        names = connection.execute(
            text(
                "SELECT current_database(), nspname FROM pg_class"
                " JOIN pg_namespace ON pg_namespace.oid = relnamespace"
                " WHERE pg_class.oid = CAST(:table AS regclass)"
            ),
            {"table": VERSION_TABLE},
        ).one()
        self._database, self._schema = (quoted(name) for name in names)

    def of(self, kind: Kind, role: str) -> Iterator[str]:
        to = quoted(role)
        yield f"GRANT CONNECT ON DATABASE {self._database} TO {to}"
        yield f"GRANT USAGE ON SCHEMA {self._schema} TO {to}"
        if kind == "owner":
            yield from self._ownership(to)
            return
        for table, rights in RIGHTS[kind].items():
            yield f"GRANT {', '.join(rights)} ON TABLE {self._table(table)} TO {to}"
            if table in _SEQUENCES and any(right.startswith("INSERT") for right in rights):
                yield f"GRANT USAGE ON SEQUENCE {self._table(f'{table}_id_seq')} TO {to}"

    def _ownership(self, to: str) -> Iterator[str]:
        # PostgreSQL requires CREATE on the schema of a table's new owner.
        yield f"GRANT CREATE ON SCHEMA {self._schema} TO {to}"
        for table in (*LOG, *PRIVATE):
            yield f"ALTER TABLE {self._table(table)} OWNER TO {to}"
        for function in _FUNCTIONS:
            yield f"ALTER FUNCTION {self._table(function)}() OWNER TO {to}"

    def _table(self, name: str) -> str:
        return f"{self._schema}.{quoted(name)}"
