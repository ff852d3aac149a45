"""Mappings of the parts of an annotation to features, for every labeling tool.

A mapping gives the path of a feature's value, by the feature's name. The first step of a path says
in which part of the annotation the value is; a `PathSyntax` has the steps that a tool allows. The
path of an answer may end in a conversion, such as ``.json`` or ``.spans``.

An annotation that was skipped makes no sample, nor does one without any answer if a feature needs
an answer. One without regions makes a sample with empty lists if the mapping asks only for lists.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from registry.errors import FeatureError, InvalidSampleError
from registry.io.labeling import answers
from registry.io.labeling.annotation import Annotation, PathSyntax
from registry.io.labeling.answers import Conversion
from registry.io.labeling.boxes import BOX_FORMATS
from registry.io.labeling.consensus import Consensus, ConsensusRule
from registry.io.labeling.paths import split_path
from registry.io.media import MediaReader, safe
from registry.io.row import value_at
from registry.io.row_media import is_named
from registry.samples.features import ClassLabel, Feature, Features, Ragged, Text
from registry.samples.json_codec import excerpt, from_fields
from registry.samples.text import text_problem

_NOT_THERE = "is not there; import an export, which has it"


class _UnansweredError(Exception):
    """A feature needs an answer, and the annotation has none to its question."""


@dataclass(frozen=True)
class _ObjectRule:
    """The value at ``path`` in the object ``root``, which messages call ``object_name``.

    ``is_own`` says that the object is the annotation itself.
    """

    root: str
    path: str
    object_name: str
    is_own: bool


@dataclass(frozen=True)
class _AnswerRule:
    """The answers to a question, converted by ``part`` if that is given."""

    question: str
    part: str | None
    conversion: Conversion


@dataclass(frozen=True)
class _DefaultRule:
    """The answer to the question of this name or, without one, the value of this name.

    ``objects`` are those in which it is searched: their names in messages, by the first step.
    """

    name: str
    objects: Mapping[str, str]


_Rule = _ObjectRule | _AnswerRule | _DefaultRule
Rules = Mapping[str, _Rule]
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
            else _DefaultRule(name, syntax.objects)
        )
        for name, feature in features.items()
    }


def values_of(
    features: Features, rules: Rules, annotation: Annotation, media: MediaReader | None
) -> dict[str, Any] | None:
    """Return a value per feature, or None if the annotation makes no sample.

    ``media`` reads the files and URIs that a task names; without it, the texts of images and bytes
    are left as they are. Raises `InvalidSampleError`, with the annotation and the feature, for the
    first value that does not fit.
    """
    if annotation.cancelled:
        return None
    values: dict[str, Any] = {}
    # Collected, not raised at once: a later feature may show that nothing was answered, and then
    # the annotation makes no sample instead of a rejected row.
    errors: list[InvalidSampleError] = []
    for name in features:
        try:
            values |= _converted(features, name, _value(rules[name], annotation), media)
        except _UnansweredError as error:
            if _is_empty(rules, annotation):
                return None
            errors.append(_error(annotation, str(error), name))
        except InvalidSampleError as error:
            errors.append(_error(annotation, error.reason, name))
        except ValueError as error:
            errors.append(_error(annotation, str(error), name))
    if errors:
        raise errors[0]
    return values


def answered_features(rules: Rules, annotation: Annotation) -> set[str]:
    """Return the features whose values the annotator gave; the others come from the task."""
    return {
        name
        for name, rule in rules.items()
        if isinstance(rule, _AnswerRule)
        or (isinstance(rule, _ObjectRule) and rule.is_own)
        or (isinstance(rule, _DefaultRule) and _own_answers(rule, annotation))
    }


def consensus_of(features: Features, rules: Rules, rule: ConsensusRule | None) -> Consensus | None:
    """Return what is voted on by a rule, None without one.

    Raises `FeatureError` if the answers cannot be compared.
    """
    if rule is None:
        return None
    asked = [name for name, each in rules.items() if not isinstance(each, _ObjectRule)]
    voted = tuple(name for name in asked if isinstance(features[name], ClassLabel | Text))
    if rule.method != "latest" and not voted:
        raise FeatureError(
            f"{rule.method} compares the values of ClassLabel and Text features, and no such "
            "feature has the annotators' answers; take the consensus latest"
        )
    return Consensus(rule, voted)


def readable_values(features: Features, rules: Rules, annotation: Annotation) -> dict[str, Any]:
    """Return the values that can be read from an annotation that does not fit, unconverted."""
    values: dict[str, Any] = {}
    for name, feature in features.items():
        # A value that cannot be read is left out; the reason is stored with the others.
        with suppress(_UnansweredError, ValueError):
            value = _value(rules[name], annotation)
            is_uri = is_named(feature) and isinstance(value, str)
            # These values are stored in the inbox: a URI must not carry its password there.
            values[name] = safe(value) if is_uri else value
    return values


def questions_of(rules: Rules) -> dict[str, str]:
    """Return the question whose answers a feature takes, for each feature that is mapped to one."""
    return {name: rule.question for name, rule in rules.items() if isinstance(rule, _AnswerRule)}


def unanswered(rules: Rules, answered: Collection[str], *, mixed: bool) -> str | None:
    """Return what is wrong where no annotation of a whole export answers a mapped question.

    ``answered`` has the questions that any annotation answers and, if ``mixed``, the task's data.
    """
    asked = {name: rule for name, rule in rules.items() if isinstance(rule, _AnswerRule)}
    mapped = {rule.question for rule in asked.values()}
    others = {*answered} - mapped - {r.name for r in rules.values() if isinstance(r, _DefaultRule)}
    for name, rule in asked.items():
        # A list may be empty in every annotation: it is suspect only if something else is answered.
        is_optional = rule.part is not None and (mixed or not others)
        if answered and rule.question not in answered and not is_optional:
            listed = ", ".join(map(excerpt, sorted(answered)))
            return (
                f"no annotation answers {excerpt(rule.question)}, to which feature {name!r} is "
                f"mapped; {'there are' if mixed else 'the controls answered are'} {listed}"
            )
    return None


def _converted(
    features: Features, name: str, value: Any, media: MediaReader | None
) -> dict[str, Any]:
    feature = features[name]
    if is_named(feature) and isinstance(value, str):
        return {name: value if media is None else media.load(value)}
    if isinstance(feature, ClassLabel) and feature.names is None and answers.is_index(value):
        value = int(value)
    return from_fields(features, {name: value})


def _is_empty(rules: Rules, annotation: Annotation) -> bool:
    """Return whether nothing was answered. If mixed, only questions of the mapping show it."""
    if not annotation.mixed:
        return not annotation.answers
    questions = [rule.question for rule in rules.values() if isinstance(rule, _AnswerRule)]
    return not any(question in annotation.answers for question in questions)


def _value(rule: _Rule, annotation: Annotation) -> Any:
    match rule:
        case _ObjectRule():
            return _object_value(rule, annotation)
        case _DefaultRule():
            return _default_value(rule, annotation)
        case _AnswerRule(question, part, conversion):
            given = annotation.answers.get(question, ())
            # Also without answers, of which a conversion makes an empty list.
            if part is not None:
                return answers.CONVERSIONS[part](given, conversion)
            if not given:
                others = ", ".join(map(excerpt, sorted(annotation.answers)))
                answered = f"; it answers {others}" if others and not annotation.mixed else ""
                raise _UnansweredError(f"nothing answers {excerpt(question)}{answered}")
            return answers.one(given)


def _object_value(rule: _ObjectRule, annotation: Annotation) -> Any:
    value: Any = annotation.objects[rule.root]
    if value is None:
        raise ValueError(f"{rule.object_name} {_NOT_THERE}")
    try:
        return value_at(value, rule.path)
    except ValueError:
        raise ValueError(f"{rule.object_name} has no {excerpt(rule.path)}") from None


def _default_value(rule: _DefaultRule, annotation: Annotation) -> Any:
    if given := _own_answers(rule, annotation):
        return answers.one(given)
    missing = ""
    for root, object_name in rule.objects.items():
        fields = annotation.objects[root]
        if fields is None:
            missing = f", and {object_name} {_NOT_THERE}"
        elif rule.name in fields:
            return fields[rule.name]
    raise _UnansweredError(f"nothing answers {excerpt(rule.name)}{missing}")


def _own_answers(rule: _DefaultRule, annotation: Annotation) -> Sequence[Any]:
    """Return the answers to the question of the rule's name, without data of the task."""
    given = annotation.answers.get(rule.name, ())
    return given if not annotation.mixed or _is_answer(given) else ()


def _is_answer(given: Sequence[Any]) -> bool:
    """Return whether a value of a mixed annotation is an answer and not task data."""
    return len(given) == 1 and isinstance(given[0], str | Mapping)


def _error(annotation: Annotation, reason: str, feature: str) -> InvalidSampleError:
    return InvalidSampleError(f"{annotation.label}: {reason}", feature=feature)


def _parse_path(name: str, feature: Feature, path: Any, syntax: PathSyntax, *, hull: bool) -> _Rule:
    if problem := text_problem(path):
        reason = f"a path {problem}: {path!r:.200} is no path"
        raise FeatureError(f"feature {name!r}: {reason}; write {syntax.forms}")
    # The whole path is compared: ``task.id`` is allowed, and ``task.id.x`` is not.
    root, _, rest = path.partition(".")
    if path in syntax.values or (root in syntax.objects and rest):
        object_name = syntax.objects.get(root, f"the {root}")
        return _ObjectRule(root, rest, object_name, is_own=root in syntax.own)
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
    return _AnswerRule(question, part, Conversion(classes, feature, hull))


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
