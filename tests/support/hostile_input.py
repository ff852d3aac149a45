"""Hostile input, and the state of a database that it must not change."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from sqlalchemy import text

from registry import Registry

SQL = (
    "' OR '1'='1",
    "'; DROP TABLE samples; --",
    '"; DROP SCHEMA public CASCADE; --',
    "x'; CREATE ROLE mallory SUPERUSER; --",
    "x', (SELECT pg_sleep(60)))--",
    "$$; TRUNCATE datasets CASCADE; $$",
    "1); ATTACH DATABASE 'stolen.db' AS stolen; --",
    "x'); DELETE FROM samples; COMMIT; --",
)
NAMES = (
    *SQL,
    *("", " ", ".", "..", "../x", "/absolute", "a/b", "C:\\x", "CON", "NUL.txt", "-", "--url"),
    *("x@5:ab", "digits@0:00000000", "digits@5:deadbeefdeadbeef", "digits@", "@", "digits\n"),
    *("digits@999999999999999999999999:00000000", f"digits@{'9' * 5000}:00000000"),
    *("%", "%s", "%(key)s", "%%", "_", "*", "?", ":name", "{}", "{0.__class__}", "$1", "${HOME}"),
    *("null", "None", "nan", "inf", "true", "0", "-1", "1e999", "1_000", "\u0663", "0x10"),
    *("\0", "a\0b", "\ud800", "a\udcffb", "\u202egnp.exe", "\u200b", "\ufeff", "\u2028"),
    *("\n", "a\nb", "\r\n", "\t", "\x1b[31mred", "\x7f", "[/red]", "[bold]", "<script>", "&amp;"),
    *("e\u0301", "\u00e9", "\u1e9e", "\U0001f9d1\u200d\U0001f52c", "\u6f22" * 200, "x" * 513),
    *("x" * 10_000, "'" * 10_000, "%s" * 5_000, "\u0301" * 10_000, "a/" * 5_000),
)
WORDS = tuple(
    name.replace("\0", "").encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    for name in NAMES
)
"""The same as a shell would pass them to a command."""
NUMBERS = tuple(
    sign * (1 << bits) + more
    for bits in (0, 15, 31, 32, 53, 62, 63, 64, 100)
    for sign in (1, -1)
    for more in (-1, 0, 1)
)

texts = (
    st.sampled_from(NAMES)
    | st.lists(st.sampled_from(NAMES[:-5]), min_size=2, max_size=4).map("".join)
    | st.text(st.characters(), max_size=20)
)
things = texts | st.none() | st.integers() | st.floats() | st.binary(max_size=8) | st.booleans()
"""Values that are passed in place of a text, most often one."""
numbers = st.sampled_from(NUMBERS) | st.integers(-3, 3)


class Case:
    """The input of one attempt: drawn before it, since its steps depend on the database."""

    def __init__(self, drawn: dict[str, Sequence[Any]]) -> None:
        self._random = Random(repr(drawn))
        self._drawn = drawn
        self._left = {name: iter(values) for name, values in drawn.items()}

    def __repr__(self) -> str:
        return f"<case {self._drawn}>"

    def text(self, *usual: str) -> str:
        return str(self._either("texts", usual))

    def thing(self, *usual: object) -> Any:
        return self._either("things", usual)

    def number(self, *usual: object) -> Any:
        return self._either("numbers", usual)

    def choice(self, among: Sequence[Any]) -> Any:
        return self._random.choice(among)

    def _either(self, kind: str, usual: Sequence[object]) -> Any:
        """Return a hostile value as often as each of the usual ones."""
        value = next(self._left[kind])
        return self.choice([value, *usual]) if usual else value


def confined(path: str) -> str:
    """Return the path, or a harmless one for a path that leads out of the parent folder.

    The code under test writes to any path that it is given, and tests may be run by root: a path
    outside would replace a file of this machine.
    """
    steps = path.replace("\\", "/").split("/")
    if path[:1] in ("/", "~") or steps.count("..") > 1 or ":/" in path:
        return "_".join(steps).lstrip("~").replace("..", "_")
    return path


def _some(values: st.SearchStrategy[Any], count: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, min_size=count, max_size=count)


cases = st.builds(
    Case,
    st.fixed_dictionaries(
        {
            "texts": _some(texts, 10),
            "things": _some(things, 10),
            "numbers": _some(numbers, 10),
        }
    ),
)


def tried(cases: int) -> settings:
    """Return the settings for ``cases`` cases without shrinking or a deadline."""
    return settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


_CATALOG = {
    "sqlite": ("SELECT type, name, sql FROM sqlite_master ORDER BY name", "PRAGMA database_list"),
    "postgresql": (
        "SELECT oid, relname, relnamespace, relkind, relacl FROM pg_class ORDER BY oid",
        "SELECT oid, proname, prosrc FROM pg_proc ORDER BY oid",
        "SELECT oid, rolname, rolsuper FROM pg_roles ORDER BY oid",
        "SELECT oid, nspname, nspacl FROM pg_namespace ORDER BY oid",
        "SELECT oid, tgname, tgenabled FROM pg_trigger ORDER BY oid",
        "SELECT oid, datname FROM pg_database ORDER BY oid",
    ),
}


def catalog(reg: Registry) -> list[Any]:
    """Return the objects of the database: tables, functions, roles, schemas and triggers."""
    with reg.engine.connect() as connection:
        queries = _CATALOG[connection.dialect.name]
        return [connection.execute(text(query)).all() for query in queries]


def rows_of(reg: Registry, name: str) -> list[Any]:
    """Return all rows of a dataset and of its runs."""
    tables = ("heads", "samples", "inbox", "runs", "tool_annotations", "webhooks", "deliveries")
    with reg.engine.connect() as connection:
        query = text("SELECT * FROM datasets WHERE name = :name")
        row = connection.execute(query, {"name": name}).one()
        queries = [f"SELECT * FROM {table} WHERE dataset_id = {row.id}" for table in tables]
        return [row, *(connection.execute(text(query)).all() for query in queries)]
