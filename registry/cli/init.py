"""``registry init``: create or upgrade the tables of a database."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.catalog.registry import DEFAULT_URL
from registry.cli.base import Url, app
from registry.cli.output import printable
from registry.storage.database import schema
from registry.storage.database.engine import make_engine
from registry.storage.database.url import masked


@app.command()
def init(
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL for an empty database instead.")
    ] = False,
    url: Url = None,
) -> None:
    """Create the tables of the database, or upgrade them to the present schema."""
    if sql:
        schema.upgrade_sql(url or DEFAULT_URL)
        return
    # Not connect(): it would reject a database that has no tables yet, or those of an old schema.
    engine = make_engine(url or DEFAULT_URL)
    schema.upgrade(engine)
    revision = schema.revision(engine)
    engine.dispose()
    typer.echo(f"{printable(masked(engine.url))} is at schema {revision}")
