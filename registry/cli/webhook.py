"""``registry webhook``: set or show the mapping of a labeling tool's webhook."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from registry.catalog.registry import connect
from registry.cli.base import AsJson, Url, app, parse_pairs
from registry.cli.tables import print_properties
from registry.cli.webhook_setup import ANY_SERVER, setup_lines, unseen_controls
from registry.io.labeling import argilla, mapping_store
from registry.io.labeling.label_studio import webhook as label_studio
from registry.io.labeling.mapping import questions_of
from registry.io.labeling.state_table import has_annotations


@app.command()
def webhook(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="The dataset's name.")],
    tool: Annotated[Literal["label-studio", "argilla"], typer.Argument(help="The labeling tool.")],
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FEATURE=PATH",
            help="Where a feature's value is: text=data.text, label=result.mood, or of Argilla "
            "text=fields.text, label=values.mood. Repeat for each.",
        ),
    ] = None,
    server: Annotated[
        str, typer.Option(metavar="URL", help="The address of registry serve, to be printed.")
    ] = ANY_SERVER,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Set, or show, which part of a tool's annotations becomes which feature.

    It prints what to enter in the tool, too.
    """
    check_mapping = (argilla if tool == "argilla" else label_studio).check_mapping
    with connect(url) as registry:
        opened = registry.open(dataset)
        if mapping:
            paths = parse_pairs("--map", mapping)
            # Before it is stored: a wrong path would reject each event that arrives later.
            check_mapping(opened.features, paths)
            mapping_store.set_mapping(registry.engine, opened.id, tool, paths)
        # Read again in both cases, so that what is printed is what is stored.
        stored = mapping_store.mapping_of(registry.engine, opened.id, tool) or {}
        questions = questions_of(check_mapping(opened.features, stored))
        if questions and not has_annotations(registry.engine, opened.id, tool):
            # A typo would otherwise be noticed when every annotation is rejected.
            typer.echo(f"warning: {unseen_controls(questions)}", err=True)
    if as_json:
        typer.echo(json.dumps(stored, indent=2))
        return
    print_properties(
        [*stored.items()] or [("nothing set", "features take values of their own names")]
    )
    typer.echo()
    print_properties(setup_lines(opened, tool, server))
