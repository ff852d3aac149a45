"""The form to which the images of COCO, YOLO and Pascal VOC are brought, and their samples.

The reader of a format parses an image's annotations into `AnnotatedImage`. `Sampler` makes the
sample of it, with the fields ``image`` (the bytes of the file), ``boxes`` (in the format that was
asked for) and ``boxes.FORMAT``. All others are the format's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from registry.errors import ImportFileError, InvalidSampleError
from registry.io.detection.image_size import image_size
from registry.io.labeling.boxes import (
    Array,
    BoxError,
    Size,
    SourceFormat,
    box_format,
    boxes_of,
    corners_of,
)
from registry.io.labeling.tool_lines import select_values
from registry.io.row import FieldMapping, FileRow, as_group, as_key, value_at
from registry.samples.box_formats import BOX_FORMATS, BoxFormat
from registry.samples.features import Features, Ragged

_BOX_PATHS: dict[str, BoxFormat | None] = {
    "boxes": None,
    **{f"boxes.{form}": form for form in BOX_FORMATS},
}
"""The paths of boxes, each with its format; None is the one that was asked for."""


# A power of two, by which numbers of pixels are divided without rounding.
_UNKNOWN_SIZE = Size(1 << 24, 1 << 24)


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its annotations.

    ``number`` counts the images of the set from 1. ``name`` is the image's in messages, and
    ``box_names`` are those of the boxes. ``boxes`` are in the format ``form``, and ``size`` is the
    image's if the annotations state it. ``load`` returns the bytes of the image's file, or a URI
    that is fetched later. ``fields`` has the other fields.
    """

    number: int
    key: str
    name: str
    boxes: Sequence[Sequence[float]]
    form: SourceFormat
    box_names: Sequence[str]
    size: Size | None
    load: Callable[[], bytes | str]
    fields: Mapping[str, Any] = field(default_factory=dict)


class Sampler:
    """Makes samples of images, for the features and the mapping of a dataset."""

    def __init__(
        self,
        path: Path,
        features: Features,
        key: str | None,
        mapping: FieldMapping,
        boxes: str,
        group: str | None = None,
    ) -> None:
        self._path = path
        self._features = features
        self._key = key
        self._mapping = mapping
        self._group = group
        with import_errors(path):
            form = box_format(boxes)
        self.paths: set[str] = {mapping.get(name, name) for name in features}
        """The paths that the features take their values from."""
        boxed = (name for name in features if mapping.get(name, name) in _BOX_PATHS)
        self.boxed: str | None = next(boxed, None)
        """The first feature that takes boxes."""
        self._forms = {each: _BOX_PATHS[each] or form for each in self.paths & _BOX_PATHS.keys()}

    def row(self, image: AnnotatedImage) -> FileRow:
        """Return the sample of an image; raises `ImportFileError` with the image and the box."""
        key, fields = image.key, dict(image.fields)
        try:
            with import_errors(self._path, line=image.number, unit="image", name=image.name):
                if (path := self._key) is not None:
                    key = as_key(value_at(fields, path), path)
                return self._row(image, key, fields)
        except ImportFileError as error:
            raise error.of_key(key) from None

    def _row(self, image: AnnotatedImage, key: str, fields: dict[str, Any]) -> FileRow:
        # A file that no feature needs is not read, and may be missing.
        content = image.load() if self._needs_file(image) else b""
        fields["image"] = content
        if self._forms:
            fields |= self._boxes(image, content)
        values = select_values(self._features, self._mapping, self._shaped(fields))
        path = self._group
        group = None if path is None else as_group(value_at(fields, path), path)
        raw = content if isinstance(content, bytes) else b""
        return FileRow(image.number, values, key, raw, group=group)

    def read(self, number: int, key: str | None, parse: Callable[[], AnnotatedImage]) -> FileRow:
        """Return the sample of the image that ``parse`` returns, or a row with the error.

        ``key`` is its key, unless the features of the image have it.
        """
        try:
            return self.row(parse())
        except ImportFileError as error:
            error = error.of_key(key if self._key is None else None)
            return FileRow(number, {}, error.key, b"", error)

    def _needs_file(self, image: AnnotatedImage) -> bool:
        return "image" in self.paths or (image.size is None and self._is_scaled(image))

    def _is_scaled(self, image: AnnotatedImage) -> bool:
        """Return whether boxes have to be converted from pixels to shares, or back."""
        return any(_is_relative(each) != _is_relative(image.form) for each in self._forms.values())

    def _boxes(self, image: AnnotatedImage, content: bytes | str) -> dict[str, Array]:
        """Return the boxes by the paths that ask for them."""
        size = image.size
        if size is None and not self._is_scaled(image):
            size = _UNKNOWN_SIZE
        elif size is None and isinstance(content, bytes):
            size = image_size(content)
        try:
            corners = corners_of(image.boxes, image.form, size)
        except BoxError as error:
            reason = f"{image.name}, {image.box_names[error.index]}: {error}"
            file, line, feature = str(self._path), image.number, self.boxed
            raise ImportFileError(
                reason, file=file, line=line, feature=feature, unit="image"
            ) from None
        return {path: boxes_of(corners, form, size) for path, form in self._forms.items()}

    def _shaped(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Return fields in which each list has the shape of the `Ragged` feature that takes it."""
        shaped = dict(fields)
        for name, feature in self._features.items():
            path = self._mapping.get(name, name)
            value = fields.get(path)
            if isinstance(feature, Ragged) and isinstance(value, list | np.ndarray):
                shaped[path] = _items(value, feature)
        return shaped


def _is_relative(form: SourceFormat) -> bool:
    return form.startswith("rel_")


def _items(value: Any, feature: Ragged) -> Any:
    """Return an item for each object, or all numbers one after the other without inner shape."""
    shape = feature.shape
    if not shape:
        return value.reshape(-1) if isinstance(value, np.ndarray) else value
    count = math.prod(shape)
    for number, item in enumerate(value, 1):
        if np.ndim(item) == 1 and len(item) != count:
            raise ValueError(f"object {number} has {len(item)} values, and the feature {count}")
    return np.asarray(value, np.float64).reshape(-1, *shape) if len(value) else []


@contextmanager
def import_errors(
    path: Path, *, line: int | None = None, unit: str = "line", name: str = ""
) -> Iterator[None]:
    """Turn `ValueError` and `InvalidSampleError` into `ImportFileError`."""
    prefix = f"{name}: " if name else ""
    try:
        yield
    except InvalidSampleError as error:
        reason, feature = f"{prefix}{error.reason}", error.feature
    except ValueError as error:
        reason, feature = f"{prefix}{error}", None
    else:
        return
    raise ImportFileError(reason, file=str(path), line=line, feature=feature, unit=unit) from None
