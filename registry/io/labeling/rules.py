"""Parsing of mappings into rules: one for each feature, which says where its value is.

A mapping gives the path of a feature's value, by the feature's name. The first step of a path says
in which part of the annotation the value is; a `PathSyntax` has the steps that a tool allows. The
path of an answer may end in a conversion, such as ``.json`` or ``.spans``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from registry.errors import FeatureError
from registry.io.labeling.annotation import PathSyntax
from registry.io.labeling.answers import Conversion
from registry.io.labeling.consensus import Consensus, ConsensusRule
from registry.io.labeling.paths import split_path
from registry.samples.box_formats import BOX_FORMATS
from registry.samples.features import ClassLabel, Feature, Features, Ragged, Text
from registry.samples.text import text_problem


@dataclass(frozen=True)
class ObjectRule:
    """The value at ``path`` in the object ``root``, which messages call ``object_name``.

    ``is_own`` says that the object is the annotation itself.
    """

    root: str
    path: str
    object_name: str
    is_own: bool


@dataclass(frozen=True)
class AnswerRule:
    """The answers to a question, converted by ``part`` if that is given."""

    question: str
    part: str | None
    conversion: Conversion


@dataclass(frozen=True)
class DefaultRule:
    """The answer to the question of this name or, without one, the value of this name.

    ``objects`` are those in which it is searched: their names in messages, by the first step.
    """

    name: str
    objects: Mapping[str, str]


Rule = ObjectRule | AnswerRule | DefaultRule
Rules = Mapping[str, Rule]
"""The parsed path of each feature, by the feature's name."""


def parse_mapping(
    features: Features, mapping: Mapping[str, str] | None, syntax: PathSyntax, *, hull: bool = False
) -> Rules:
    """Return the parsed mapping; raises `FeatureError` for one that does not fit the features.

    ``hull`` replaces rotated boxes by their hulls; they are refused otherwise.
    """
    paths = mapping or {}
    for name in paths:
        if name not in features:
            known = ", ".join(map(repr, features))
            raise FeatureError(f"the mapping names {name!r:.200}; the features are {known}")
    return {
        name: (
            _parse_path(name, feature, paths[name], syntax, hull=hull)
            if name in paths
            else DefaultRule(name, syntax.objects)
        )
        for name, feature in features.items()
    }


def questions_of(rules: Rules) -> dict[str, str]:
    """Return the question whose answers a feature takes, for each feature that is mapped to one."""
    return {name: rule.question for name, rule in rules.items() if isinstance(rule, AnswerRule)}


def consensus_of(features: Features, rules: Rules, rule: ConsensusRule | None) -> Consensus | None:
    """Return what is voted on by a rule, None without one.

    Raises `FeatureError` if the answers cannot be compared.
    """
    if rule is None:
        return None
    asked = [name for name, each in rules.items() if not isinstance(each, ObjectRule)]
    voted = tuple(name for name in asked if isinstance(features[name], ClassLabel | Text))
    if rule.method != "latest" and not voted:
        raise FeatureError(
            f"{rule.method} compares the values of ClassLabel and Text features, and no such "
            "feature has the annotators' answers; take the consensus latest"
        )
    return Consensus(rule, voted)


def _parse_path(name: str, feature: Feature, path: Any, syntax: PathSyntax, *, hull: bool) -> Rule:
    if problem := text_problem(path):
        reason = f"a path {problem}: {path!r:.200} is no path"
        raise FeatureError(f"feature {name!r}: {reason}; write {syntax.forms}")
    # The whole path is compared: ``task.id`` is allowed, and ``task.id.x`` is not.
    root, _, rest = path.partition(".")
    if path in syntax.values or (root in syntax.objects and rest):
        object_name = syntax.objects.get(root, f"the {root}")
        return ObjectRule(root, rest, object_name, is_own=root in syntax.own)
    if root != syntax.answers or not rest:
        raise FeatureError(f"feature {name!r}: {path!r:.200} is no path; write {syntax.forms}")
    try:
        question, part, classes = split_path(rest)
    except ValueError as error:
        raise FeatureError(f"feature {name!r}: {error}") from None
    feature_type, dtypes, result = _RESULTS[part]
    # Checked when the mapping is set: otherwise every annotation would be rejected later.
    if not isinstance(feature, feature_type) or not getattr(feature, "dtype", "").startswith(
        dtypes
    ):
        raise FeatureError(f"feature {name!r} is {feature}, and {path!r} makes {result}")
    # Boxes are flat, or rows of four.
    if result is _FLOATS[2] and getattr(feature, "shape", ()) not in ((), (4,)):
        raise FeatureError(f"feature {name!r} is {feature}, and {path!r} makes rows of 4")
    return AnswerRule(question, part, Conversion(classes, feature, hull))


_FLOATS = (Ragged, ("float",), "a Ragged of floats")
_WHOLE = (Ragged, ("int", "uint"), "a Ragged of whole numbers")
_RESULTS: dict[str | None, tuple[type[Any], tuple[str, ...], str]] = {
    None: (object, ("",), ""),
    "json": (Text, ("",), "Text"),
    "percent": _FLOATS,
    "pixels": _FLOATS,
    **dict.fromkeys(BOX_FORMATS, _FLOATS),
    "spans": _WHOLE,
    "classes": _WHOLE,
}
"""By part: the class of its feature, the prefixes of the dtype, and both as text."""
