"""What several commands print: errors and notes, without characters that control a terminal."""

from __future__ import annotations

import typer


def printable(text: str) -> str:
    """Return text with escapes for control characters, which a terminal would execute."""
    if text.isprintable():
        return text
    # By character: the codec escapes all but ASCII, and would make other languages unreadable.
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def print_error(message: str, error: BaseException | None = None) -> None:
    """Print an error to stderr, with a line for each of its notes."""
    typer.echo(f"{typer.style('error:', fg='red', bold=True)} {printable(message)}", err=True)
    for note in getattr(error, "__notes__", ()):
        typer.echo(f"  {printable(note)}", err=True)


def print_note(text: str) -> None:
    """Print a note to stderr, since stdout may be JSON."""
    typer.echo(f"note: {printable(text)}", err=True)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 row`` or ``1,500 rows``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
