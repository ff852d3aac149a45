"""Commands that set up a database and datasets."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.catalog.registry import DEFAULT_URL, connect
from registry.cli.base import Url, app, pairs
from registry.cli.tables import plain
from registry.samples.feature_text import parse_feature
from registry.storage.database import schema
from registry.storage.database.engine import make_engine
from registry.storage.database.url import shown


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
    engine = make_engine(url or DEFAULT_URL)
    schema.upgrade(engine)
    revision = schema.revision(engine)
    engine.dispose()
    typer.echo(f"{plain(shown(engine.url))} is at schema {revision}")


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new dataset's name.")],
    feature: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=KIND",
            help="A feature: image=uint8[8,8], label=class:10, label=class:cat,dog, "
            "photo=image:png, note=text, blob=bytes, tokens=ragged:int32. Repeat for each.",
        ),
    ],
    split: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SHARE",
            help="A split and its share of the samples: train=0.9. Repeat; they add up to 1.",
        ),
    ] = None,
    description: Annotated[str, typer.Option(metavar="TEXT", help="What the dataset holds.")] = "",
    url: Url = None,
) -> None:
    """Create an empty dataset."""
    kinds = {each: parse_feature(text) for each, text in pairs("--feature", feature).items()}
    shares = {each: _share(text) for each, text in pairs("--split", split or []).items()}
    with connect(url) as registry:
        dataset = registry.create(name, kinds, splits=shares, description=description)
        typer.echo(f"created {dataset.version}")


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number", param_hint="--split") from None
