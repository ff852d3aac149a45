"""``registry grants``: print or apply the privileges of PostgreSQL roles."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.catalog.registry import DEFAULT_URL
from registry.cli.base import Url, app
from registry.cli.output import printable
from registry.storage.database import grants as privileges
from registry.storage.database.engine import make_engine
from registry.storage.database.grants import Kind
from registry.storage.database.url import masked


def _roles_option(help_text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(metavar="ROLE", help=f"{help_text} Repeat.")
    return option


@app.command()
def grants(
    *,
    writer: Annotated[
        list[str] | None,
        _roles_option(
            "Labels: inserts samples, and by SQL into the inbox; changes and removes nothing."
        ),
    ] = None,
    reader: Annotated[
        list[str] | None, _roles_option("Trains: reads, makes runs, pins epochs, records progress.")
    ] = None,
    inbox: Annotated[
        list[str] | None,
        _roles_option(
            "Inserts into the inbox by SQL, and reads the datasets' names; nothing else."
        ),
    ] = None,
    server: Annotated[
        list[str] | None, _roles_option("Runs `registry serve` and `registry drain`.")
    ] = None,
    owner: Annotated[
        str | None,
        typer.Option(metavar="ROLE", help="Owns the tables: migrates, drops datasets, has tokens."),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Run the statements instead of printing them.")
    ] = False,
    url: Url = None,
) -> None:
    """Grant PostgreSQL roles the minimal privileges that they need.

    Prints the statements as SQL for psql. Grant them again after an upgrade of the schema.
    """
    roles: dict[Kind, list[str]] = {
        "owner": [owner] if owner is not None else [],
        "reader": reader or [],
        "writer": writer or [],
        "inbox": inbox or [],
        "server": server or [],
    }
    if not any(roles.values()):
        raise typer.BadParameter(
            "name a role with --writer, --reader, --inbox, --server or --owner"
        )
    # Not connect(): it would also open the replica, which has no part in this.
    engine = make_engine(url or DEFAULT_URL)
    try:
        statements = privileges.statements(engine, roles)
        if apply:
            privileges.apply(engine, statements)
            typer.echo(f"{printable(masked(engine.url))}: {len(statements)} statements done")
        else:
            # Nothing but SQL goes to stdout: it is piped into psql.
            typer.echo("".join(f"{statement};\n" for statement in statements), nl=False)
    finally:
        engine.dispose()
