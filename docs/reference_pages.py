"""The pages of the reference that are generated from the code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    text = get_docs_for_click(obj=command, ctx=context, name="registry", title="Commands")
    for each in _below(command):
        # Typer cuts it to 45 characters.
        line = f"* `{each.name}`: "
        text = text.replace(
            f"{line}{each.get_short_help_str()}\n", f"{line}{each.get_short_help_str(500)}\n"
        )
    return text


def _below(command: Any) -> Iterator[Any]:
    """Yield the commands of a group, and those of its groups."""
    for each in getattr(command, "commands", {}).values():
        yield each
        yield from _below(each)
