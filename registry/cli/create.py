"""``registry create``: create a dataset."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.catalog.registry import connect
from registry.cli.base import Url, app, parse_pairs
from registry.samples.feature_text import parse_feature


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new dataset's name.")],
    feature: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=KIND",
            help="A feature: image=uint8[8,8], label=class:10, label=class:cat,dog, "
            "photo=image, scan=image:png, note=text, blob=bytes, tokens=ragged:int32, "
            "boxes=ragged:float32[4]. Repeat for each.",
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
    # Before the connection: connect() creates a SQLite file, which a wrong option must not leave.
    features = {
        feature_name: parse_feature(text)
        for feature_name, text in parse_pairs("--feature", feature).items()
    }
    shares = {
        split_name: _parse_share(text)
        for split_name, text in parse_pairs("--split", split or []).items()
    }
    with connect(url) as registry:
        dataset = registry.create(name, features, splits=shares, description=description)
        typer.echo(f"created {dataset.version}")


def _parse_share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number", param_hint="--split") from None
