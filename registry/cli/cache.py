"""``registry cache``: list and remove the mirrors on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.filesize import decimal
from sqlalchemy import Engine

from registry.catalog.cache import CachedMirror, cached_mirrors
from registry.cli.base import AsJson, Url, Yes, app, parse_duration
from registry.cli.confirm import confirm
from registry.cli.database import connect_existing
from registry.cli.output import counted, print_error, print_note
from registry.cli.tables import Column, Listing
from registry.errors import RegistryError
from registry.storage.mirror.usage import remove_mirror, remove_rests
from registry.training.mirror_source import cache_folder

_TIMEOUT = 10.0
"""Seconds to wait for a database that is only asked for names."""
_UID = 8
"""Hex digits of a dataset's uid in a table, as many as tell mirrors apart."""

cache: typer.Typer = typer.Typer(
    no_args_is_help=True, help="List and remove the mirrors on this machine."
)
app.add_typer(cache, name="cache")


@cache.command(name="ls")
def list_mirrors(as_json: AsJson = False, url: Url = None) -> None:
    """List the mirrors in $REGISTRY_CACHE, the local copies of datasets.

    The database is asked for the names of their datasets, and for what was erased
    or dropped. Without one, the names are those of the last use.
    """
    with _known_engine(url) as engine:
        mirrors = cached_mirrors(cache_folder(), engine)
    if as_json:
        typer.echo(json.dumps([_mirror_json(mirror) for mirror in mirrors], indent=2))
    else:
        _print(mirrors)


@cache.command()
def prune(
    unused: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Not used for so long: 30d, 12h.")
    ] = None,
    dropped: Annotated[
        bool, typer.Option("--dropped", help="Of datasets that were dropped from the database.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be removed.")
    ] = False,
    yes: Yes = False,
    url: Url = None,
) -> None:
    """Remove mirrors that are unused or of dropped datasets, or both.

    A mirror that any process uses is kept. One of a dataset that still exists is
    made again, from the database, when it is needed.
    """
    if unused is None and not dropped:
        raise typer.BadParameter("say which mirrors to remove", param_hint="--unused, --dropped")
    latest = None if unused is None else time.time() - parse_duration(unused).total_seconds()
    root = cache_folder()
    with connect_existing(url) if dropped else nullcontext() as registry:
        engine = registry.engine if registry else None
        mirrors = [
            mirror
            for mirror in cached_mirrors(root, engine)
            if (dropped and mirror.dropped) or (latest is not None and mirror.use.used_at < latest)
        ]
    chosen = [mirror for mirror in mirrors if not mirror.use.in_use]
    if chosen:
        _print(chosen)
    kept = len(mirrors) - len(chosen)
    size = sum(mirror.use.size for mirror in chosen)
    if chosen and not dry_run:
        question = f"Remove {counted(len(chosen), 'mirror')} of {decimal(size)} in {root}?"
        confirm(question, yes=yes)
    if not dry_run:
        removed = [mirror for mirror in chosen if _remove(mirror)]
        remove_rests(root)
        kept += len(chosen) - len(removed)
        size = sum(mirror.use.size for mirror in removed)
        chosen = removed
    done = "would be removed" if dry_run else "removed"
    typer.echo(f"{counted(len(chosen), 'mirror')} {done}, {decimal(size)}; {kept:,} in use kept")


def _remove(mirror: CachedMirror) -> bool:
    try:
        return remove_mirror(mirror.use.folder, with_runs=mirror.dropped)
    except OSError as error:
        print_error(f"{mirror.use.folder} cannot be removed: {error.strerror or error}")
        return False


@contextmanager
def _known_engine(url: str | None) -> Iterator[Engine | None]:
    """Yield the database's engine, or None, with a note why, if there is none."""
    with ExitStack() as opened:
        engine = None
        try:
            engine = opened.enter_context(connect_existing(url, _TIMEOUT)).engine
        except RegistryError as error:
            print_note(f"names are those of the last use: {error}")
        yield engine


def _print(mirrors: Sequence[CachedMirror]) -> None:
    listing = Listing(
        Column("dataset"),
        Column("uid", whole=True),
        Column("rows", right=True, whole=True),
        Column("size", right=True, whole=True),
        Column("last used (UTC)", whole=True),
        Column("note"),
    )
    listing.print(
        (
            mirror.name or "(unknown)",
            mirror.use.uid[:_UID],
            f"{mirror.use.rows:,}",
            decimal(mirror.use.size),
            f"{_used(mirror):%Y-%m-%d %H:%M}",
            ", ".join(_notes(mirror)),
        )
        for mirror in mirrors
    )


def _notes(mirror: CachedMirror) -> Iterator[str]:
    if mirror.use.in_use:
        yield "in use"
    if mirror.dropped:
        yield "dropped"
    if mirror.unerased:
        yield f"holds {counted(mirror.unerased, 'row')} that were erased"
    if mirror.origin is not None:
        yield f"of {mirror.origin}"


def _used(mirror: CachedMirror) -> datetime:
    return datetime.fromtimestamp(mirror.use.used_at, UTC)


def _mirror_json(mirror: CachedMirror) -> dict[str, Any]:
    return {
        "dataset": mirror.name,
        "uid": mirror.use.uid,
        "folder": str(mirror.use.folder),
        "rows": mirror.use.rows,
        "bytes": mirror.use.size,
        "last_used": _used(mirror).isoformat(timespec="seconds"),
        "in_use": mirror.use.in_use,
        "dropped": mirror.dropped,
        "unerased": mirror.unerased,
        "databases": mirror.use.databases,
    }
