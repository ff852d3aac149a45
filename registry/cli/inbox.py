"""Commands for the inbox, where tools insert rows by plain SQL."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated

import typer

from registry.cli.base import AsJson, Name, Url, app
from registry.connection import Registry, connect
from registry.dataset import Dataset
from registry.inbox import Drained
from registry.listing import Column, Listing
from registry.retry import retrying

Ids = Annotated[
    list[int] | None, typer.Argument(metavar="ID", help="Rows, by their ids; all if none is given.")
]

_SHOWN = 60
"""Characters of a key that are listed."""
_EVERY = 1.0
"""Seconds between looks at the inbox."""

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
    """Move what tools inserted by plain SQL to the log. Readers do the same before they read."""
    with connect(url) as registry:
        for dataset in _opened(registry, datasets):
            typer.echo(_said(dataset, dataset.inbox.drain()))
        if watch:
            with suppress(KeyboardInterrupt):
                _watch(registry, datasets)


@inbox.command(name="ls")
def list_refused(dataset: Name, as_json: AsJson = False, url: Url = None) -> None:
    """List rows that did not fit, and why."""
    with connect(url) as registry:
        found = registry.open(dataset).inbox.refused()
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in found], indent=2, default=str))
        return
    listing = Listing(
        Column("id", right=True, whole=True),
        Column("key"),
        Column("action", whole=True),
        Column("source"),
        Column("created", whole=True),
        Column("error"),
    )
    listing.print(
        (
            str(row.id),
            (row.key or "")[:_SHOWN],
            row.action,
            row.source or "",
            f"{row.created_at:%Y-%m-%d %H:%M:%S}",
            row.error,
        )
        for row in found
    )


@inbox.command()
def retry(dataset: Name, ids: Ids = None, url: Url = None) -> None:
    """Try rows again that did not fit."""
    with connect(url) as registry:
        opened = registry.open(dataset)
        count = opened.inbox.retry(ids or None)
        typer.echo(f"{count:,} tried again: {_said(opened, opened.inbox.drain())}")


@inbox.command()
def discard(dataset: Name, ids: Ids = None, url: Url = None) -> None:
    """Remove rows that did not fit."""
    with connect(url) as registry:
        typer.echo(f"{registry.open(dataset).inbox.discard(ids or None):,} removed")


def _opened(registry: Registry, names: list[str] | None) -> list[Dataset]:
    return [registry.open(name) for name in names] if names else registry.datasets()


def _watch(registry: Registry, names: list[str] | None) -> None:
    while True:
        time.sleep(_EVERY)
        # A lost connection ends no watching.
        for attempt in retrying(None, registry.engine):
            with attempt:
                for dataset in _opened(registry, names):
                    found = dataset.inbox.drain()
                    if found.moved or found.refused:
                        typer.echo(_said(dataset, found))


def _said(dataset: Dataset, found: Drained) -> str:
    stay = f"; {found.refused:,} did not fit: registry inbox ls {dataset.name}"
    return f"{dataset.name}: {found.moved:,} moved" + (stay if found.refused else "")
