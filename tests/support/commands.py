"""Running commands: in this process, or as a real process."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from typer import testing
from typer.main import get_command
from typer.testing import CliRunner, Result

from registry.cli import app as all_commands
from registry.cli.base import app

# Typer creates all commands each time that a test runs one, which takes longer than most of them.
testing._get_command = functools.cache(get_command)  # type: ignore[attr-defined]


def run(*arguments: object, url: str | None = None, code: int = 0) -> Result:
    """Run a command in this process, and check its exit code."""
    environment = {"REGISTRY_URL": url, "FORCE_COLOR": None, "GITHUB_ACTIONS": None}
    result = CliRunner().invoke(app, [str(each) for each in arguments], env=environment)
    assert result.exit_code == code, result.output
    return result


@functools.cache
def _all_commands() -> Any:
    return get_command(all_commands)


def parse(arguments: Sequence[str]) -> None:
    """Parse a command's arguments without running it; raises an error for what it does not take.

    A file that does not exist is none.
    """
    command = _all_commands()
    context = command.make_context("registry", [arguments[0]], resilient_parsing=True)
    rest = list(arguments)
    while hasattr(command, "commands"):
        name = rest.pop(0)
        command = command.get_command(context, name)
        assert command is not None, f"there is no command {name!r}"
    try:
        command.make_context("registry", rest)
    except Exception as error:
        if not str(error).endswith("does not exist."):
            raise


def options_of(words: Sequence[str]) -> set[str]:
    """Return the options of the command, or subcommand, that the words begin with."""
    command = _all_commands()
    context = command.make_context("registry", ["ls"], resilient_parsing=True)
    for word in words:
        if not hasattr(command, "commands"):
            break
        command = command.get_command(context, word) or command
    return {option for each in command.params for option in [*each.opts, *each.secondary_opts]}


@contextmanager
def process(*arguments: str, stderr: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """Run a real ``python -m registry``."""
    command = [sys.executable, "-m", "registry", *arguments]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
    ) as started:
        try:
            yield started
        finally:
            started.kill()
