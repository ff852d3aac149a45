"""``registry alter``: add classes and features to a dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from registry.catalog.registry import connect
from registry.cli.base import AsJson, DatasetName, Url, app, parse_pairs
from registry.cli.tables import print_properties
from registry.errors import FeatureError, InvalidSampleError
from registry.io.files.csv import converter
from registry.samples.feature_text import parse_feature
from registry.samples.features import ClassLabel, Feature, Features, Tensor
from registry.samples.json_codec import from_fields
from registry.samples.schema import Schema
from registry.samples.schema_text import changes_text, features_text

_CLASS, _FEATURE, _DEFAULT = "--add-class", "--add-feature", "--default"


@app.command()
def alter(
    dataset: DatasetName,
    add_class: Annotated[
        list[str] | None,
        typer.Option(
            _CLASS,
            metavar="FEATURE=NAMES",
            help="Classes for a class label: label=lynx, or label=lynx,puma. Of classes without "
            "names, how many: label=2. Repeat for each.",
        ),
    ] = None,
    add_feature: Annotated[
        list[str] | None,
        typer.Option(
            _FEATURE, metavar="NAME=KIND", help="A feature, as for create: pose=float32[3]."
        ),
    ] = None,
    default: Annotated[
        list[str] | None,
        typer.Option(
            _DEFAULT,
            metavar="NAME=VALUE",
            help="The value of an added feature in older samples, and where it is left out: "
            "pose=0, note=none, label=cat, pose=[0,0,1], or base64 for bytes and images.",
        ),
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Add classes and features to a dataset; writers and trainers need no restart.

    All of them are checked before the first one is added. Nothing is ever removed or changed;
    `registry copy --into` fills another dataset without some features.
    """
    features, defaults = _features(add_feature or [], default or [])
    classes = parse_lists(_CLASS, add_class or [])
    if not features and not classes:
        raise typer.BadParameter("give at least one", param_hint=f"{_CLASS}, {_FEATURE}")
    before: Schema | None = None

    def change(schema: Schema) -> Schema:
        nonlocal before
        before = schema
        for name, texts in classes.items():
            schema = schema.with_classes(name, _classes(schema.features, name, texts))
        for name, feature in features.items():
            schema = schema.with_feature(name, feature, defaults[name])
        return schema

    with connect(url) as registry:
        opened = registry.open(dataset)
        after = opened.alter(change)
    assert before is not None
    changes = changes_text(before, after)
    if as_json:
        typer.echo(json.dumps(schema_json(after, changes), indent=2))
        return
    print_properties(
        [
            ("schema", f"{after.number}, since position {after.since:,}"),
            ("added", changes),
            *(("features", text) for text in features_text(after)),
        ]
    )


def schema_json(schema: Schema, changes: str | None) -> dict[str, Any]:
    """Return a schema as JSON, with what it adds to the one before, if there is one."""
    added = {} if changes is None else {"added": changes}
    form = {"schema": schema.number, "since": schema.since}
    return {**form, **added, "features": schema.to_json()}


def parse_lists(option: str, texts: Sequence[str]) -> dict[str, list[str]]:
    """Parse ``name=a,b`` texts to lists, to which a text of the same name adds."""
    lists: dict[str, list[str]] = {}
    for text in texts:
        ((name, names),) = parse_pairs(option, [text]).items()
        # As JSON for names with commas.
        lists.setdefault(name, []).extend(_json_list(option, names) or names.split(","))
    return lists


def _json_list(option: str, text: str) -> list[str] | None:
    if not text.startswith("["):
        return None
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r:.200} is not JSON: {error}", param_hint=option) from None
    if not parsed or not all(isinstance(each, str) for each in parsed):
        raise typer.BadParameter(f"{text!r:.200} is no list of names", param_hint=option)
    return [*parsed]


def _classes(features: Features, name: str, texts: list[str]) -> list[str] | int:
    """Return the names of classes to add, or how many where the classes have no names."""
    feature = features.get(name)
    if not isinstance(feature, ClassLabel):
        return texts
    if feature.names is not None:
        if len(texts) == 1 and texts[0].isdecimal() and not any(map(str.isdecimal, feature.names)):
            # A class is never removed, so that a mistake would stay.
            raise FeatureError(
                f"the classes of {name!r} have names, such as {feature.names[-1]!r}, and "
                f"{texts[0]!r} is a number; name the classes to add"
            )
        return texts
    counts = [int(text) for text in texts if text.isascii() and text.isdecimal() and len(text) < 11]
    if len(counts) < len(texts):
        raise FeatureError(
            f"the classes of {name!r} have no names; give how many to add, not {texts!r:.200}"
        )
    return sum(counts)


def _features(
    added: list[str], defaults: list[str]
) -> tuple[Mapping[str, Feature], Mapping[str, Any]]:
    """Parse added features and their defaults, by name."""
    features = {name: parse_feature(text) for name, text in parse_pairs(_FEATURE, added).items()}
    given = parse_pairs(_DEFAULT, defaults)
    for name in features:
        if name not in given:
            raise typer.BadParameter(
                f"{name!r} needs a value for the samples that are there: {_DEFAULT} {name}=VALUE",
                param_hint=_FEATURE,
            )
    for name in given:
        if name not in features:
            raise typer.BadParameter(
                f"{name!r} is not added; a default goes with {_FEATURE} {name}=KIND",
                param_hint=_DEFAULT,
            )
    return features, {name: _default(name, features[name], given[name]) for name in features}


def _default(name: str, feature: Feature, text: str) -> Any:
    """Return a value of a feature, or text that `Schema.with_feature` checks."""
    one_for_all = isinstance(feature, Tensor) and not text.lstrip().startswith("[")
    kind = Tensor(feature.dtype) if isinstance(feature, Tensor) and one_for_all else feature
    try:
        return from_fields({name: feature}, {name: converter(kind)(text)})[name]
    except (InvalidSampleError, ValueError) as error:
        reason = error.reason if isinstance(error, InvalidSampleError) else str(error)
        raise FeatureError(
            f"the default {text!r:.200} does not fit the new feature {name!r}: {reason}"
        ) from None
