"""What several commands print: errors, retries, and a dataset as JSON."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import typer
from typer.core import TyperGroup

from registry.catalog.summary import DatasetSummary
from registry.cli.tables import printable
from registry.errors import RegistryError
from registry.io.faults import Faults
from registry.storage.database import retry

INTERRUPTED = 130
"""The exit code of a command ended by Ctrl-C, as in shells: 128 plus SIGINT."""


class Commands(TyperGroup):
    """A group of commands; prints a `RegistryError` as a line on stderr and exits with 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with _printed_retries():
                return super().invoke(ctx)
        except RegistryError as error:
            # "from None": a traceback would show SQL, and the values in it.
            print_error(str(error), error)
            raise typer.Exit(1) from None
        # Before Click handles it, with its own message.
        except KeyboardInterrupt as error:
            print_error("interrupted", error)
            raise typer.Exit(INTERRUPTED) from None


def print_error(message: str, error: BaseException | None = None) -> None:
    """Print an error to stderr, with a line for each of its notes."""
    typer.echo(f"{typer.style('error:', fg='red', bold=True)} {printable(message)}", err=True)
    for note in getattr(error, "__notes__", ()):
        typer.echo(f"  {printable(note)}", err=True)


def print_note(text: str) -> None:
    """Print a note to stderr, since stdout may be JSON."""
    typer.echo(f"note: {printable(text)}", err=True)


def print_faults(faults: Faults) -> None:
    """Print the first faults of a file to stderr, and how many others it has."""
    for fault in faults.first:
        print_error(str(fault), fault)
    if others := faults.count - len(faults.first):
        print_error(f"and {others:,} more that do not fit")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 row`` or ``1,500 rows``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


class _RetryPrinter(logging.Handler):
    """Prints to stderr why an operation is retried; only its first retry."""

    def emit(self, record: Any) -> None:
        if record.attempt == 1:
            typer.echo(f"waiting: {printable(str(record.cause))}", err=True)


@contextmanager
def _printed_retries() -> Iterator[None]:
    """Print the retries in the block to stderr, rather than to the handlers of the root logger."""
    handler = _RetryPrinter()
    retry.logger.addHandler(handler)
    retry.logger.propagate = False  # otherwise `serve`, which sets up logging, prints each twice
    try:
        yield
    finally:
        retry.logger.removeHandler(handler)
        retry.logger.propagate = True


def dataset_json(summary: DatasetSummary) -> dict[str, Any]:
    """Return a dataset as ``--json`` prints it: splits by their shares, the head's values flat."""
    return {
        "name": summary.name,
        "description": summary.description,
        "features": summary.features,
        "schema": summary.schema,
        "changes": [asdict(change) for change in summary.changes],
        "splits": summary.shares,
        "live": summary.head.live,
        "positions": summary.head.position,
        "version": summary.head.version,
        "created_at": summary.created_at.isoformat(),
    }
