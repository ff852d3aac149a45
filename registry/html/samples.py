"""Drawing the values of samples.

An image or an array becomes a `Picture` with its boxes, other numbers a `Plot` or a few numbers as
text, a class its name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from registry.html import plots
from registry.html.boxes import Box, BoxFeatures, box_features, boxes_of
from registry.html.chart import COLORS
from registry.html.drawings import (
    GALLERY,
    ClassName,
    Drawing,
    DrawnBox,
    Numbers,
    Picture,
    Plot,
    Style,
    Words,
)
from registry.html.text_difference import Part, text_difference
from registry.html.thumbnails import (
    Thumbnail,
    ThumbnailError,
    size_of_file,
    thumbnail_of_array,
    thumbnail_of_file,
)
from registry.samples.features import ClassLabel, Feature, Image, Tensor, Text
from registry.samples.image_header import encoding_of

_INLINE = 64
"""The longer side of an array, in items, up to which its picture is part of the page."""
_COARSE = 96
"""The longer side of an image, in pixels, up to which it is enlarged, pixel by pixel."""
_LABELLED_SIDE = 150
"""The longer side of a picture, in CSS pixels, from which on labels have room."""
_LISTED = 12
"""Numbers that are listed."""
_TIMES = "\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}"


def draw_sample(
    features: Mapping[str, Feature],
    sample: Mapping[str, Any],
    style: Style = GALLERY,
    older: Mapping[str, Any] | None = None,
) -> list[Drawing]:
    """Return the drawings of a sample's values, in the order that ``style`` says.

    What differs from the ``older`` values of the sample is marked. Nothing here raises an error for
    a value that the features accept: what cannot be drawn is a placeholder.
    """
    shown = {name: feature for name, feature in features.items() if name in sample}
    groups = box_features(shown)
    parts = set() if style.whole else {part for each in groups for part in _parts(each)}
    drawer = _Drawer(shown, sample, style, older, groups)
    names = [name for name in shown if name not in parts]
    if style.most is not None:
        # Sorting is stable: others stay in their order.
        names = sorted(names, key=lambda name: not _is_picture(shown[name]))[: style.most]
    return [drawer.draw(name) for name in names]


def differing(
    features: Mapping[str, Feature], older: Mapping[str, Any], newer: Mapping[str, Any]
) -> set[str]:
    """Return the names of the features whose values differ between two revisions."""
    return {name for name in features if name in newer and not _equal(older, newer, name)}


@dataclass(frozen=True)
class _Drawer:
    features: Mapping[str, Feature]
    sample: Mapping[str, Any]
    style: Style
    older: Mapping[str, Any] | None
    groups: list[BoxFeatures]

    def draw(self, name: str) -> Drawing:
        feature, value = self.features[name], self.sample[name]
        changed = self.older is not None and not _equal(self.older, self.sample, name)
        if isinstance(feature, Image):
            return self._image(name, value, changed=changed)
        if isinstance(feature, Text):
            return self._text(name, value, changed=changed)
        if isinstance(feature, ClassLabel):
            index = int(value)
            named = feature.names is not None and 0 <= index < feature.count
            text = feature.names[index] if feature.names and named else str(index)
            return ClassName(name, text, index % COLORS, changed=changed)
        if isinstance(value, bytes):
            more = "…" if len(value) > _LISTED else ""
            text = value[:_LISTED].hex(" ") + more or "empty"
            return Numbers(name, text, caption=f"{len(value):,} bytes", changed=changed)
        return self._array(name, np.asarray(value), changed=changed)

    def _image(self, name: str, file: bytes, *, changed: bool) -> Picture:
        style = self.style
        try:
            width, height = size_of_file(file)
            if style.address is None:
                source = thumbnail_of_file(file, 2 * style.side).uri
            else:
                source = style.address(name)
        except ThumbnailError as error:
            return Picture(name, caption="no picture", problem=str(error), changed=changed)
        caption = f"{width:,}{_TIMES}{height:,} {encoding_of(file)}"
        boxes = list(self._boxes(name, (width, height)))
        return Picture(
            name,
            source,
            *_fitted(width, height, style.side),
            coarse=max(width, height) <= _COARSE,
            boxes=boxes[: style.boxes],
            more=max(0, len(boxes) - style.boxes),
            labelled=style.side >= _LABELLED_SIDE,
            large=style.large(name) if style.large and max(width, height) > style.side else "",
            caption=caption,
            changed=changed or any(box.changed for box in boxes),
        )

    def _boxes(self, image: str, size: tuple[int, int]) -> Iterator[DrawnBox]:
        for group in self.groups:
            if group.image == image:
                boxes = boxes_of(self.features, self.sample, group, size, self.style.form)
                known: set[Box] | None = None
                if self.older is not None and group.boxes in self.older:
                    older = boxes_of(self.features, self.older, group, size, self.style.form)
                    known = set(older)
                for box in boxes:
                    yield _drawn(box, changed=known is not None and box not in known)

    def _text(self, name: str, text: str, *, changed: bool) -> Words:
        limit = self.style.characters
        parts = [Part(text[:limit])] if text else []
        if changed and self.older is not None and isinstance(self.older.get(name), str):
            parts = text_difference(self.older[name][:limit], text[:limit])
        return Words(name, parts, max(0, len(text) - limit), changed=changed)

    def _array(self, name: str, array: np.ndarray[Any, Any], *, changed: bool) -> Drawing:
        shape = _TIMES.join(map(str, array.shape))
        caption = f"{shape} {array.dtype.name}"
        if plots.is_image(array.shape):
            return self._pixels(name, array, caption, changed=changed)
        columns = array.shape[1] if array.ndim == 2 else 1
        line = array.ndim in (1, 2) and len(array) >= plots.SHORTEST_LINE
        # Whole numbers of any count are rather the numbers of tokens than measurements.
        measured = array.dtype.kind == "f" or isinstance(self.features[name], Tensor)
        if line and columns <= plots.MOST_LINES and measured and array.dtype.kind != "b":
            lines = plots.lines_of(array)
            if lines is not None:
                low, high = _number(lines.low), _number(lines.high)
                return Plot(name, lines.paths, low, high, caption=caption, changed=changed)
        return Numbers(name, _listed(array), caption=caption if array.ndim else "", changed=changed)

    def _pixels(
        self, name: str, array: np.ndarray[Any, Any], caption: str, *, changed: bool
    ) -> Picture:
        pixels = plots.pixels_of(array)
        assert pixels is not None
        height, width = pixels.shape[:2]
        if self.style.address is not None and max(width, height) > _INLINE:
            source = self.style.address(name)
        else:
            try:
                source = thumbnail_of_array(pixels, 2 * self.style.side).uri
            except ThumbnailError as error:
                return Picture(name, caption="no picture", problem=str(error), changed=changed)
        size = _fitted(width, height, self.style.side)
        coarse = max(width, height) <= _COARSE
        return Picture(name, source, *size, coarse=coarse, caption=caption, changed=changed)


def picture_of(feature: Feature, value: Any, side: int) -> Thumbnail:
    """Return the picture of a value as a file, at most ``side`` pixels wide and high.

    Raises `ThumbnailError` for a value that is not drawn as a picture, or cannot be.
    """
    if isinstance(feature, Image):
        return thumbnail_of_file(value, side)
    pixels = plots.pixels_of(np.asarray(value)) if isinstance(value, np.ndarray) else None
    if pixels is None:
        raise ThumbnailError("the value is no image")
    return thumbnail_of_array(pixels, side)


def _is_picture(feature: Feature) -> bool:
    return isinstance(feature, Image) or (
        isinstance(feature, Tensor) and plots.is_image(feature.shape)
    )


def _parts(group: BoxFeatures) -> set[str]:
    return {group.boxes, *group.classes, *group.scores, *group.names}


def _drawn(box: Box, *, changed: bool) -> DrawnBox:
    return DrawnBox(
        round(100 * box.left, 2),
        round(100 * box.top, 2),
        round(100 * (box.right - box.left), 2),
        round(100 * (box.bottom - box.top), 2),
        box.label,
        (box.index or 0) % COLORS,
        changed,
    )


def _fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """Return the size at which an image is shown: small images are enlarged by whole numbers."""
    longer = max(width, height)
    scale = side / longer if longer > side else 1.0
    if longer <= _COARSE:
        scale = max(1, side // longer)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _equal(older: Mapping[str, Any], newer: Mapping[str, Any], name: str) -> bool:
    if name not in older:
        return False
    one, other = older[name], newer[name]
    if isinstance(one, str | bytes):
        return bool(one == other)
    one, other = np.asarray(one), np.asarray(other)
    # By bytes: a NaN equals itself here, and 0.0 is not -0.0, as for an insert.
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def _listed(array: np.ndarray[Any, Any]) -> str:
    if not array.size:
        return "empty"
    if array.ndim > 1:
        row = [f"[{_listed(each)}]" for each in array[:4]] if array.ndim == 2 else []
        if row and array.shape[1] <= _LISTED:
            return ", ".join(row) + (f" … {len(array):,} in all" if len(array) > 4 else "")
        return _range(array)
    items = [_number(item) for item in array.reshape(-1)[:_LISTED].tolist()]
    return ", ".join(items) + (" …" if array.size > _LISTED else "")


def _range(array: np.ndarray[Any, Any]) -> str:
    numbers = array.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    if not len(finite):
        return "no finite number"
    return f"{_number(float(finite.min()))} to {_number(float(finite.max()))}"


def _number(value: float | bool) -> str:
    if isinstance(value, bool | int):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    return f"{value:.4g}"
