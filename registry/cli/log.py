"""``registry log``: show the rows of a dataset's log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer
from sqlalchemy import Engine

from registry.catalog.dataset import Dataset
from registry.catalog.registry import connect
from registry.cli.base import AsJsonLines, Name, Url, app
from registry.cli.signals import ended_by_signals
from registry.cli.tables import Column, Listing
from registry.storage.database.retry import retrying
from registry.storage.log.entries import Entry

_CHUNK_ROWS = 1000
"""Rows of the log that are read at a time."""
_DEFAULT_LIMIT = 20


@app.command()
def log(
    dataset: Name,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Continue with new rows, until Ctrl-C or SIGTERM."),
    ] = False,
    after: Annotated[
        int | None, typer.Option(min=0, metavar="POSITION", help="Begin at this position.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            "-n",
            min=0,
            metavar="ROWS",
            help=f"Only the last so many rows; {_DEFAULT_LIMIT}, or all of them with --after.",
        ),
    ] = None,
    as_json: AsJsonLines = False,
    url: Url = None,
) -> None:
    """Show a dataset's log: its inserts, revisions and retractions."""
    with connect(url) as registry:
        opened = registry.open(dataset)
        head = opened.head.position
        if limit is None:
            limit = _DEFAULT_LIMIT if after is None else head
        start = max(after or 0, head - limit)
        print_entries = _print_json if as_json else _EntryTable()
        # In chunks, so that a log of any length is printed in bounded memory.
        for position in range(start, head, _CHUNK_ROWS):
            print_entries(opened.entries(position, min(head, position + _CHUNK_ROWS)))
        if follow:
            with ended_by_signals():
                for entries in _follow(opened, registry.engine, max(start, head)):
                    print_entries(entries)


def _follow(dataset: Dataset, engine: Engine, after: int) -> Iterator[list[Entry]]:
    for page in dataset.follow(after):
        # follow() reconnects by itself, but this is another query: without the retries, a
        # connection lost here would end the command.
        for attempt in retrying(None, engine):
            with attempt:
                entries = dataset.entries(page.start, page.stop)
        yield entries


def _print_json(entries: list[Entry]) -> None:
    for entry in entries:
        typer.echo(json.dumps({**asdict(entry), "created_at": entry.created_at.isoformat()}))


class _EntryTable:
    """Prints rows of the log as one table, in several calls."""

    def __init__(self) -> None:
        self._listing = Listing(
            Column("position", right=True, whole=True),
            Column("time (UTC)", whole=True),
            Column("action", whole=True),
            Column("key"),
            Column("source"),
        )

    def __call__(self, entries: list[Entry]) -> None:
        self._listing.print(
            (
                str(entry.position),
                f"{entry.created_at:%Y-%m-%d %H:%M:%S}",
                _action(entry),
                entry.key,
                entry.source or "",
            )
            for entry in entries
        )


def _action(entry: Entry) -> str:
    superseded = "" if entry.supersedes is None else f" {entry.supersedes}"
    return f"{entry.action}s{superseded}{' (erased)' if entry.erased else ''}"
