"""``registry export``: write the samples of a dataset to a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from registry.catalog.dataset import Dataset
from registry.catalog.registry import connect
from registry.cli.base import AsJsonLines, Name, Url, app
from registry.cli.progress import progress
from registry.cli.tables import printable
from registry.io.export_file import export_file
from registry.io.formats import WRITABLE


@app.command()
def export(
    dataset: Name,
    path: Annotated[
        Path, typer.Argument(metavar="PATH", dir_okay=False, help="The file to write, or replace.")
    ],
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help=f"What to write, if not what the suffix says: {', '.join(WRITABLE)}.",
        ),
    ] = None,
    key: Annotated[
        str, typer.Option(metavar="NAME", help="The column or property that takes the keys.")
    ] = "key",
    group: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="The column or property that takes the groups, if there are any."
        ),
    ] = "group",
    as_json: AsJsonLines = False,
    url: Url = None,
) -> None:
    """Write the live samples of a dataset, or of a version of it, to a file."""
    with connect(url) as registry:
        # Opened twice, the second time at a fixed version: the dataset may grow meanwhile, and the
        # printed version must be that of the file.
        version = str(registry.open(dataset).version)
        opened = registry.open(version)
        with progress(path.name, None) as show:
            count = export_file(
                registry.engine,
                opened,
                path,
                form=format_name,
                key=key,
                group=group,
                progress=show,
            )
        typer.echo(_line(opened, path, count, as_json=as_json))


def _line(dataset: Dataset, path: Path, count: int, *, as_json: bool) -> str:
    """Return a line on the result of an export."""
    version = str(dataset.version)
    if as_json:
        return json.dumps({"file": str(path), "samples": count, "version": version})
    return f"{printable(str(path))}: {count:,} samples of {version}"
