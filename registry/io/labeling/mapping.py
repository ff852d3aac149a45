"""Selection of the values of features from an annotation, by the rules of a mapping.

An annotation that was skipped makes no sample, nor does one without any answer if a feature needs
an answer. One without regions makes a sample with empty lists if the mapping asks only for lists.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from registry.errors import InvalidSampleError
from registry.io.labeling import answers
from registry.io.labeling.annotation import Annotation
from registry.io.labeling.rules import AnswerRule, DefaultRule, ObjectRule, Rule, Rules
from registry.io.media import MediaReader, safe
from registry.io.row import optional, value_at
from registry.io.row_media import is_named
from registry.samples.features import ClassLabel, Features
from registry.samples.json_codec import excerpt, from_fields

_NOT_THERE = "is not there; import an export, which has it"


class _UnansweredError(Exception):
    """A feature needs an answer, and the annotation has none to its question.

    With ``elsewhere``, the value may be in an object that the annotation lacks.
    """

    def __init__(self, reason: str, *, elsewhere: bool = False) -> None:
        super().__init__(reason)
        self.elsewhere = elsewhere


class _MissingError(ValueError):
    """An object, which is there, has no such value."""


def values_of(
    features: Features, rules: Rules, annotation: Annotation, media: MediaReader | None
) -> dict[str, Any] | None:
    """Return a value per feature, or None if the annotation makes no sample.

    `optional` features that have no value are left out, also where a mapping names them: a question
    may be newer than the annotation. ``media`` reads the files and URIs that a task names; without
    it, the texts of images and bytes are left as they are. Raises `InvalidSampleError`, with the
    annotation and the feature, for the first value that does not fit.
    """
    if annotation.cancelled:
        return None
    values: dict[str, Any] = {}
    may_lack = optional(features, {})
    # Collected, not raised at once: a later feature may show that nothing was answered, and then
    # the annotation makes no sample instead of a rejected row.
    errors: list[InvalidSampleError] = []
    for name in features:
        try:
            values |= _converted(features, name, _value(rules[name], annotation), media)
        except _UnansweredError as error:
            if _is_empty(rules, annotation):
                return None
            if name not in may_lack or error.elsewhere:
                errors.append(_error(annotation, str(error), name))
        except InvalidSampleError as error:
            errors.append(_error(annotation, error.reason, name))
        except ValueError as error:
            if name not in may_lack or not isinstance(error, _MissingError):
                errors.append(_error(annotation, str(error), name))
    if errors:
        raise errors[0]
    return values


def answered_features(rules: Rules, annotation: Annotation) -> set[str]:
    """Return the features whose values the annotator gave; the others come from the task."""
    return {
        name
        for name, rule in rules.items()
        if isinstance(rule, AnswerRule)
        or (isinstance(rule, ObjectRule) and rule.is_own)
        or (isinstance(rule, DefaultRule) and _own_answers(rule, annotation))
    }


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


def unanswered(
    features: Features, rules: Rules, answered: Collection[str], *, mixed: bool
) -> str | None:
    """Return what is wrong where no annotation of a whole export answers a mapped question.

    ``answered`` has the questions that any annotation answers and, if ``mixed``, the task's data.
    """
    asked = {name: rule for name, rule in rules.items() if isinstance(rule, AnswerRule)}
    mapped = {rule.question for rule in asked.values()}
    others = {*answered} - mapped - {r.name for r in rules.values() if isinstance(r, DefaultRule)}
    for name, rule in asked.items():
        # A list may be empty in every annotation, and a question may be new: this is suspect only
        # if something else is answered.
        may_lack = rule.part is not None or name in optional(features, {})
        is_optional = may_lack and (mixed or not others)
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
    questions = [rule.question for rule in rules.values() if isinstance(rule, AnswerRule)]
    return not any(question in annotation.answers for question in questions)


def _value(rule: Rule, annotation: Annotation) -> Any:
    match rule:
        case ObjectRule():
            return _object_value(rule, annotation)
        case DefaultRule():
            return _default_value(rule, annotation)
        case AnswerRule(question, part, conversion):
            given = annotation.answers.get(question, ())
            # Also without answers, of which a conversion makes an empty list.
            if part is not None:
                return answers.CONVERSIONS[part](given, conversion)
            if not given:
                others = ", ".join(map(excerpt, sorted(annotation.answers)))
                answered = f"; it answers {others}" if others and not annotation.mixed else ""
                raise _UnansweredError(f"nothing answers {excerpt(question)}{answered}")
            return answers.one(given)


def _object_value(rule: ObjectRule, annotation: Annotation) -> Any:
    value: Any = annotation.objects[rule.root]
    if value is None:
        raise ValueError(f"{rule.object_name} {_NOT_THERE}")
    try:
        return value_at(value, rule.path)
    except ValueError:
        reason = f"{rule.object_name} has no {excerpt(rule.path)}"
        raise _MissingError(reason) from None


def _default_value(rule: DefaultRule, annotation: Annotation) -> Any:
    if given := _own_answers(rule, annotation):
        return answers.one(given)
    missing = ""
    for root, object_name in rule.objects.items():
        fields = annotation.objects[root]
        if fields is None:
            missing = f", and {object_name} {_NOT_THERE}"
        elif rule.name in fields:
            return fields[rule.name]
    reason = f"nothing answers {excerpt(rule.name)}{missing}"
    raise _UnansweredError(reason, elsewhere=bool(missing))


def _own_answers(rule: DefaultRule, annotation: Annotation) -> Sequence[Any]:
    """Return the answers to the question of the rule's name, without data of the task."""
    given = annotation.answers.get(rule.name, ())
    return given if not annotation.mixed or _is_answer(given) else ()


def _is_answer(given: Sequence[Any]) -> bool:
    """Return whether a value of a mixed annotation is an answer and not task data."""
    return len(given) == 1 and isinstance(given[0], str | Mapping)


def _error(annotation: Annotation, reason: str, feature: str) -> InvalidSampleError:
    return InvalidSampleError(f"{annotation.label}: {reason}", feature=feature)
