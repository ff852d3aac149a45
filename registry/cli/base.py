"""The Typer application, and the arguments and options that several commands share."""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import registry
from registry.cli.complete import dataset_names
from registry.cli.output import print_error, printable
from registry.errors import RegistryError

MODULES = {
    "init": "init",
    "create": "create",
    "alter": "alter",
    "grants": "grants",
    "describe": "describe",
    "rename": "rename",
    "drop": "drop",
    "insert": "insert",
    "export": "export",
    "sql": "sql",
    "drain": "drain",
    "inbox": "inbox",
    "erase": "erase",
    "copy": "copy",
    "token": "token",
    "serve": "serve",
    "webhook": "webhook",
    "ls": "ls",
    "show": "show",
    "log": "log",
    "run": "run",
    "epoch": "epoch",
    "tag": "tag",
    "tags": "tag",
    "untag": "tag",
    "mirror": "mirror",
    "cache": "cache",
    "verify": "verify",
    "doctor": "doctor",
    "demo": "demo.command",
}
"""The commands in the order of the help, and the module that registers each."""
INTERRUPTED = 130
"""The exit code of a command ended by Ctrl-C, as in shells: 128 plus SIGINT."""


class Commands(TyperGroup):
    """The commands, of which each module is loaded when one of its commands is needed.

    Prints a `RegistryError` as a line on stderr and exits with 1.
    """

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        self._load(*MODULES)
        return [*MODULES]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        # All of them for an unknown name: the message suggests those that are similar.
        self._load(*([cmd_name] if cmd_name in MODULES else MODULES))
        return super().get_command(ctx, cmd_name)

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

    def _load(self, *names: str) -> None:
        if missing := [name for name in names if name not in self.commands]:
            for name in missing:
                importlib.import_module(f"registry.cli.{MODULES[name]}")
            self.commands.update(typer.main.get_group(app).commands)
        if not gc.isenabled():  # a program has begun
            gc.freeze()
            gc.enable()


class _RetryPrinter(logging.Handler):
    """Prints to stderr why an operation is retried, or waits; only its first retry."""

    def emit(self, record: Any) -> None:
        if getattr(record, "attempt", 1) == 1:
            typer.echo(f"waiting: {printable(str(record.cause))}", err=True)


@contextmanager
def _printed_retries() -> Iterator[None]:
    """Print the retries in the block to stderr, rather than to the handlers of the root logger."""
    names = "registry.storage.database.retry", "registry.storage.database.full_server"
    handler, loggers = _RetryPrinter(), [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False  # otherwise `serve`, which sets up logging, prints each twice
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.propagate = True


class _Program(typer.Typer):
    def __call__(self, *args: Any, **options: Any) -> Any:
        # Loading modules makes many objects and no garbage. To search them for it, meanwhile and at
        # the end, takes a third of the time of a short command.
        gc.disable()
        atexit.register(gc.freeze)
        return super().__call__(*args, **options)


app: typer.Typer = _Program(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Url = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="REGISTRY_URL",
        help="The database; sqlite:///registry.db if not given.",
    ),
]
Name = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="A dataset's name, or a version of it: NAME@TAG, NAME@POSITION.",
        autocompletion=dataset_names,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DatasetName = Annotated[
    str,
    typer.Argument(metavar="DATASET", help="A dataset's name.", autocompletion=dataset_names),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AsJsonLines = Annotated[bool, typer.Option("--json", help="Print a JSON object per line.")]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"registry {registry.__version__}")
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Keep datasets in a database, for training on data that keeps growing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the encoding of stdout lacks, as in a pipe under LANG=C, would otherwise
        # raise UnicodeEncodeError in the middle of the output.
        sys.stdout.reconfigure(errors="backslashreplace")


def parse_pairs(option: str, texts: list[str]) -> dict[str, str]:
    """Split ``name=value`` texts; raises `typer.BadParameter` for no name or a repeated one."""
    pairs: dict[str, str] = {}
    for text in texts:
        # At the first "=" only: a value, such as a path, may have more.
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=option)
        if name in pairs:
            raise typer.BadParameter(f"{name!r} is given twice", param_hint=option)
        pairs[name] = value
    return pairs


def parse_duration(text: str) -> timedelta:
    """Parse a duration such as ``30m``, ``12h``, ``90d`` or ``52w``."""
    # The number of digits is limited: timedelta raises OverflowError for a large number.
    match = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no duration; write 30m, 12h, 90d or 52w")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def duration_text(duration: timedelta) -> str:
    """Return a duration as `parse_duration` reads it, in days or the largest unit below."""
    unit = next((each for each in "dhm" if not duration % timedelta(**{_UNITS[each]: 1})), "s")
    return f"{duration // timedelta(**{_UNITS[unit]: 1})}{unit}"
