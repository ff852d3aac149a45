"""The pages of the reference that are generated from the code."""

from __future__ import annotations

from pathlib import Path

import typer.main
from errors_page import errors_page
from http_page import http_page
from sql_page import sql_page
from typer.cli import get_docs_for_click

from registry.cli import app

REFERENCE = Path(__file__).with_name("reference")


def write_pages() -> None:
    """Write each page, which Git ignores."""
    pages = {
        "commands": commands_page(),
        "http": http_page(),
        "sql": sql_page(),
        "errors": errors_page(),
    }
    for name, text in pages.items():
        (REFERENCE / f"{name}.md").write_text(text)


def commands_page() -> str:
    """Return what the commands print as their help."""
    command = typer.main.get_command(app)
    context = command.context_class(command, info_name="registry")
    return get_docs_for_click(obj=command, ctx=context, name="registry", title="Commands")
