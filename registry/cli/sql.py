"""``registry sql``: query datasets in SQL."""

from __future__ import annotations

import base64
import csv
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Annotated, Any, TypeAlias

import typer

from registry.catalog.registry import connect
from registry.catalog.sql import Answer, query
from registry.cli.base import AsJsonLines, Url, app
from registry.cli.tables import Column, Listing

Rows: TypeAlias = Sequence[tuple[Any, ...]]


@app.command()
def sql(
    statement: Annotated[
        str,
        typer.Argument(
            metavar="QUERY",
            help='One SELECT, whose tables are datasets, or versions in quotes: "digits@gold".',
        ),
    ],
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: AsJsonLines = False,
    url: Url = None,
) -> None:
    """Query the live samples of datasets in SQL, by DuckDB; nothing is changed."""
    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json exclude each other", param_hint="--csv")
    print_answer = _print_csv if as_csv else _print_json if as_json else _print_table
    with connect(url) as registry, query(registry, statement) as answer:
        print_answer(answer)


def _print_table(answer: Answer) -> None:
    listing: Listing | None = None
    for rows in _at_least_one(answer.parts()):
        if listing is None:
            numeric = [_is_number(row) for row in zip(*rows, strict=True)]
            numeric = numeric or [False] * len(answer.names)
            pairs = zip(answer.names, numeric, strict=True)
            listing = Listing(*(Column(name, right=right, whole=right) for name, right in pairs))
        listing.print([_shown(value) for value in row] for row in rows)


def _at_least_one(parts: Iterator[Rows]) -> Iterator[Rows]:
    """Yield an empty part for a result without rows, so that the header is printed."""
    yield next(parts, [])
    yield from parts


def _print_csv(answer: Answer) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(answer.names)
    for rows in answer.parts():
        writer.writerows([_text(value) for value in row] for row in rows)


def _print_json(answer: Answer) -> None:
    names = _distinct(answer.names)
    for rows in answer.parts():
        for row in rows:
            values = map(_plain, row)
            typer.echo(json.dumps(dict(zip(names, values, strict=True)), ensure_ascii=False))


def _distinct(names: Sequence[str]) -> list[str]:
    """Return names of which no two are equal: an object would lose a value."""
    distinct: list[str] = []
    for name in names:
        number, unique = 1, name
        while unique in distinct:
            unique, number = f"{name}_{number}", number + 1
        distinct.append(unique)
    return distinct


def _is_number(column: Sequence[Any]) -> bool:
    kinds = {type(value) for value in column if value is not None}
    return bool(kinds) and kinds <= {int, float, Decimal}


def _shown(value: Any) -> str:
    return f"<{len(value):,} bytes>" if isinstance(value, bytes) else _text(value)


def _text(value: Any) -> str:
    plain = _plain(value)
    if plain is None:
        return ""
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


_FORMS: dict[type[Any], Callable[[Any], Any]] = {
    bytes: lambda value: base64.b64encode(value).decode(),
    # JSON has no NaN or infinity.
    float: lambda value: value if math.isfinite(value) else str(value),
    list: lambda value: [*map(_plain, value)],
    tuple: lambda value: [*map(_plain, value)],
    dict: lambda value: {_text(name): _plain(item) for name, item in value.items()},
}


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; times, decimals and other types are text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    return _FORMS.get(type(value), str)(value)
