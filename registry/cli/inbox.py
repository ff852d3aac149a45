"""Commands for the inbox, into which tools insert rows by plain SQL."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated

import typer

from registry.catalog.dataset import Dataset
from registry.catalog.registry import Registry, connect
from registry.cli.base import AsJson, Name, Url, app, duration
from registry.cli.tables import Column, Listing, print_facts
from registry.storage.database.retry import retrying
from registry.storage.log.inbox import Drained
from registry.storage.log.rejected import Refused

Ids = Annotated[
    list[int] | None, typer.Argument(metavar="ID", help="Rows, by their ids; all if none is given.")
]

_SHOWN = 60
"""Characters of a key that are shown, at most."""
_PART = 1000
"""Rows of a table that are laid out at a time."""
_EVERY = 1.0
"""Seconds between two polls of the inbox."""

inbox = typer.Typer(no_args_is_help=True, help="Look after rows that did not fit their dataset.")
app.add_typer(inbox, name="inbox")


@app.command()
def drain(
    datasets: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATASET", help="Datasets; all if none is given."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on as rows come, until Ctrl-C.")
    ] = False,
    url: Url = None,
) -> None:
    """Move rows that tools inserted by plain SQL to the log, as readers do before they read."""
    with connect(url) as registry:
        for dataset in _opened(registry, datasets):
            typer.echo(_said(dataset, dataset.inbox.drain()))
        if watch:
            with suppress(KeyboardInterrupt):
                _watch(registry, datasets)


@inbox.command(name="ls")
def list_refused(
    dataset: Name,
    limit: Annotated[int, typer.Option(min=1, help="Rows to list, at most.")] = 1000,
    after: Annotated[
        int, typer.Option(metavar="ID", help="Begin past this row, the last one listed before.")
    ] = 0,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List rejected rows, and why they were rejected."""
    with connect(url) as registry:
        found = registry.open(dataset).inbox.refused(after, limit + 1)  # one more: is it the end?
    rows = found[:limit]
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2, default=str))
    else:
        _list(rows)
    if len(found) > limit:
        # To stderr: stdout may be JSON.
        typer.echo(f"there are more: --after {rows[-1].id}", err=True)


def _list(rows: Sequence[Refused]) -> None:
    listing = Listing(
        Column("id", right=True, whole=True),
        Column("key"),
        Column("action", whole=True),
        Column("source"),
        Column("created", whole=True),
        Column("error"),
    )
    # In parts: the time that Rich takes per row grows with the rows of its table.
    for start in range(0, len(rows) or 1, _PART):
        listing.print(
            (
                str(row.id),
                (row.key or "")[:_SHOWN],
                row.action,
                row.source or "",
                f"{row.created_at:%Y-%m-%d %H:%M:%S}",
                row.error,
            )
            for row in rows[start : start + _PART]
        )


@inbox.command()
def retry(dataset: Name, ids: Ids = None, url: Url = None) -> None:
    """Try rejected rows again."""
    with connect(url) as registry:
        opened = registry.open(dataset)
        count = opened.inbox.retry(ids or None)
        typer.echo(f"{count:,} tried again: {_said(opened, opened.inbox.drain())}")


@inbox.command()
def discard(dataset: Name, ids: Ids = None, url: Url = None) -> None:
    """Remove rejected rows."""
    with connect(url) as registry:
        typer.echo(f"{registry.open(dataset).inbox.discard(ids or None):,} removed")


@inbox.command()
def limits(
    dataset: Name,
    retention: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long they are kept: 90d, 12h.")
    ] = None,
    quota: Annotated[
        int | None, typer.Option(min=0, metavar="ROWS", help="How many are kept, the newest.")
    ] = None,
    url: Url = None,
) -> None:
    """Show or set how long rejected rows are kept, and how many."""
    kept = None if retention is None else duration(retention)
    with connect(url) as registry:
        found = registry.open(dataset).inbox.set_limits(retention=kept, quota=quota)
    print_facts([("retention", str(found.retention)), ("quota", f"{found.quota:,} rows")])


def _opened(registry: Registry, names: list[str] | None) -> list[Dataset]:
    return [registry.open(name) for name in names] if names else registry.datasets()


def _watch(registry: Registry, names: list[str] | None) -> None:
    while True:
        time.sleep(_EVERY)
        # Retried without end: a lost connection must not end the command. The datasets are opened
        # again each time, which finds new ones.
        for attempt in retrying(None, registry.engine):
            with attempt:
                for dataset in _opened(registry, names):
                    found = dataset.inbox.drain()
                    if found.moved or found.refused or found.removed:
                        typer.echo(_said(dataset, found))


def _said(dataset: Dataset, found: Drained) -> str:
    said = f"{dataset.name}: {found.moved:,} moved"
    if found.refused:
        said += f"; {found.refused:,} did not fit: registry inbox ls {dataset.name}"
    if found.removed:
        said += f"; {found.removed:,} rejected rows past the limits removed"
    return said
