"""Queries in SQL over the live samples of datasets, by DuckDB: an extra, imported when used.

DuckDB gets one SELECT, and no access to files, the network or its own settings. Each dataset that
the query names is a table, of which only the columns that are used are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from registry.distribution import install_extra
from registry.errors import QueryError, RegistryError
from registry.samples.text import text_problem

if TYPE_CHECKING:
    from registry.catalog.registry import Registry
    from registry.catalog.sql_table import SqlTable

_ROWS = 1000
"""Rows that are fetched at a time."""
_SETTINGS = (
    # Python's variables would be tables otherwise.
    "python_enable_replacements = false",
    "autoinstall_known_extensions = false",
    "autoload_known_extensions = false",
    # Without a folder for them, no temporary files are written.
    "temp_directory = ''",
    "enable_external_access = false",
    "lock_configuration = true",
)


# From the parsed query, which need not fit tables that are not there yet.
_NAMES = """
    WITH nodes AS (FROM json_tree(json_serialize_sql(?::VARCHAR)))
    SELECT DISTINCT json_extract_string(value, 'table_name') FROM nodes
    WHERE type = 'OBJECT' AND json_extract_string(value, 'type') = 'BASE_TABLE'
        AND coalesce(json_extract_string(value, 'schema_name'), '') IN ('', 'main')
    EXCEPT
    SELECT unnest(json_extract_string(value, '$.map[*].key')) FROM nodes WHERE key = 'cte_map'
    ORDER BY 1
"""


@dataclass(frozen=True)
class Answer:
    """The result of a query: the names of its columns and, once, its rows as Python values."""

    names: list[str]
    _connection: Any
    _tables: list[SqlTable] = field(default_factory=list)

    def parts(self) -> Iterator[list[tuple[Any, ...]]]:
        """Yield rows, some at a time, as they are computed. Raises `QueryError`."""
        with _errors(self._tables):
            while rows := self._connection.fetchmany(_ROWS):
                yield rows


@contextmanager
def query(registry: Registry, sql: str) -> Iterator[Answer]:
    """Execute a SELECT whose tables are datasets, by their names, or versions of them, in quotes.

    A dataset has the columns ``position``, ``key``, ``group_key``, ``source`` and ``split``, except
    where a feature has that name, and its features. Raises `QueryError` for any other statement and
    for the errors of DuckDB, and `DatasetNotFoundError`.
    """
    try:
        import duckdb  # noqa: PLC0415  # an extra
        import pyarrow as pa  # noqa: F401, PLC0415
    except ImportError as error:
        raise RegistryError(f"SQL needs {error.name}; run: {install_extra('duckdb')}") from None
    if problem := text_problem(sql):
        raise QueryError(f"a query {problem}")
    with duckdb.connect(":memory:") as connection:
        with _errors([]):
            tables = _tables(registry, connection, sql)
        with _errors(tables):
            connection.execute(sql)
        names = [column[0] for column in connection.description or ()]
        yield Answer(names, connection, tables)


def _tables(registry: Registry, connection: Any, sql: str) -> list[SqlTable]:
    """Prepare a connection for the query: its tables, and no access to anything else."""
    from registry.catalog.sql_table import SqlTable  # noqa: PLC0415  # needs PyArrow

    for setting in _SETTINGS[:-1]:
        connection.execute(f"SET {setting}")
    statements = connection.extract_statements(sql)
    kinds = [str(statement.type).rpartition(".")[2] for statement in statements]
    if kinds != ["SELECT"]:
        named = " and ".join(kinds) or "no statement"
        raise QueryError(f"the query is {named}; it has to be one SELECT")
    names = [name for (name,) in connection.execute(_NAMES, [sql]).fetchall()]
    tables = {name: SqlTable(registry.open(name)) for name in names}
    folded = [name.casefold() for name in names]
    for name, table in tables.items():
        # DuckDB does not tell them apart.
        if folded.count(name.casefold()) > 1:
            raise QueryError(f"the query names {name!r} and a dataset of the same letters")
        connection.register(name, table)
    connection.execute(f"SET {_SETTINGS[-1]}")
    return [*tables.values()]


@contextmanager
def _errors(tables: list[SqlTable]) -> Iterator[None]:
    """Raise errors of DuckDB as `QueryError`, and those of reading a table as they were."""
    import duckdb  # noqa: PLC0415  # an extra

    try:
        yield
    except duckdb.Error as error:
        for table in tables:
            if table.error is not None:
                raise table.error from None
        raise QueryError(_reason(error)) from None
    except RuntimeError as error:
        # Of DuckDB's, which has noticed Ctrl-C.
        if "interrupt" not in str(error).lower():
            raise
        raise KeyboardInterrupt from None


def _reason(error: Exception) -> str:
    """Return the first paragraph of a message, without an excerpt of the query.

    Where a function does not take some values, DuckDB lists all that it takes: of ``+``, 60 lines.
    """
    return " ".join(re.split(r"\n\n|\s+Candidate functions:", str(error))[0].split())
