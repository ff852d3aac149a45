"""Who may do what in a PostgreSQL database: the least rights that each kind of user needs.

Rights are given by column where PostgreSQL knows such: nobody but the tables' owner can change or
remove a sample, and no time of creation can be made up. The library asks for no more than these.
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
from registry.storage.database.url import shown

Kind = Literal["owner", "reader", "writer", "inbox", "server"]
"""Who migrates, drops and makes tokens; who trains; who labels; a tool that inserts by plain SQL;
who serves and drains."""

Rights = Mapping[str, tuple[str, ...]]
"""By table, what may be done there; "INSERT (a, b)" means those columns alone."""

LOG = (VERSION_TABLE, "datasets", "heads", "samples", "erasures", "inbox", "runs", "epochs")
"""The tables that everybody may read."""
PRIVATE = ("tool_annotations", "webhooks", "deliveries", "tokens")
"""Those that concern the server alone."""

READER: Rights = {
    **dict.fromkeys(LOG, ("SELECT",)),
    "runs": ("SELECT", "INSERT (dataset_id, name, seed, split, policy)", "UPDATE (consumed)"),
    "epochs": ("SELECT", "INSERT (run_id, number, since, watermark, chain, size, start)"),
}
_INTO_INBOX = "INSERT (dataset_id, key, fields, action, source)"
WRITER: Rights = {
    **dict.fromkeys(LOG, ("SELECT",)),
    "datasets": ("SELECT", "INSERT (uid, name, features, splits, description)"),
    "heads": (
        "SELECT",
        "INSERT (dataset_id, chain)",
        "UPDATE (position, live, chain, updated_at)",
    ),
    "samples": (
        "SELECT",
        "INSERT (dataset_id, position, bucket, record, chain, supersedes, source, key)",
    ),
    "inbox": ("SELECT", _INTO_INBOX),
}
INBOX: Rights = {"datasets": ("SELECT (id, name)",), "inbox": (_INTO_INBOX,)}
SERVER: Rights = {
    **WRITER,
    "inbox": (
        "SELECT",
        "INSERT (dataset_id, key, fields, action, source, error)",
        "UPDATE (error, rejected_at)",
        "DELETE",
    ),
    "tool_annotations": (
        "SELECT",
        "INSERT (dataset_id, tool, annotation, updated_at, deleted, key)",
        "UPDATE (updated_at, deleted, key)",
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
_FUNCTIONS = ("samples_append_only", "samples_continue_log", "heads_agree_with_log")
"""Functions of the tables' triggers."""
_SEQUENCES = ("datasets", "inbox", "runs", "deliveries")
"""Tables whose rows are numbered by a sequence, which takes a right of its own."""


class RoleError(RegistryError):
    """A role that does not exist, or a database that has none."""


def statements(engine: Engine, roles: Mapping[Kind, Iterable[str]]) -> list[str]:
    """Return the statements that give each role the rights of its kind, none ending in ``;``.

    Raises `RoleError` for a role that the server does not know, and on SQLite, which has none;
    `SchemaError` where the tables are not there yet.
    """
    if engine.dialect.name != "postgresql":
        raise RoleError(
            f"{shown(engine.url)}: SQLite knows no roles; set the rights of the file and its "
            "folder instead, or name a PostgreSQL database with --url"
        )
    schema.check(engine)
    named = [(kind, role) for kind in get_args(Kind) for role in roles.get(kind, ())]

    def make(connection: Connection) -> list[str]:
        known = set(connection.scalars(text("SELECT rolname FROM pg_roles")))
        written = _Statements(connection)
        for kind, role in named:
            if role not in known:
                raise RoleError(
                    f"{shown(engine.url)} has no role {role!r} as its {kind}; "
                    f"create it first: CREATE ROLE {quoted(role)} LOGIN"
                )
        return list(dict.fromkeys(each for kind, role in named for each in written.of(kind, role)))

    return read(engine, make)


def apply(engine: Engine, granting: Iterable[str]) -> None:
    """Run the statements, all or none of them; this takes the rights of the tables' owner."""
    each = list(granting)
    # The driver's own call: a role's name may hold what stands for a parameter elsewhere.
    write(engine, lambda connection: [driver(connection).execute(sql.encode()) for sql in each])


class _Statements:
    """Writes statements for one database; every name in them is quoted."""

    def __init__(self, connection: Connection) -> None:
        place = connection.execute(
            text(
                "SELECT current_database(), nspname FROM pg_class"
                " JOIN pg_namespace ON pg_namespace.oid = relnamespace"
                " WHERE pg_class.oid = CAST(:table AS regclass)"
            ),
            {"table": VERSION_TABLE},
        ).one()
        self._database, self._schema = (quoted(name) for name in place)

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
        yield f"GRANT CREATE ON SCHEMA {self._schema} TO {to}"
        for table in (*LOG, *PRIVATE):
            yield f"ALTER TABLE {self._table(table)} OWNER TO {to}"
        for function in _FUNCTIONS:
            yield f"ALTER FUNCTION {self._table(function)}() OWNER TO {to}"

    def _table(self, name: str) -> str:
        return f"{self._schema}.{quoted(name)}"
