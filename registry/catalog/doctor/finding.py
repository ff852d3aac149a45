"""Findings about a registry, each with its remedy, and the queries that lead to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Engine, text

from registry.storage.database.transactions import reading

Severity = Literal["error", "warning", "note"]
"""How severe a finding is.

Error: a guarantee is broken, or may be at the next crash. Warning: somebody should act on it. Note:
for information.
"""


@dataclass(frozen=True)
class Finding:
    """A problem of a subject, such as a setting or a dataset.

    ``said`` describes the problem, ``remedy`` is a command, an SQL statement or an instruction.
    """

    severity: Severity
    subject: str
    said: str
    remedy: str


Check = Callable[[Engine], Iterable[Finding]]


def ask(engine: Engine, query: Any, **parameters: object) -> Sequence[Any]:
    """Return the rows of a query, SQL text or a statement, read in its own transaction."""
    # Its own transaction: a check that is slow must not hold a snapshot, which keeps vacuum from
    # removing dead rows, during all others.
    with reading(engine) as connection:
        statement = text(query) if isinstance(query, str) else query
        return connection.execute(statement, parameters).all()
