"""What a look at a database comes to: findings, each with its remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Engine, text

from registry.storage.database.transactions import reading

Severity = Literal["error", "warning", "note"]
"""An error is a promise that is broken or may be at the next crash; a warning is to be looked
after; a note changes nothing."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with a subject, such as a setting or a dataset, and what to do about it."""

    severity: Severity
    subject: str
    said: str
    remedy: str


Check = Callable[[Engine], Iterable[Finding]]


def ask(engine: Engine, query: Any, **given: object) -> Sequence[Any]:
    """Return the rows of a query, text or not."""
    with reading(engine) as connection:
        statement = text(query) if isinstance(query, str) else query
        return connection.execute(statement, given).all()
