"""``registry rename``: give a dataset another name."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.catalog.registry import connect
from registry.cli.base import DatasetName, Url, app
from registry.cli.output import print_note


@app.command()
def rename(
    dataset: DatasetName,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its new name.")],
    url: Url = None,
) -> None:
    """Give a dataset another name.

    Its runs, tags, webhooks, rows of the inbox, mirrors and tokens stay with it,
    and processes that have it open continue. The old name is free at once.

    What uses the old name must be changed: paths of the HTTP server, SQL for the
    inbox, the server's webhook secrets, and texts of versions.
    """
    with connect(url) as registry:
        tokens = registry.rename(dataset, name)
    typer.echo(f"{dataset} is now {name}")
    for old, new in tokens.items():
        print_note(f"the token {old} is now {new}, with the same secret")
