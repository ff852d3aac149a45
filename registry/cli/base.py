"""The Typer application, and the arguments and options that several commands share."""

from __future__ import annotations

import importlib.metadata
import io
import re
import sys
from datetime import timedelta
from typing import Annotated

import typer

from registry.catalog.registry import DEFAULT_URL
from registry.cli.complete import dataset_names
from registry.cli.output import Commands

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Url = Annotated[
    str | None,
    typer.Option(
        metavar="URL", envvar="REGISTRY_URL", help=f"The database; {DEFAULT_URL} if not given."
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
        typer.echo(f"registry {importlib.metadata.version('registry')}")
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
