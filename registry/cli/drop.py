"""``registry drop``: remove a dataset."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from registry.catalog.contents import Contents, contents_of
from registry.catalog.registry import connect, find_row
from registry.cli.base import DatasetName, Url, Yes, app
from registry.cli.confirm import confirm
from registry.cli.output import counted, print_note
from registry.cli.progress import progress
from registry.server.tokens import tokens_of


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
        tokens = [token for token in tokens_of(registry.engine) if token.dataset == dataset]
    typer.echo(f"dropped {dataset}: {_text(contents)}")
    for token in tokens:
        if token.usable(datetime.now(UTC)):
            print_note(f"the token {token.name} would open a new dataset of this name; revoke it")


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
