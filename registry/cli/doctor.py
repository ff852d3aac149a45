"""``registry doctor``: examine a registry for problems."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from registry.catalog.doctor.examine import examine
from registry.catalog.doctor.finding import Finding
from registry.catalog.registry import DEFAULT_URL
from registry.cli.base import AsJson, Url, app
from registry.cli.output import print_error, printable
from registry.cli.tables import Column, Listing
from registry.errors import RegistryError
from registry.storage.database.url import masked, parse_url

_EXIT_CODES = {"note": 0, "warning": 1, "error": 2}


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
    url = url or DEFAULT_URL
    try:
        findings = examine(url, fix=fix)
    except RegistryError as error:
        if not as_json:
            print_error(str(error), error)
            # Not left to the group of commands, which exits with 1: that is a warning here.
            raise typer.Exit(_EXIT_CODES["error"]) from None
        # As JSON the failure is a finding, too: a script always gets a list.
        findings = [Finding("error", "database", str(error), "see what it says")]
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    elif not findings:
        typer.echo(f"{printable(masked(parse_url(url)))}: nothing is wrong")
    else:
        _print(findings)
    raise typer.Exit(max((_EXIT_CODES[finding.severity] for finding in findings), default=0))


def _print(findings: list[Finding]) -> None:
    listing = Listing(
        Column("severity", whole=True), Column("subject"), Column("finding"), Column("remedy")
    )
    listing.print(
        (finding.severity, finding.subject, finding.said, finding.remedy) for finding in findings
    )
