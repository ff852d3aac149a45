"""The command that examines a registry for problems."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from registry.catalog.doctor.examine import examine
from registry.catalog.doctor.finding import Finding
from registry.catalog.registry import DEFAULT_URL
from registry.cli.base import AsJson, Url, app
from registry.cli.output import fail
from registry.cli.tables import Column, Listing, plain
from registry.errors import RegistryError
from registry.storage.database.url import parse_url, shown

_CODES = {"note": 0, "warning": 1, "error": 2}


@app.command()
def doctor(
    fix: Annotated[
        bool, typer.Option("--fix", help="First remove what is left of dropped datasets.")
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Look for problems: in settings, schema, triggers, indexes, heads, inbox and mirrors.

    Exits with 0 if there are none, with 1 after warnings and with 2 after errors. Nothing is
    changed without --fix.
    """
    place = url or DEFAULT_URL
    try:
        found = examine(place, fix=fix)
    except RegistryError as error:
        if not as_json:
            fail(str(error), error)
            raise typer.Exit(_CODES["error"]) from None
        # As JSON the failure is a finding, too: a script always gets a list.
        found = [Finding("error", "database", str(error), "see what it says")]
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    elif not found:
        typer.echo(f"{plain(shown(parse_url(place)))}: nothing is wrong")
    else:
        _print(found)
    raise typer.Exit(max((_CODES[finding.severity] for finding in found), default=0))


def _print(found: list[Finding]) -> None:
    listing = Listing(
        Column("severity", whole=True), Column("subject"), Column("finding"), Column("remedy")
    )
    listing.print((each.severity, each.subject, each.said, each.remedy) for each in found)
