"""``registry demo``: run the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from registry.cli.base import app
from registry.cli.output import print_error

_DEMO_EXTRA = ("keras", "matplotlib", "sklearn", "tensorflow")


@app.command()
def demo(
    folder: Annotated[
        Path,
        typer.Option(metavar="FOLDER", file_okay=False, help="Where its database and chart go."),
    ] = Path("registry-demo"),
) -> None:
    """Train a model on a dataset while another process labels it."""
    try:
        # Imported here: the demo needs an extra, which the other commands must work without.
        from registry.cli.demo.run import run  # noqa: PLC0415

        run(folder)
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _DEMO_EXTRA:
            raise  # a broken import in our own code is not a missing extra
        print_error(f"the demo needs {error.name}; run: pip install 'registry[demo]'")
        raise typer.Exit(1) from None
