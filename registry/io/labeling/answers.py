"""Conversion of the answers to one control into the value of a feature.

An answer is a plain value or a mapping, as `Annotation.answers` has them. Every error raised here
is a `ValueError` with the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeGuard

from registry.io.labeling import boxes
from registry.io.labeling.boxes import Size
from registry.samples.box_formats import BOX_FORMATS, BoxFormat
from registry.samples.features import Feature
from registry.samples.json_codec import describe

_SLACK = 0.01
"""Percent by which a rectangle may exceed the picture; Label Studio's rounding is far below."""
_UNSIZED = "without original_width and original_height"
_PLAIN = ("choices", "rating", "number", "datetime", "selected", "taxonomy")


@dataclass(frozen=True)
class Conversion:
    """What a conversion needs besides the answers.

    ``classes`` are those that the path lists. ``feature`` takes the value. ``hull`` replaces a
    rotated box by its hull, which is refused otherwise.
    """

    classes: Sequence[str] = ()
    feature: Feature | None = None
    hull: bool = False


class _Rectangle(NamedTuple):
    """x, y, width and height in percent of the picture, and the answer that has them."""

    sides: Sequence[float]
    answer: Mapping[str, Any]


def one(answers: Sequence[Any]) -> Any:
    """Return the only answer: a choice, rating, number, text, date or label."""
    if len(answers) != 1:
        raise ValueError(f"{len(answers)} answers, where one is needed; take all with .json")
    answer = answers[0]
    if not isinstance(answer, Mapping):
        return answer
    values = [*_values(answer)]
    if len(values) != 1:
        raise ValueError(f"{len(values)} values, where one is needed; take all with .json")
    return values[0]


def is_index(answer: Any) -> bool:
    """Return whether an answer is an index written as text, as Label Studio writes choices."""
    # Not `isdecimal`, which accepts digits of other scripts. Nine digits fit every class.
    return isinstance(answer, str) and re.fullmatch(r"[0-9]{1,9}", answer) is not None


def _json(answers: Sequence[Any], _: Conversion) -> str:
    try:
        # Sorted: the order of properties must not make a new revision of an unchanged sample.
        return json.dumps(answers, ensure_ascii=False, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the answers cannot be written as JSON ({error})") from None


def _classes(answers: Sequence[Any], conversion: Conversion) -> list[int]:
    classes = conversion.classes
    indexes_by_name = {name: index for index, name in enumerate(classes)}
    indexes = []
    for answer in answers:
        names = [answer] if not isinstance(answer, Mapping) else [*_values(answer)]
        if isinstance(answer, Mapping) and "choices" not in answer and len(names) != 1:
            # With two labels, or none, the classes would no longer match the rectangles or spans.
            raise ValueError(f"a region has {len(names)} labels, where one is needed")
        for name in names:
            if not isinstance(name, str) or name not in indexes_by_name:
                value = describe(name)
                raise ValueError(f"unknown class {value}; the mapping has {', '.join(classes)}")
            indexes.append(indexes_by_name[name])
    return indexes


def _spans(answers: Sequence[Any], conversion: Conversion) -> list[Any]:
    offsets: list[int] = []
    for answer in answers:
        start, end = _numbers(answer, ("start", "end"))
        if not _is_whole(start) or not _is_whole(end) or not 0 <= start <= end:
            raise ValueError("an answer is no span with a start and an end in characters")
        offsets += [start, end]
    return _shaped(offsets, conversion, 2)


def _percent(answers: Sequence[Any], conversion: Conversion) -> Any:
    sides = [side for box in _rectangles(answers, conversion) for side in box.sides]
    return _shaped(sides, conversion)


def _pixels(answers: Sequence[Any], conversion: Conversion) -> Any:
    pixels: list[float] = []
    for sides, answer in _rectangles(answers, conversion):
        size = _size(answer)
        if size is None:
            raise ValueError(f"a rectangle {_UNSIZED} has no pixels; take its percent")
        pixels += [side * whole / 100 for side, whole in zip(sides, size * 2, strict=True)]
    return _shaped(pixels, conversion)


def _named(form: BoxFormat, answers: Sequence[Any], conversion: Conversion) -> Any:
    named: list[float] = []
    for sides, answer in _rectangles(answers, conversion):
        size = _size(answer)
        if size is None and not form.startswith("rel_"):
            raise ValueError(f"a rectangle {_UNSIZED} has no pixels; take .rel_xyxy")
        shares = [side / 100 for side in sides]
        corners = boxes.corners_of(shares, "rel_xywh", size)
        named += boxes.boxes_of(corners, form, size)[0].tolist()
    return _shaped(named, conversion)


def _shaped(numbers: list[Any], conversion: Conversion, width: int = 4) -> list[Any]:
    """Return boxes or spans as lists if the feature has an inner shape, and flat otherwise."""
    if not getattr(conversion.feature, "shape", ()):
        return numbers
    return [numbers[start : start + width] for start in range(0, len(numbers), width)]


def _rectangles(answers: Sequence[Any], conversion: Conversion) -> Iterable[_Rectangle]:
    for answer in answers:
        x, y, width, height = sides = _numbers(answer, ("x", "y", "width", "height"))
        if not all(map(_is_coordinate, sides)):
            raise ValueError("an answer is no rectangle with x, y, width and height in percent")
        # Without this, a rotated rectangle would be stored as an upright one, at the wrong place.
        if answer.get("rotation"):
            yield _Rectangle(_hull(sides, answer, conversion), answer)
            continue
        right, bottom = x + width, y + height
        if not (min(sides) >= -_SLACK and right <= 100 + _SLACK and bottom <= 100 + _SLACK):
            raise ValueError(
                f"a rectangle of x {x:g}, y {y:g}, width {width:g}, height {height:g} percent "
                "stands out of the picture"
            )
        yield _Rectangle(sides, answer)


def _hull(
    sides: Sequence[float], answer: Mapping[str, Any], conversion: Conversion
) -> Sequence[float]:
    """Return the sides of a rotated rectangle's hull in percent, clipped to the picture."""
    degrees, size = answer["rotation"], _size(answer)
    if not conversion.hull:
        raise ValueError(
            f"a rectangle is rotated by {degrees} degrees, which four numbers cannot say; take its "
            "hull with --rotated hull, or .json"
        )
    if not _is_coordinate(degrees):
        raise ValueError(f"a rectangle's rotation is {describe(degrees)}; it is in degrees")
    # A rotation in percent would distort the box: percents of width and height differ in length.
    if size is None:
        raise ValueError(f"a rotated rectangle {_UNSIZED} has no hull")
    pixels = [side * whole / 100 for side, whole in zip(sides, size * 2, strict=True)]
    # Label Studio rotates around the corner that x and y are.
    points = boxes.rotate(pixels, degrees, (pixels[0], pixels[1]))
    left, top, right, bottom = (
        100 * side / whole for side, whole in zip(boxes.hull(points, size), size * 2, strict=True)
    )
    return [left, top, right - left, bottom - top]


def _size(answer: Mapping[str, Any]) -> Size | None:
    width, height = _numbers(answer, ("original_width", "original_height"))
    return Size(width, height) if _is_size(width) and _is_size(height) else None


def _values(answer: Mapping[str, Any]) -> Iterable[Any]:
    """Yield the values of an answer, without its coordinates in the picture or text."""
    names = [name for name in answer if name in _PLAIN or name.endswith("labels")]
    # A labeled span has its text, too: ``text`` is the answer only if there is nothing else.
    for name in names or [name for name in answer if name == "text"]:
        value = answer[name]
        if isinstance(value, list):
            yield from value
        else:
            yield value


def _numbers(answer: Any, names: Sequence[str]) -> list[Any]:
    """Return an answer's values under these names, with None for each that is missing."""
    return [answer.get(name) if isinstance(answer, Mapping) else None for name in names]


def _is_whole(value: Any) -> TypeGuard[int]:
    # In Python, bool is a subclass of int: True would be the offset 1.
    return isinstance(value, int) and not isinstance(value, bool) and value < 1 << 63


def _is_coordinate(value: Any) -> TypeGuard[float]:
    # The limit also excludes infinity and NaN, of which every comparison is false.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _is_size(value: Any) -> TypeGuard[int]:
    return _is_whole(value) and 0 < value < 1 << 31


CONVERSIONS: dict[str, Callable[[Sequence[Any], Conversion], Any]] = {
    "json": _json,
    "classes": _classes,
    "spans": _spans,
    "percent": _percent,
    "pixels": _pixels,
    **{form: partial(_named, form) for form in BOX_FORMATS},
}
"""The conversions of a control's answers, by the last step of a path."""
