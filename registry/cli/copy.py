"""``registry copy``: copy datasets between databases."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from registry.catalog.copy.dataset import Copied, copy_dataset
from registry.catalog.registry import Registry, connect
from registry.cli.base import AsJsonLines, app
from registry.cli.progress import progress
from registry.cli.tables import printable
from registry.errors import RegistryError
from registry.storage.database.url import masked, may_exist, parse_url


@app.command()
def copy(
    source: Annotated[str, typer.Argument(metavar="FROM_URL", help="The database to read.")],
    target: Annotated[str, typer.Argument(metavar="TO_URL", help="The database to copy to.")],
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATASET", help="Datasets; all if none is given."),
    ] = None,
    as_json: AsJsonLines = False,
) -> None:
    """Copy datasets to another database, with their runs, versions and times.

    If it is interrupted, or the source has grown, run it again: it continues where it was. Nobody
    may write to the copy before it is complete. Access tokens are not copied.
    """
    # connect() creates a SQLite file: a mistyped FROM_URL would be an empty database.
    _check_exists(source)
    # Replicas are turned off: one that lags would return an old state of the log.
    with (
        connect(source, replica="") as source_registry,
        connect(target, replica="") as target_registry,
    ):
        for name in names or source_registry.names():
            copied = _copy(source_registry, target_registry, name)
            typer.echo(_json_line(copied) if as_json else _line(copied))


def _check_exists(url: str) -> None:
    parsed = parse_url(url)
    if not may_exist(parsed):
        raise typer.BadParameter(f"{masked(parsed)} is not there", param_hint="FROM_URL")


def _copy(source: Registry, target: Registry, name: str) -> Copied:
    with progress(name, source.open(name).head.position) as show:
        try:
            return copy_dataset(source, target, name, show)
        except RegistryError as error:
            # Its message names one database: without the note it would not say which copy failed.
            error.add_note(f"{name!r} was to be copied to {masked(target.engine.url)}")
            raise


def _json_line(copied: Copied) -> str:
    return json.dumps(
        {"version": str(copied.version), "rows": copied.rows, **asdict(copied.related)}
    )


def _line(copied: Copied) -> str:
    related = copied.related
    parts = [f"{copied.rows:,} rows copied"]
    parts += [f"{related.runs:,} runs"] if related.runs else []
    parts += [f"{related.refused:,} refused rows in the inbox"] if related.refused else []
    parts += [f"{related.left:,} inbox rows left behind"] if related.left else []
    if related.erased:
        parts.append(f"{related.erased:,} erased, of which its files keep the bytes until VACUUM")
    name, version = printable(copied.version.name), printable(str(copied.version))
    return f"{name}: {', '.join(parts)}; {version}"
