"""``registry copy``: copy datasets between databases."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from typing import Annotated

import typer

from registry.catalog.copy.dataset import Copied, copy_dataset
from registry.catalog.copy.into import Selection, fill_dataset
from registry.catalog.registry import Registry, connect
from registry.cli.base import AsJsonLines, Url, app, parse_pairs
from registry.cli.output import counted, printable
from registry.cli.progress import progress
from registry.errors import RegistryError
from registry.storage.database.url import masked, may_exist, parse_url


@app.command()
def copy(  # noqa: PLR0913, PLR0917  # arguments and options of the command
    source: Annotated[
        str,
        typer.Argument(
            metavar="FROM_URL",
            help="The database to read; with --into, a dataset of the database --url.",
        ),
    ],
    target: Annotated[
        str | None, typer.Argument(metavar="TO_URL", help="The database to copy to.")
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATASET", help="Datasets; all if none is given."),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Fill a new dataset of this name with the samples."),
    ] = None,
    drop_feature: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="With --into: leave a feature out. Repeat for each."),
    ] = None,
    rename_feature: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW", help="With --into: give a feature another name."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="URL", help="With --into: the new dataset's database, if another."),
    ] = None,
    as_json: AsJsonLines = False,
    url: Url = None,
) -> None:
    """Copy datasets to another database, with their runs, versions and times.

    If it is interrupted, or the source has grown, run it again: it continues where it was. Nobody
    may write to the copy before it is complete. Access tokens are not copied.

    `registry copy DATASET --into NAME` fills a new dataset, of the same database or another, with
    the rows of the log: with their keys, groups, sources and splits, but without runs, tags and
    times. Run again, it adds what is new; nobody has to stop writing.
    """
    if into is not None:
        if target is not None:
            reason = "name one dataset, and its database by --url"
            raise typer.BadParameter(reason, param_hint="TO_URL")
        renamed = parse_pairs("--rename-feature", rename_feature or [])
        selection = Selection(drop_feature or (), renamed)
        _fill(source, into, selection, url, to, as_json=as_json)
        return
    if target is None:
        reason = "name the database to copy to, or a new dataset by --into"
        raise typer.BadParameter(reason, param_hint="TO_URL")
    if drop_feature or rename_feature or to:
        reason = "goes with --into"
        raise typer.BadParameter(reason, param_hint="--drop-feature, --rename-feature, --to")
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


def _fill(
    name: str, into: str, selection: Selection, url: str | None, to: str | None, *, as_json: bool
) -> None:
    with ExitStack() as stack:
        # Without the replica, which may lag.
        source = stack.enter_context(connect(url, replica=""))
        target = source if to is None else stack.enter_context(connect(to, replica=""))
        with progress(name, source.open(name).head.position) as show:
            filled = fill_dataset(source, name, target, into, selection, show)
    report = filled.report
    counts = {
        "inserted": report.inserted,
        "revised": report.revised,
        "retracted": report.retracted,
        "unchanged": report.unchanged,
    }
    version = str(filled.version)
    if as_json:
        typer.echo(json.dumps({"version": version, "rows": filled.rows, **counts}))
        return
    changes = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    read = f"{counted(filled.rows, 'row')} of {printable(name)} read"
    typer.echo(f"{into}: {read}: {changes}; {version}")


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
    parts = [f"{counted(copied.rows, 'row')} copied"]
    parts += [counted(related.runs, "run")] if related.runs else []
    parts += [f"{counted(related.refused, 'rejected row')} in the inbox"] if related.refused else []
    parts += [f"{counted(related.left, 'inbox row')} left behind"] if related.left else []
    if related.erased:
        parts.append(f"{related.erased:,} erased, of which its files keep the bytes until VACUUM")
    name, version = printable(copied.version.name), printable(str(copied.version))
    return f"{name}: {', '.join(parts)}; {version}"
