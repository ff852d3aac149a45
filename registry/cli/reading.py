"""Commands that read and verify datasets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated

import typer
from sqlalchemy import Engine

from registry.catalog.dataset import Dataset
from registry.catalog.registry import connect
from registry.catalog.verify import Verification
from registry.catalog.verify_images import BrokenImage
from registry.cli.base import AsJson, AsJsonLines, Name, Url, app
from registry.cli.output import (
    EntryTable,
    fail,
    print_dataset,
    print_datasets,
    print_json_entries,
    print_runs,
    run_summary,
    summary,
)
from registry.storage.database.retry import retrying
from registry.storage.log.entries import Entry

_CHUNK = 1000
"""Rows of the log that are read at a time."""
_LAST = 20
_REMEDY = "restore a database from a backup; remove a mirror's folder, and it is made again"


@app.command(name="ls")
def list_datasets(as_json: AsJson = False, url: Url = None) -> None:
    """List the datasets."""
    with connect(url) as registry:
        found = [(dataset, dataset.head) for dataset in registry.datasets()]
        if as_json:
            typer.echo(json.dumps([summary(*each) for each in found], indent=2))
            return
    print_datasets(found)


@app.command()
def show(dataset: Name, as_json: AsJson = False, url: Url = None) -> None:
    """Show a dataset's properties and its present size."""
    with connect(url) as registry:
        opened = registry.open(dataset)
        head = opened.head
    if as_json:
        typer.echo(json.dumps(summary(opened, head), indent=2))
        return
    print_dataset(opened, head)


@app.command()
def log(
    dataset: Name,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with rows as they come, until Ctrl-C.")
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
            help=f"Only the last so many rows; {_LAST}, or all of them with --after.",
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
            limit = _LAST if after is None else head
        start = max(after or 0, head - limit)
        out = print_json_entries if as_json else EntryTable()
        for begin in range(start, head, _CHUNK):
            out(opened.entries(begin, min(head, begin + _CHUNK)))
        if follow:
            # Ctrl-C is the only way to end this, so it must not be reported as an error.
            with suppress(KeyboardInterrupt):
                for entries in _followed(opened, registry.engine, max(start, head)):
                    out(entries)


@app.command()
def runs(dataset: Name, as_json: AsJson = False, url: Url = None) -> None:
    """List a dataset's training runs and their progress."""
    with connect(url) as registry:
        found = [(run, run.last, run.consumed) for run in registry.open(dataset).runs()]
    if as_json:
        typer.echo(json.dumps([run_summary(*each) for each in found], indent=2))
        return
    print_runs(found)


@app.command()
def verify(
    dataset: Name,
    images: Annotated[bool, typer.Option("--images", help="Decode all images, too.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Recompute the hash chain from all rows, in the database and in the local mirror."""
    with connect(url) as registry:
        opened = registry.open(dataset)
        found = opened.verify()
        broken = opened.broken_images() if images else []
    if as_json:
        all_found: list[Verification | BrokenImage] = [*found, *broken]
        typer.echo(json.dumps([asdict(each) for each in all_found], indent=2))
    _print_verified(found, quiet=as_json)
    for image in broken:
        _print_broken(opened.name, image)
    if images and not broken and not as_json:
        typer.echo("all images can be decoded")
    if any(each.differs is not None for each in found) or any(image.live for image in broken):
        raise typer.Exit(1)


def _print_verified(found: list[Verification], *, quiet: bool) -> None:
    for each in found:
        if each.differs is not None:
            fail(f"{each.place}: the chain differs from position {each.differs} on; {_REMEDY}")
        elif not quiet:
            erased = f", {each.erased:,} of them erased" if each.erased else ""
            typer.echo(
                f"{each.place}: {each.position:,} rows{erased} lead to the chain that they should"
            )


def _print_broken(dataset: str, image: BrokenImage) -> None:
    remedy = (
        "update the sample with a whole file, or retract it"
        if image.live
        else "only epochs that were pinned before it was revised hold it"
    )
    fail(
        f"dataset {dataset!r}, position {image.position}, key {image.key!r}, feature "
        f"{image.feature!r}: the image cannot be decoded ({image.reason}); {remedy}"
    )


def _followed(dataset: Dataset, engine: Engine, after: int) -> Iterator[list[Entry]]:
    for page in dataset.follow(after):
        # follow() reconnects by itself, but this is another query: without the retries, a
        # connection lost here would end the command.
        for attempt in retrying(None, engine):
            with attempt:
                entries = dataset.entries(page.start, page.stop)
        yield entries
