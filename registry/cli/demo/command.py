"""``registry demo``: run the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from registry.cli.base import app
from registry.cli.output import print_error
from registry.distribution import install_extra

_DEMO_EXTRA = ("fastapi", "jinja2", "keras", "markupsafe", "sklearn", "tensorflow", "uvicorn")


@app.command()
def demo(
    folder: Annotated[
        Path,
        typer.Option(metavar="FOLDER", file_okay=False, help="Where its database and page go."),
    ] = Path("registry-demo"),
    serve: Annotated[
        bool, typer.Option("--serve", help="Then serve the pages to this machine, until Ctrl-C.")
    ] = False,
) -> None:
    """Train a model on a dataset while another process labels it, and show how it went."""
    try:
        # Imported here: the demo needs an extra, which the other commands must work without.
        from registry.cli.demo.run import run  # noqa: PLC0415

        run(folder, stay=serve)
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _DEMO_EXTRA:
            raise  # a broken import in our own code is not a missing extra
        print_error(f"the demo needs {package}; run: {install_extra('demo')}")
        raise typer.Exit(1) from None
