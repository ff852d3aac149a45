"""``registry webhook``: set or show the mapping of a labeling tool's webhook."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Literal

import typer

from registry.catalog.registry import connect
from registry.cli.base import AsJson, Url, app, parse_pairs
from registry.cli.tables import print_properties
from registry.cli.webhook_setup import ANY_SERVER, setup_lines, unseen_controls
from registry.io.labeling import argilla, mapping_store
from registry.io.labeling.consensus import METHODS, ConsensusRule, Method
from registry.io.labeling.label_studio import webhook as label_studio
from registry.io.labeling.rules import consensus_of, questions_of
from registry.io.labeling.stored_states import has_annotations

_OPTIONS = {"method": "consensus", "min_annotators": "min-annotators"}
"""The options of the command that stored ones have other names than."""


@app.command()
def webhook(  # noqa: PLR0913, PLR0917  # arguments and options of the command
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
    per: Annotated[
        Literal["annotation", "task"] | None,
        typer.Option(
            metavar="annotation|task",
            help="Whether each annotation is a sample, as by default, or each task is one, by the "
            "consensus of its annotators.",
        ),
    ] = None,
    consensus: Annotated[
        Method | None,
        typer.Option(
            metavar="|".join(METHODS),
            help="With --per task: what more than half of the annotators say, the newest "
            "annotation, or what all of them say.",
        ),
    ] = None,
    min_annotators: Annotated[
        int | None,
        typer.Option(min=1, help="With --per task: fewer annotators make no sample."),
    ] = None,
    rotated: Annotated[
        Literal["refuse", "hull"] | None,
        typer.Option(
            metavar="refuse|hull",
            help="A rotated box is rejected, as by default, or is taken as its hull.",
        ),
    ] = None,
    server: Annotated[
        str, typer.Option(metavar="URL", help="The address of registry serve, to be printed.")
    ] = ANY_SERVER,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Set, or show, how a tool's annotations become samples; exports follow it, too.

    It prints what to enter in the tool. `--map` replaces the whole mapping; other options that
    are not given stay as they are.
    """
    check_mapping = (argilla if tool == "argilla" else label_studio).check_mapping
    with connect(url) as registry:
        opened = registry.open(dataset)
        before = mapping_store.settings_of(registry.engine, opened.id, tool)
        known = has_annotations(registry.engine, opened.id, tool)
        settings = replace(
            before,
            mapping=parse_pairs("--map", mapping) if mapping else before.mapping,
            hull=before.hull if rotated is None else rotated == "hull",
            consensus=_rule(before.consensus, per, consensus, min_annotators),
        )
        if known and (settings.consensus is None) != (before.consensus is None):
            raise typer.BadParameter(
                "annotations have arrived already, and their samples have other keys; create "
                "another dataset for this",
                param_hint="--per",
            )
        # Before it is stored: a wrong path would reject each event that arrives later.
        rules = check_mapping(opened.features, settings.mapping)
        consensus_of(opened.features, rules, settings.consensus)
        if settings != before:
            mapping_store.set_settings(registry.engine, opened.id, tool, settings)
        if (questions := questions_of(rules)) and (mapping or not known):
            # A typo would otherwise be noticed when every annotation is rejected.
            typer.echo(f"warning: {unseen_controls(questions)}", err=True)
    options = {_OPTIONS.get(name, name): value for name, value in settings.options().items()}
    if as_json:
        typer.echo(json.dumps({"map": settings.mapping, **options}, indent=2))
        return
    print_properties(
        [
            *(settings.mapping.items() or [("map", "features take values of their own names")]),
            *((name, str(value)) for name, value in options.items()),
        ]
    )
    typer.echo()
    print_properties(setup_lines(opened, tool, server))


def _rule(
    before: ConsensusRule | None, per: str | None, method: Method | None, least: int | None
) -> ConsensusRule | None:
    """Return the consensus that options set, given that which was stored."""
    if per == "annotation" or (per is None and before is None):
        if method is not None or least is not None:
            raise typer.BadParameter(
                "goes with --per task", param_hint="--consensus, --min-annotators"
            )
        return None
    rule = before or ConsensusRule()
    return ConsensusRule(method or rule.method, least or rule.min_annotators)
