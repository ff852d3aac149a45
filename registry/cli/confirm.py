"""Asking before a command removes something."""

from __future__ import annotations

import sys

import typer

from registry.cli.output import print_error, printable


def confirm(question: str, *, yes: bool) -> None:
    """Return if the user agrees, and end the command if not.

    With ``yes`` nobody is asked. Without it, a terminal's user is; elsewhere the command fails.
    """
    if yes:
        return
    # A script that has no terminal must neither wait for an answer nor remove anything.
    if not sys.stdin.isatty():
        print_error(f"{question} Pass --yes to do it; nothing was changed")
        raise typer.Exit(1)
    # To stderr: stdout may be read by a program.
    typer.confirm(printable(question), abort=True, err=True)
