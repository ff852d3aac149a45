"""``registry describe``: say what a dataset holds."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.catalog.registry import connect
from registry.cli.base import DatasetName, Url, app


@app.command()
def describe(
    dataset: DatasetName,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the dataset holds.")],
    url: Url = None,
) -> None:
    """Set a dataset's description, or remove it by an empty text."""
    with connect(url) as registry:
        registry.open(dataset).describe(text)
    typer.echo(f"{dataset} is described")
