"""Mappings of the parts of a Label Studio annotation to features.

A mapping gives the path of a feature's value, by the feature's name:

=================================  ===========================================================
``data.text``, ``data.meta.page``  a value of the task's data
``task.id``                        the task's id
``annotation.lead_time``           also ``annotation.id`` and ``annotation.completed_by``
``result.mood``                    the one answer to the control whose ``from_name`` is ``mood``:
                                   a choice, rating, number, text, date or label
``result.mood.json``               all answers to it, as JSON text
``result.mood.classes[good,bad]``  each choice or label, as its index in this list
``result.box.percent``             x, y, width, height of each rectangle, flattened, in percent of
                                   the picture's size, as Label Studio stores them
``result.box.pixels``              the same, in pixels of the original picture
``result.name.spans``              start and end of each span of text
=================================  ===========================================================

The last four make a `Ragged` feature. Where classes have no names, a choice such as "3" is an
index. A feature that the mapping leaves out takes the answer to the control of the same name or,
if there is none, the task's data of the same name.

An annotation that was skipped makes no sample, nor does one without any answer if a feature needs
an answer. One without regions makes a sample with empty lists if the mapping asks only for lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import FeatureError, InvalidSampleError
from registry.io.labeling import answers
from registry.io.labeling.annotation import Annotation
from registry.io.labeling.media import load, safe
from registry.io.labeling.paths import parts
from registry.samples.features import Bytes, ClassLabel, Feature, Features, Image, Ragged, Text
from registry.samples.json_codec import from_fields, shown
from registry.samples.text import text_problem

_FACTS: dict[tuple[str, str], Callable[[Annotation], Any]] = {
    ("task", "id"): lambda annotation: annotation.task,
    ("annotation", "id"): lambda annotation: annotation.id,
    ("annotation", "completed_by"): lambda annotation: annotation.completed_by,
    ("annotation", "lead_time"): lambda annotation: annotation.lead_time,
}
_NO_DATA = "the task's data is not there; import an export, which has it"
_FORMS = "data.NAME, result.NAME, result.NAME.json (.percent, .pixels, .spans, .classes[a,b])"


class _UnansweredError(Exception):
    """A feature needs an answer, and the annotation has none to its control."""


@dataclass(frozen=True)
class _Rule:
    """A parsed path. ``root`` is "" for the default of a feature that is not mapped."""

    root: str
    name: str
    part: str | None = None
    classes: tuple[str, ...] = ()


Rules = Mapping[str, _Rule]


def check_mapping(features: Features, mapping: Mapping[str, str] | None) -> Rules:
    """Return the parsed mapping; raises `FeatureError` for one that does not fit the features."""
    for name in mapping or {}:
        if name not in features:
            known = ", ".join(map(repr, features))
            raise FeatureError(f"the mapping names {name!r:.200}; the features are {known}")
    given = mapping or {}
    return {
        name: _rule(name, feature, given[name]) if name in given else _Rule("", name)
        for name, feature in features.items()
    }


def values(
    features: Features, rules: Rules, annotation: Annotation, roots: Sequence[Path] = ()
) -> dict[str, Any] | None:
    """Return a value per feature, or None if the annotation makes no sample.

    Files that a task names are read only from below ``roots``. Raises `InvalidSampleError`, with
    the task, the annotation and the feature, for the first value that does not fit.
    """
    if annotation.cancelled:
        return None
    found: dict[str, Any] = {}
    # Collected, not raised at once: a later feature may show that nothing was answered, and then
    # the annotation makes no sample instead of a rejected row.
    faults: list[InvalidSampleError] = []
    for name in features:
        try:
            found |= _fitting(features, name, _value(rules[name], annotation), roots)
        except _UnansweredError as error:
            if _is_empty(rules, annotation):
                return None
            faults.append(_misfit(annotation, str(error), name))
        except InvalidSampleError as error:
            faults.append(_misfit(annotation, error.reason, name))
        except ValueError as error:
            faults.append(_misfit(annotation, str(error), name))
    if faults:
        raise faults[0]
    return found


def readable(features: Features, rules: Rules, annotation: Annotation) -> dict[str, Any]:
    """Return the values that can be read from an annotation that does not fit, unconverted."""
    found: dict[str, Any] = {}
    for name, feature in features.items():
        with suppress(_UnansweredError, ValueError):
            value = _value(rules[name], annotation)
            binary = isinstance(feature, Image | Bytes) and isinstance(value, str)
            # These values are stored in the inbox: a URI must not carry its password there.
            found[name] = safe(value) if binary else value
    return found


def _fitting(features: Features, name: str, value: Any, roots: Sequence[Path]) -> dict[str, Any]:
    feature = features[name]
    if isinstance(feature, Image | Bytes) and isinstance(value, str):
        value = load(value, roots)
    if isinstance(feature, ClassLabel) and feature.names is None and answers.is_index(value):
        value = int(value)
    return from_fields(features, {name: value})


def _is_empty(rules: Rules, annotation: Annotation) -> bool:
    """Return whether nothing was answered. JSON_MIN shows it only for controls of the mapping."""
    if not annotation.minimal:
        return not annotation.answers
    named = [rule.name for rule in rules.values() if rule.root == "result"]
    return not any(name in annotation.answers for name in named)


def _value(rule: _Rule, annotation: Annotation) -> Any:
    if rule.root in ("task", "annotation"):
        return _FACTS[rule.root, rule.name](annotation)
    if rule.root == "data":
        return _data(annotation, rule.name.split("."))
    given = annotation.answers.get(rule.name, ())
    if rule.part is not None:
        return answers.READ[rule.part](given, rule.classes)
    if annotation.minimal and not rule.root and rule.name in annotation.answers:
        return answers.one(given) if _is_answer(given) else _data(annotation, [rule.name])
    if given:
        return answers.one(given)
    if rule.root or rule.name not in (annotation.data or {}):
        unknown = "" if rule.root or annotation.data is not None else f", and {_NO_DATA}"
        raise _UnansweredError(f"nothing answers {shown(rule.name)}{unknown}")
    return _data(annotation, [rule.name])


def _is_answer(given: Sequence[Any]) -> bool:
    """Return whether a value of JSON_MIN, which mixes the two, is an answer and not task data."""
    return len(given) == 1 and isinstance(given[0], str | Mapping)


def _data(annotation: Annotation, path: Sequence[str]) -> Any:
    if annotation.data is None:
        raise ValueError(_NO_DATA)
    found: Any = annotation.data
    for step in path:
        if not isinstance(found, Mapping) or step not in found:
            raise ValueError(f"the task's data has no {shown('.'.join(path))}")
        found = found[step]
    return found


def _misfit(annotation: Annotation, reason: str, feature: str) -> InvalidSampleError:
    return InvalidSampleError(f"{annotation.place}: {reason}", feature=feature)


def _rule(name: str, feature: Feature, path: Any) -> _Rule:
    if problem := text_problem(path):
        raise FeatureError(f"feature {name!r}: a path {problem}")
    root, _, rest = path.partition(".")
    if root == "data" and rest:
        return _Rule(root, rest)
    if (root, rest) in _FACTS:
        return _Rule(root, rest)
    if root != "result" or not rest:
        raise FeatureError(f"feature {name!r}: {path!r:.200} is no path; write {_FORMS}")
    try:
        control, part, classes = parts(rest)
    except ValueError as error:
        raise FeatureError(f"feature {name!r}: {error}") from None
    kind, dtypes, said = _KINDS[part]
    if not isinstance(feature, kind) or not getattr(feature, "dtype", "").startswith(dtypes):
        raise FeatureError(f"feature {name!r} is {feature}, and {path!r} makes {said}")
    return _Rule(root, control, part, classes)


_FLOATS = (Ragged, ("float",), "a Ragged of floats")
_WHOLE = (Ragged, ("int", "uint"), "a Ragged of whole numbers")
_KINDS: dict[str | None, tuple[type[Any], tuple[str, ...], str]] = {
    None: (object, ("",), ""),
    "json": (Text, ("",), "Text"),
    "percent": _FLOATS,
    "pixels": _FLOATS,
    "spans": _WHOLE,
    "classes": _WHOLE,
}
"""By part: the class of its feature, the prefixes of the dtype, and both as text."""
