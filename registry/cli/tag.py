"""``registry tag``, ``registry untag`` and ``registry tags``: names for versions of a dataset."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from registry.catalog.registry import connect
from registry.cli.base import AsJson, Name, Url, app
from registry.cli.output import counted, printable
from registry.cli.tables import Column, Listing
from registry.storage.log.tags import Tag

TagName = Annotated[
    str, typer.Argument(metavar="TAG", help="The tag: letters, digits, _, . and -.")
]


@app.command()
def tag(
    dataset: Name,
    name: TagName,
    at: Annotated[
        int | None,
        typer.Option(metavar="POSITION", help="Where the version ends; the head by default."),
    ] = None,
    note: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the version is for.")
    ] = None,
    move: Annotated[
        bool, typer.Option("--move", help="Move the tag if it points to another version.")
    ] = False,
    url: Url = None,
) -> None:
    """Name the present version of a dataset, or an older one: DATASET@TAG opens it.

    Runs and versions that were opened by a tag before it is moved stay as they are.
    """
    with connect(url) as registry:
        set_tag = registry.open(dataset).tag(name, at=at, note=note, move=move)
    line = f"{set_tag.name}: {set_tag.version}, {counted(set_tag.live, 'sample')}"
    typer.echo(printable(line))


@app.command()
def untag(dataset: Name, name: TagName, url: Url = None) -> None:
    """Delete a tag. The version that it names stays, and so do runs on it."""
    with connect(url) as registry:
        registry.open(dataset).untag(name)
    typer.echo(f"deleted {printable(name)}")


@app.command()
def tags(dataset: Name, as_json: AsJson = False, url: Url = None) -> None:
    """List the tags of a dataset, in the order of their positions."""
    with connect(url) as registry:
        listed = registry.open(dataset).tags()
    if as_json:
        typer.echo(json.dumps([_tag_json(each) for each in listed], indent=2))
    else:
        _print(listed)


def _print(listed: Iterable[Tag]) -> None:
    listing = Listing(
        Column("tag"),
        Column("position", right=True, whole=True),
        Column("live", right=True, whole=True),
        Column("set (UTC)", whole=True),
        Column("version"),
        Column("note"),
    )
    listing.print(
        (
            each.name,
            f"{each.position:,}",
            f"{each.live:,}",
            f"{each.created_at:%Y-%m-%d %H:%M:%S}",
            str(each.version),
            each.note,
        )
        for each in listed
    )


def _tag_json(each: Tag) -> dict[str, Any]:
    return {
        "name": each.name,
        "position": each.position,
        "version": str(each.version),
        "live": each.live,
        "created_at": each.created_at.isoformat(),
        "note": each.note,
    }
