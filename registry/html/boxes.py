"""Which features are the boxes of an image, with their classes and scores, and where they lie.

A schema does not say this, so that it follows from shapes and names:

- Boxes are a ``Ragged`` of numbers of shape ``(4,)`` in a dataset that has an `Image`. With several
  images, boxes are those of the image whose name shares most words with theirs (``left_image`` and
  ``left_boxes``), else of the first.
- Their classes are a ``Ragged`` of whole numbers of shape ``()``, named with one of the words
  ``class``, ``label`` or ``category``, also in the plural, that has as many items as there are
  boxes; their scores one of floats named with ``score`` or ``confidence``. Of several, the name
  that shares most words with the boxes' decides.
- Names of classes are those of the `ClassLabel` of the same name in the singular (``label`` for
  ``labels``), else a JSON list of names in the `Text` feature ``names``, ``class_names`` or
  ``categories``.
- The name says the format: ``boxes_xywh``. Otherwise, numbers from 0 to 1 are ``rel_xyxy``, and
  larger ones pixels, ``xyxy``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.samples.box_formats import BOX_FORMATS, BoxFormat
from registry.samples.features import ClassLabel, Feature, Image, Ragged, Text

_CLASSES = {"class", "label", "category"}
_SCORES = {"score", "confidence"}
_NAMES = ("names", "class_names", "categories")
_GENERIC = {"image", "photo", "picture", "img", "box", "bbox"}
"""Words that say what a feature is, and not which one of several."""
_LONGEST_NAMES = 1 << 20
"""Characters of a JSON list of names that are parsed."""
_SLACK = 1.01
"""Up to which number boxes are relative: they may exceed the image by 1 %."""


@dataclass(frozen=True)
class BoxFeatures:
    """The features of the boxes of one image; ``form`` is None if the name does not say it."""

    image: str
    boxes: str
    classes: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """Text features with the names of the classes, as JSON."""
    form: BoxFormat | None = None


@dataclass(frozen=True)
class Box:
    """A box in shares of the image's sides, from 0 to 1, with its label, which may be empty."""

    left: float
    top: float
    right: float
    bottom: float
    label: str = ""
    index: int | None = None
    """The index of its class."""


def box_features(features: Mapping[str, Feature]) -> list[BoxFeatures]:
    """Return the boxes of a dataset's images, by the rules above."""
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    if not images:
        return []
    return [
        BoxFeatures(
            max(images, key=lambda image: len(_words(image) & _words(name))),
            name,
            _related(features, name, _CLASSES, "iu"),
            _related(features, name, _SCORES, "f"),
            tuple(each for each in _NAMES if isinstance(features.get(each), Text)),
            _form_of(name),
        )
        for name, feature in features.items()
        if isinstance(feature, Ragged) and feature.shape == (4,) and feature.dtype != "bool"
    ]


def boxes_of(
    features: Mapping[str, Feature],
    sample: Mapping[str, Any],
    which: BoxFeatures,
    size: tuple[int, int],
    form: BoxFormat | None = None,
) -> list[Box]:
    """Return the boxes of a sample's image of this ``size``, its width and height in pixels.

    ``form`` is their format where their name does not say it. Boxes are cut off at the sides of
    the image; those without an area there, or with numbers that are not finite, are left out.
    """
    values = np.asarray(sample[which.boxes], np.float64).reshape(-1, 4)
    corners = _corners(values, which.form or form or _usual_form(values), size)
    with np.errstate(invalid="ignore"):
        corners = np.clip(corners, 0, 1)
        drawn = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    classes = _of_length(sample, which.classes, len(values))
    scores = _of_length(sample, which.scores, len(values))
    names = [] if classes is None else _names(features, sample, which, classes)
    boxes = []
    for row in np.flatnonzero(drawn).tolist():
        index = None if classes is None else int(sample[classes][row])
        label = [] if index is None else [names[index] if 0 <= index < len(names) else str(index)]
        if scores is not None:
            label.append(f"{float(sample[scores][row]):.2f}")
        left, top, right, bottom = corners[row].tolist()
        boxes.append(Box(left, top, right, bottom, " ".join(label), index))
    return boxes


def _corners(values: npt.NDArray[Any], form: BoxFormat, size: tuple[int, int]) -> npt.NDArray[Any]:
    """Return left, top, right and bottom in shares of the sides."""
    if form == "rel_yxyx":
        return values[:, [1, 0, 3, 2]]
    if form == "rel_xyxy":
        return values
    first, second = values[:, :2], values[:, 2:]
    if form == "center_xywh":
        first = first - second / 2
    last = second if form == "xyxy" else first + second
    shares: npt.NDArray[Any] = np.concatenate([first, last], 1) / np.array([*size, *size])
    return shares


def _usual_form(values: npt.NDArray[Any]) -> BoxFormat:
    finite = values[np.isfinite(values)]
    return "xyxy" if len(finite) and finite.max() > _SLACK else "rel_xyxy"


def _form_of(name: str) -> BoxFormat | None:
    # The longest first: a name that ends in rel_xyxy ends in xyxy, too.
    forms = sorted(BOX_FORMATS, key=len, reverse=True)
    return next((form for form in forms if name.lower().endswith(form)), None)


def _related(
    features: Mapping[str, Feature], boxes: str, words: set[str], kinds: str
) -> tuple[str, ...]:
    """Return the ragged features named with one of ``words``, the most similar name first."""
    names = [
        name
        for name, feature in features.items()
        if isinstance(feature, Ragged)
        and not feature.shape
        and np.dtype(feature.dtype).kind in kinds
        and words & {_singular(word) for word in _all_words(name)}
    ]
    # Sorting is stable: of equally similar ones, the first feature comes first.
    return tuple(sorted(names, key=lambda name: -len(_words(name) & _words(boxes))))


def _of_length(sample: Mapping[str, Any], names: Sequence[str], length: int) -> str | None:
    return next((name for name in names if len(sample[name]) == length), None)


def _names(
    features: Mapping[str, Feature], sample: Mapping[str, Any], which: BoxFeatures, classes: str
) -> Sequence[str]:
    for name, feature in features.items():
        same = _all_words(name) == [_singular(word) for word in _all_words(classes)]
        if isinstance(feature, ClassLabel) and feature.names and same:
            return feature.names
    texts = (sample[name] for name in which.names)
    return next((names for text in texts if (names := _listed_names(text))), [])


def _listed_names(text: str) -> list[str]:
    """Return the names in a JSON list, none if it is anything else."""
    try:
        names = json.loads(text) if len(text) <= _LONGEST_NAMES else []
    except (ValueError, RecursionError):
        return []
    alone = isinstance(names, list) and all(isinstance(each, str) for each in names)
    return names if alone else []


def _words(name: str) -> set[str]:
    return {_singular(word) for word in _all_words(name)} - _GENERIC


def _all_words(name: str) -> list[str]:
    return [word for word in re.split(r"[\W_]+", name.lower()) if word]


def _singular(word: str) -> str:
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    if word.endswith(("sses", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
