"""The options of commands that read files and URIs which samples name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Roots = Annotated[
    list[Path] | None,
    typer.Option(
        "--root",
        exists=True,
        file_okay=False,
        metavar="FOLDER",
        help="Read the files that samples name from below here, and nowhere else. Repeatable.",
    ),
]
Prefixes = Annotated[
    list[str] | None,
    typer.Option(
        "--fetch",
        metavar="PREFIX",
        help="Fetch the URIs that samples name and that begin with this, such as "
        "https://host/images/ or s3://bucket/images/, and no others. Repeatable.",
    ),
]
