"""``registry epoch``: what an epoch of a training run was made of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from typing import Annotated, Any

import typer

from registry.catalog.registry import connect
from registry.cli.base import DatasetName, Url, app
from registry.cli.output import counted
from registry.cli.run import RunName
from registry.cli.tables import Column, Listing, print_properties
from registry.storage.log.entries import Entry
from registry.training.lineage import EpochLineage

_TABLE_ROWS = 1000
"""Rows of a table that are laid out at a time."""


@app.command()
def epoch(
    dataset: DatasetName,
    run: RunName,
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="The epoch's number, from 0.")],
    keys: Annotated[
        bool, typer.Option("--keys", help="List the samples that it held instead.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; with --keys, an object per line.")
    ] = False,
    url: Url = None,
) -> None:
    """Show what a pinned epoch of a run was made of.

    Its version, schema and tags, and its samples: how many came or changed since
    the epoch before, and how many there were of each source and class.
    """
    with connect(url) as registry:
        opened = registry.open(dataset).find_run(run)
        if keys:
            # Within the block: the rows are read while they are printed.
            entries = opened.entries(number)
            _print_json_lines(entries) if as_json else _print_entries(entries)
            return
        lineage = opened.lineage(number)
    if as_json:
        typer.echo(json.dumps(_lineage_json(lineage), indent=2))
    else:
        print_properties(_properties(lineage))


def _properties(lineage: EpochLineage) -> Iterator[tuple[str, str]]:
    yield "run", lineage.run
    yield "epoch", f"{lineage.number}, pinned {lineage.pinned_at:%Y-%m-%d %H:%M:%S} UTC"
    yield "version", str(lineage.version)
    yield "schema", str(lineage.schema)
    for tag in lineage.tags:
        yield "tags", tag
    yield "samples", f"{lineage.size:,}, the run's from {lineage.start:,} on"
    yield "new", f"{lineage.new:,}"
    yield "revised", f"{lineage.revised:,}"
    if lineage.erased:
        yield "erased", f"{counted(lineage.erased, 'sample')}, so that it cannot be replayed"
    for source, count in lineage.sources.items():
        yield "sources", f"{source or '(none)'}: {count:,}"
    for name, counts in lineage.classes.items():
        for label, count in counts.items():
            yield name, f"{label}: {count:,}"


def _lineage_json(lineage: EpochLineage) -> dict[str, Any]:
    sources = [{"source": each, "samples": n} for each, n in lineage.sources.items()]
    return {
        **asdict(lineage),
        "version": str(lineage.version),
        "pinned_at": lineage.pinned_at.isoformat(),
        # A list: JSON has no key for samples without a source.
        "sources": sources,
    }


def _print_entries(entries: Iterable[Entry]) -> None:
    listing = Listing(
        Column("position", right=True, whole=True),
        Column("source"),
        Column("key"),
    )
    # In parts: an epoch may have millions of samples.
    rows = iter(entries)
    while part := list(islice(rows, _TABLE_ROWS)):
        listing.print((str(row.position), row.source or "", row.key) for row in part)


def _print_json_lines(entries: Iterable[Entry]) -> None:
    for row in entries:
        fields = {"position": row.position, "key": row.key, "source": row.source}
        typer.echo(json.dumps({**fields, "group": row.group, "erased": row.erased}))
