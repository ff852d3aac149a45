"""Parsing and checking the conditions that a user writes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from registry.errors import FeatureError, InvalidSampleError
from registry.samples.feature_text import feature_text
from registry.samples.features import ClassLabel, Feature, Features, Tensor, Text
from registry.samples.keys import check_source
from registry.samples.text import text_problem
from registry.training.conditions import (
    SOURCE,
    AnyOf,
    Between,
    Condition,
    Conditions,
    Value,
    Where,
    number,
)


def parse_conditions(where: Where, features: Features, *, of_rows: bool = False) -> Conditions:
    """Return the conditions of a user.

    `SOURCE` is the source of the rows unless a feature has that name, and with ``of_rows`` also if
    one has. Raises `FeatureError` that names the condition which cannot hold.
    """
    if not isinstance(where, Mapping):
        raise FeatureError(
            f"where is a mapping of features to values, not {type(where).__name__}: "
            'where={"label": ["cat"]}'
        )
    source = None
    parsed: list[tuple[str, Condition]] = []
    for name, given in where.items():
        if name == SOURCE and (of_rows or SOURCE not in features):
            source = AnyOf(_sources(given))
        else:
            parsed.append((name, _condition(name, _feature(name, features), given)))
    return Conditions(tuple(sorted(parsed, key=lambda pair: pair[0])), source)


def _feature(name: object, features: Features) -> Feature:
    if name not in features:
        known = ", ".join(map(repr, features))
        raise FeatureError(
            f"where names {name!r:.200}, which is no feature; the features are {known}, and "
            f"{SOURCE!r} is what inserted a sample"
        )
    return features[str(name)]


def _condition(name: str, feature: Feature, given: Any) -> Condition:
    if not isinstance(feature, ClassLabel | Text) and not (
        isinstance(feature, Tensor) and feature.shape == ()
    ):
        raise FeatureError(
            f"where {name!r}: no condition can be on {feature_text(feature, brief=True)}; "
            "conditions are on class labels, texts and single numbers"
        )
    ordered = isinstance(feature, Tensor) and feature.dtype != "bool"
    if isinstance(given, tuple):
        if not ordered:
            raise FeatureError(
                f"where {name!r}: the tuple {given!r:.200} is an interval, and "
                f"{feature_text(feature, brief=True)} has no order; give a list of values"
            )
        assert isinstance(feature, Tensor)
        return _interval(name, feature, given)
    values = _listed(name, given)
    if isinstance(feature, ClassLabel):
        return AnyOf(_classes(name, feature, values))
    if isinstance(feature, Text):
        return AnyOf(tuple(sorted({_checked_text(name, value) for value in values})))
    return AnyOf(tuple(sorted({_number(name, feature, value) for value in values})))


def _listed(name: str, given: Any) -> list[Any]:
    """Return a list, a set or an array as a list, and a single value as a list of one."""
    if isinstance(given, np.ndarray):
        given = given.tolist()
    if isinstance(given, AbstractSet | range) or (
        isinstance(given, Sequence) and not isinstance(given, str | bytes | bytearray)
    ):
        values = [value.item() if isinstance(value, np.generic) else value for value in given]
        if not values:
            raise FeatureError(
                f"where {name!r}: no sample has a value of an empty list; leave it out for all"
            )
        return values
    return [given.item() if isinstance(given, np.generic) else given]


def _classes(name: str, feature: ClassLabel, values: Sequence[Any]) -> tuple[Value, ...]:
    """Return classes in their order, by name where they have names."""
    indexes = {name: index for index, name in enumerate(feature.names or ())}
    chosen = set()
    for value in values:
        if isinstance(value, str) and value in indexes:
            chosen.add(indexes[value])
        elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value < feature.count:
            chosen.add(value)
        else:
            raise FeatureError(f"where {name!r}: {value!r:.200} is no class; {_known(feature)}")
    names = feature.names
    return tuple(index if names is None else names[index] for index in sorted(chosen))


def _known(feature: ClassLabel) -> str:
    if feature.names is None:
        return f"the classes are the numbers 0 to {feature.count - 1}"
    shown = ", ".join(map(repr, feature.names[:50])) + (", …" if feature.count > 50 else "")
    return f"the classes are {shown}"


def _checked_text(name: str, value: object) -> str:
    if problem := text_problem(value):
        raise FeatureError(f"where {name!r}: a text {problem}")
    return str(value)


def _sources(given: Any) -> tuple[Value, ...]:
    if isinstance(given, tuple):
        raise FeatureError(
            f"where {SOURCE!r}: the tuple {given!r:.200} is an interval, and sources have no "
            "order; give a list of them"
        )
    values = _listed(SOURCE, given)
    for value in values:
        try:
            check_source(value)
        except InvalidSampleError as error:
            raise FeatureError(f"where {SOURCE!r}: {error}") from None
    texts = sorted({value for value in values if value is not None})
    return (None, *texts) if None in values else tuple(texts)


def _number(name: str, feature: Tensor, value: Any) -> int | float:
    """Return a number as the feature stores it; raises `FeatureError` unless it can."""
    dtype = np.dtype(feature.dtype)
    if isinstance(value, bool) is not (dtype.kind == "b") or not isinstance(value, int | float):
        raise FeatureError(f"where {name!r}: {value!r:.200} is no {feature.dtype}")
    if dtype.kind == "b":
        return value
    if dtype.kind == "f":
        return _rounded(name, dtype, value)
    if isinstance(value, float):
        raise FeatureError(f"where {name!r}: {value!r} is a float, and {feature.dtype} is whole")
    bounds = np.iinfo(dtype)
    if not bounds.min <= value <= bounds.max:
        raise FeatureError(
            f"where {name!r}: no {feature.dtype} is {value!s:.40}; they are "
            f"{bounds.min} to {bounds.max}"
        )
    return value


def _rounded(name: str, dtype: np.dtype[Any], value: float) -> int | float:
    # Rounded as the values of samples are: 0.7 is another number as a float32 than as a float64,
    # and a sample that was inserted with 0.7 would otherwise not have that value.
    try:
        with np.errstate(over="ignore"):
            cast = dtype.type(value)
    except OverflowError:
        cast = dtype.type(math.inf)
    if not np.isfinite(cast):
        raise FeatureError(
            f"where {name!r}: {value!s:.40} is no finite {dtype.name}; None is an open end"
        )
    # The shortest decimal that is this number: 0.7, not 0.699999988079071.
    return number(float(str(cast)))


def _interval(name: str, feature: Tensor, given: tuple[Any, ...]) -> Between:
    if len(given) != 2:
        raise FeatureError(
            f"where {name!r}: an interval is a pair (from, until), not {given!r:.200}; give a "
            "list for several values"
        )
    ends = [end.item() if isinstance(end, np.generic) else end for end in given]
    start, stop = (None if end is None else _end(name, feature, end) for end in ends)
    if start is None and stop is None:
        raise FeatureError(f"where {name!r}: both ends of the interval are open; leave it out")
    if not _holds_any(feature, start, stop):
        raise FeatureError(
            f"where {name!r}: no {feature.dtype} is at least {start} and below {stop}; an "
            "interval is (from, until), without its end"
        )
    return Between(start, stop)


def _end(name: str, feature: Tensor, end: Any) -> int | float:
    # Any whole number: 256 is a good end of an interval of uint8.
    if np.dtype(feature.dtype).kind in "iu" and isinstance(end, int) and not isinstance(end, bool):
        if abs(end) > 1 << 64:
            raise FeatureError(f"where {name!r}: {end!s:.40} is out of range; None is an open end")
        return end
    return _number(name, feature, end)


def _holds_any(feature: Tensor, start: float | None, stop: float | None) -> bool:
    dtype = np.dtype(feature.dtype)
    if dtype.kind == "f":
        return start is None or stop is None or start < stop
    bounds = np.iinfo(dtype)
    first = bounds.min if start is None else max(start, bounds.min)
    last = bounds.max + 1 if stop is None else min(stop, bounds.max + 1)
    return first < last
