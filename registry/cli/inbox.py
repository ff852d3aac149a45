"""``registry inbox``: list, retry, discard and limit the rejected rows of the inbox."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Annotated

import typer

from registry.catalog.registry import connect
from registry.cli.base import AsJson, Name, Url, app, duration_text, parse_duration
from registry.cli.drain import drained_line
from registry.cli.media import Prefixes, Roots
from registry.cli.output import counted, print_note
from registry.cli.tables import Column, Listing, print_properties
from registry.io.media import media_reader
from registry.io.retry_media import RetriedRows, retry_with_media
from registry.storage.log.inbox_rejected import Refused

Ids = Annotated[
    list[int] | None, typer.Argument(metavar="ID", help="Rows, by their ids; all if none is given.")
]

_KEY_WIDTH = 60
"""Characters of a key that are shown, at most."""
_TABLE_ROWS = 1000
"""Rows of a table that are laid out at a time."""

inbox: typer.Typer = typer.Typer(
    no_args_is_help=True, help="Look after rows that did not fit their dataset."
)
app.add_typer(inbox, name="inbox")


@inbox.command(name="ls")
def list_rejected(
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
        # One more than asked for, to know whether these are the last.
        rejected = registry.open(dataset).inbox.refused(after, limit + 1)
    rows = rejected[:limit]
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2, default=str))
    else:
        _print(rows)
    if len(rejected) > limit:
        # To stderr: stdout may be JSON.
        typer.echo(f"there are more: --after {rows[-1].id}", err=True)


def _print(rows: Sequence[Refused]) -> None:
    listing = Listing(
        Column("id", right=True, whole=True),
        Column("key"),
        Column("action", whole=True),
        Column("source"),
        Column("created", whole=True),
        Column("error"),
    )
    # In parts: the time that Rich takes per row grows with the rows of its table.
    for start in range(0, len(rows) or 1, _TABLE_ROWS):
        listing.print(
            (
                str(row.id),
                (row.key or "")[:_KEY_WIDTH],
                row.action,
                row.source or "",
                f"{row.created_at:%Y-%m-%d %H:%M:%S}",
                row.error,
            )
            for row in rows[start : start + _TABLE_ROWS]
        )


@inbox.command()
def retry(
    dataset: Name,
    ids: Ids = None,
    root: Roots = None,
    fetch: Prefixes = None,
    url: Url = None,
) -> None:
    """Try rejected rows again, with the files and URIs that they name if these are allowed."""
    with connect(url) as registry, closing(media_reader(root or (), fetch or ())) as media:
        opened = registry.open(dataset)
        left_out = opened.inbox.left_out(ids or None)
        # It only puts the rows back; drain() tries them, so that the result can be printed.
        if root or fetch:
            retried = retry_with_media(opened, ids or None, media)
        else:
            retried = RetriedRows(opened.inbox.retry(ids or None), 0)
        tried = f"{retried.waiting:,} tried again"
        if retried.failed:
            tried += f", {retried.failed:,} not read"
        typer.echo(f"{tried}: {drained_line(opened, opened.inbox.drain())}")
    if left_out.empty:
        print_note(
            f"{left_out.empty:,} without fields not tried: correct the file and import it again, "
            "or discard the row"
        )
    if left_out.outdated:
        print_note(
            f"{left_out.outdated:,} not tried, as the sample was changed after the row was "
            "rejected: name the row's ID to overwrite the sample, or discard the row"
        )


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
    new_retention = None if retention is None else parse_duration(retention)
    with connect(url) as registry:
        # With None for both it changes nothing, and returns the limits as they are.
        stored = registry.open(dataset).inbox.set_limits(retention=new_retention, quota=quota)
    print_properties(
        [
            ("retention", duration_text(stored.retention)),
            ("quota", counted(stored.quota, "row")),
        ]
    )
