"""Conditions on the samples of a run: which values of features, and which sources, they have.

A list of values holds for a sample that has one of them, an interval for a number inside it. All
conditions of a run must hold. They are stored as JSON: class names rather than indexes, so that the
row can be read. `parse_conditions` makes them of what a user writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeAlias

from registry.errors import FeatureError

SOURCE = "source"
"""The name under which ``where`` has the condition on the sources of rows."""
_EXACT = 1e16
"""The least float that Python writes with an exponent, which JSONB stores as a whole number."""

Value: TypeAlias = str | int | float | None
Where: TypeAlias = Mapping[str, Any]
"""A condition by feature, or `SOURCE`: a value, a list of values, or a pair of numbers."""


@dataclass(frozen=True)
class AnyOf:
    """The values of which a sample has one: distinct, at least one, and in order."""

    values: tuple[Value, ...]


@dataclass(frozen=True)
class Between:
    """A half-open interval of numbers. None is an open end; one of the two is closed."""

    start: int | float | None
    stop: int | float | None


Condition: TypeAlias = AnyOf | Between


@dataclass(frozen=True, repr=False)
class Conditions:
    """What the samples of a run have in common. Without any, a run takes every sample.

    ``features`` has a condition by the name of its feature, in the order of the names.
    """

    features: tuple[tuple[str, Condition], ...] = ()
    source: AnyOf | None = None

    def __bool__(self) -> bool:
        return bool(self.features) or self.source is not None

    @property
    def where(self) -> dict[str, Any]:
        """The conditions as `parse_conditions` takes them: lists, and pairs for intervals."""
        named = {
            name: list(each.values) if isinstance(each, AnyOf) else (each.start, each.stop)
            for name, each in self.features
        }
        return named if self.source is None else {**named, SOURCE: list(self.source.values)}

    def __repr__(self) -> str:
        return repr(self.where)

    def __str__(self) -> str:
        """Return the conditions for a message: ``label is one of 'cat', 'lynx' and n >= 5``."""
        parts = [_text(name, each) for name, each in self.features]
        if self.source is not None:
            parts.append(_text(SOURCE, self.source))
        return " and ".join(parts)

    def to_json(self) -> dict[str, Any] | None:
        """Return the JSON form, None without conditions.

        The source is apart from the features, since a feature of that name may be added later.
        """
        form: dict[str, Any] = {}
        if self.features:
            form["features"] = {
                name: list(each.values)
                if isinstance(each, AnyOf)
                else {"from": each.start, "until": each.stop}
                for name, each in self.features
            }
        if self.source is not None:
            form[SOURCE] = list(self.source.values)
        return form or None

    @classmethod
    def from_json(cls, form: Mapping[str, Any] | None) -> Conditions:
        """Read the JSON form; raises `FeatureError` if it is not one."""
        if form is None:
            return cls()
        try:
            _check(form and form.keys() <= {"features", SOURCE}, form)
            pairs = ((n, _from_json(each)) for n, each in form.get("features", {}).items())
            # Sorted again: JSONB stores the names of an object in another order.
            features = tuple(sorted(pairs, key=lambda pair: pair[0]))
            source = form.get(SOURCE)
            return cls(features, None if source is None else _any_of(source))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FeatureError(f"{form!r:.500} is not the JSON form of conditions") from error

    @property
    def digest(self) -> str:
        """32 hexadecimal digits that differ where conditions do."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return blake2b(text.encode(), digest_size=16).hexdigest()


def _from_json(form: Any) -> Condition:
    if isinstance(form, list):
        return _any_of(form)
    _check(form.keys() == {"from", "until"}, form)
    _check({*map(type, form.values())} <= {int, float, type(None)}, form)
    return Between(*(None if form[end] is None else number(form[end]) for end in ("from", "until")))


def _any_of(values: Any) -> AnyOf:
    _check(isinstance(values, list) and values, values)
    _check({*map(type, values)} <= {str, int, float, bool, type(None)}, values)
    return AnyOf(tuple(number(v) if isinstance(v, int | float) else v for v in values))


def _check(holds: object, form: object) -> None:
    if not holds:
        raise ValueError(form)


def number(value: float) -> int | float:
    """Return a number in the one form that it has after JSONB stored it, equal or not.

    JSONB writes 1e16 as a whole number, so that it would be read as an integer.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 64 else float(value)
    whole = value.is_integer() and _EXACT <= abs(value) < float(1 << 64)
    return int(value) if whole else value + 0.0  # which turns -0.0 into 0.0


def _text(name: str, condition: Condition) -> str:
    if isinstance(condition, AnyOf):
        shown = [f"{value!r:.100}" for value in condition.values[:10]]
        more = [f"{len(condition.values) - 10} others"] if len(condition.values) > 10 else []
        return f"{name} is {'one of ' if len(shown) > 1 else ''}{', '.join([*shown, *more])}"
    start, stop = condition.start, condition.stop
    low = f"{name} >= {start}"
    high = f"{name} < {stop}"
    return low if stop is None else high if start is None else f"{start} <= {name} < {stop}"
