"""``registry drop``: remove a dataset."""

from __future__ import annotations

import typer

from registry.catalog.contents import Contents, contents_of
from registry.catalog.registry import connect, find_row
from registry.cli.base import DatasetName, Url, Yes, app
from registry.cli.confirm import confirm
from registry.cli.output import counted
from registry.cli.progress import progress


@app.command()
def drop(
    dataset: DatasetName,
    yes: Yes = False,
    url: Url = None,
) -> None:
    """Remove a dataset with its samples, runs, epochs and tags, permanently.

    It disappears at once, and its name is free. Then its rows are removed in
    small transactions; if this is interrupted, the next drop, or
    `registry doctor --fix`, removes the rest. Mirrors stay until
    `registry cache prune --dropped` is run on each machine that has one.
    """
    with connect(url) as registry:
        contents = contents_of(registry.engine, find_row(registry, dataset).id)
        confirm(f"Drop {dataset} ({_text(contents)}), permanently?", yes=yes)
        with progress(dataset, contents.rows) as show:
            registry.drop(dataset, show and (lambda removed, _: show(removed, removed)))
    typer.echo(f"dropped {dataset}: {_text(contents)}")


def _text(contents: Contents) -> str:
    parts = [
        counted(contents.rows, "row"),
        counted(contents.samples, "sample"),
        f"{counted(contents.runs, 'run')} with {counted(contents.epochs, 'epoch')}",
        counted(contents.tags, "tag"),
    ]
    if contents.inbox:
        parts.append(f"{counted(contents.inbox, 'row')} in the inbox")
    return ", ".join(parts)
