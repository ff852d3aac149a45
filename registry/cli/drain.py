"""``registry drain``: move rows from the inbox to the log."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from registry.catalog.dataset import Dataset
from registry.catalog.registry import Registry, connect
from registry.cli.base import Url, app
from registry.cli.signals import ended_by_signals
from registry.storage.database.retry import retrying
from registry.storage.log.inbox import Drained

_POLL_SECONDS = 1.0
"""Seconds between two polls of the inbox."""


@app.command()
def drain(
    datasets: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATASET", help="Datasets; all if none is given."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Continue as rows arrive, until Ctrl-C or SIGTERM.")
    ] = False,
    url: Url = None,
) -> None:
    """Move rows that tools inserted by plain SQL to the log, as readers do before they read."""
    with connect(url) as registry:
        for dataset in _open(registry, datasets):
            typer.echo(drained_line(dataset, dataset.inbox.drain()))
        if watch:
            with ended_by_signals():
                _watch(registry, datasets)


def drained_line(dataset: Dataset, drained: Drained) -> str:
    """Return a line on the result of draining the inbox of a dataset."""
    line = f"{dataset.name}: {drained.moved:,} moved"
    if drained.refused:
        line += f"; {drained.refused:,} did not fit: registry inbox ls {dataset.name}"
    if drained.corrected:
        line += f"; {drained.corrected:,} rejected rows corrected"
    if drained.removed:
        line += f"; {drained.removed:,} rejected rows past the limits removed"
    return line


def _open(registry: Registry, names: list[str] | None) -> list[Dataset]:
    return [registry.open(name) for name in names] if names else registry.datasets()


def _watch(registry: Registry, names: list[str] | None) -> None:
    while True:
        time.sleep(_POLL_SECONDS)
        # Retried without end: a lost connection must not end the command. The datasets are opened
        # again each time, which finds new ones.
        for attempt in retrying(None, registry.engine):
            with attempt:
                for dataset in _open(registry, names):
                    drained = dataset.inbox.drain()
                    if drained.moved or drained.refused or drained.removed:
                        typer.echo(drained_line(dataset, drained))
