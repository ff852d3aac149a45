"""Conversion of the answers to one control into the value of a feature.

An answer is a plain value or a mapping, as `Annotation.answers` has them. Every error raised here
is a `ValueError` with the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from registry.samples.json_codec import shown

_SLACK = 0.01
"""Percent by which a rectangle may exceed the picture; Label Studio's rounding is far below."""
_PLAIN = ("choices", "rating", "number", "datetime", "selected", "taxonomy")


def one(answers: Sequence[Any]) -> Any:
    """Return the only answer: a choice, rating, number, text, date or label."""
    if len(answers) != 1:
        raise ValueError(f"{len(answers)} answers, where one is needed; take all with .json")
    found = answers[0]
    if not isinstance(found, Mapping):
        return found
    values = [*_named(found)]
    if len(values) != 1:
        raise ValueError(f"{len(values)} values, where one is needed; take all with .json")
    return values[0]


def is_index(answer: Any) -> bool:
    """Return whether an answer is an index written as text, as Label Studio writes choices."""
    return isinstance(answer, str) and re.fullmatch(r"[0-9]{1,9}", answer) is not None


def _json(answers: Sequence[Any], _: Sequence[str]) -> str:
    try:
        # Sorted: the order of properties must not make a new revision of an unchanged sample.
        return json.dumps(answers, ensure_ascii=False, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the answers cannot be written as JSON ({error})") from None


def _classes(answers: Sequence[Any], classes: Sequence[str]) -> list[int]:
    known = {name: index for index, name in enumerate(classes)}
    indexes = []
    for answer in answers:
        names = [answer] if not isinstance(answer, Mapping) else [*_named(answer)]
        if isinstance(answer, Mapping) and "choices" not in answer and len(names) != 1:
            # With two labels, or none, the classes would no longer match the rectangles or spans.
            raise ValueError(f"a region has {len(names)} labels, where one is needed")
        for name in names:
            if not isinstance(name, str) or name not in known:
                said = shown(name) if isinstance(name, str) else f"a {type(name).__name__}"
                raise ValueError(f"unknown class {said}; the mapping has {', '.join(classes)}")
            indexes.append(known[name])
    return indexes


def _spans(answers: Sequence[Any], _: Sequence[str]) -> list[int]:
    places: list[int] = []
    for answer in answers:
        start, end = _numbers(answer, ("start", "end"))
        if not _whole(start) or not _whole(end) or not 0 <= start <= end:
            raise ValueError("an answer is no span with a start and an end in characters")
        places += [start, end]
    return places


def _percent(answers: Sequence[Any], _: Sequence[str]) -> list[float]:
    return [side for box in _boxes(answers) for side in box[0]]


def _pixels(answers: Sequence[Any], _: Sequence[str]) -> list[float]:
    found: list[float] = []
    for sides, answer in _boxes(answers):
        width, height = _numbers(answer, ("original_width", "original_height"))
        if not _size(width) or not _size(height):
            raise ValueError(
                "a rectangle without original_width and original_height has no pixels; "
                "take its percent"
            )
        found += [side * size / 100 for side, size in zip(sides, (width, height) * 2, strict=True)]
    return found


def _boxes(answers: Sequence[Any]) -> Iterable[tuple[list[float], Mapping[str, Any]]]:
    for answer in answers:
        x, y, width, height = sides = _numbers(answer, ("x", "y", "width", "height"))
        if not all(map(_coordinate, sides)):
            raise ValueError("an answer is no rectangle with x, y, width and height in percent")
        # Without this, a rotated rectangle would be stored as an upright one, at the wrong place.
        if answer.get("rotation"):
            raise ValueError("a rectangle is turned, which four numbers cannot say; take .json")
        lowest, across, down = min(sides), x + width, y + height
        if not (lowest >= -_SLACK and across <= 100 + _SLACK and down <= 100 + _SLACK):
            raise ValueError(
                f"a rectangle of x {x:g}, y {y:g}, width {width:g}, height {height:g} percent "
                "stands out of the picture"
            )
        yield sides, answer


def _named(answer: Mapping[str, Any]) -> Iterable[Any]:
    """Yield the values of an answer, without its coordinates in the picture or text."""
    names = [name for name in answer if name in _PLAIN or name.endswith("labels")]
    # A labeled span has its text, too: ``text`` is the answer only if there is nothing else.
    for name in names or [name for name in answer if name == "text"]:
        found = answer[name]
        if isinstance(found, list):
            yield from found
        else:
            yield found


def _numbers(answer: Any, names: Sequence[str]) -> list[Any]:
    """Return an answer's values under these names, with None for each that is missing."""
    return [answer.get(name) if isinstance(answer, Mapping) else None for name in names]


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value < 1 << 63


def _coordinate(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _size(value: Any) -> TypeGuard[int]:
    return _whole(value) and 0 < value < 1 << 31


READ: dict[str, Callable[[Sequence[Any], Sequence[str]], Any]] = {
    "json": _json,
    "classes": _classes,
    "spans": _spans,
    "percent": _percent,
    "pixels": _pixels,
}
"""The conversions of a control's answers, by the last step of a path."""
