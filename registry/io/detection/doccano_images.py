"""doccano's projects of boxes and of segmentation: a document for each image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

from registry.errors import ImportFileError
from registry.io.detection.annotated_image import AnnotatedImage, Sampler, import_errors
from registry.io.detection.image_files import folders_near, read_image
from registry.io.detection.shapes import Shape, ShapeFields, box_of
from registry.io.labeling.tool_lines import objects
from registry.io.row import FileRow, as_key, value_at
from registry.samples.json_codec import describe

SHAPES = ("bbox", "segmentation")
"""The properties of documents with shapes."""
_SIDES = ("x", "y", "width", "height")


def image_rows(
    path: Path, sampler: Sampler, roots: Sequence[Path], *, hulls: bool, skip: bool
) -> Iterator[FileRow]:
    """Yield a sample per document, with ``boxes``, ``names`` and ``polygons`` of its shapes.

    Images are read from below ``roots`` or the folders of `folders_near`. With ``hulls``, polygons
    are boxes, too. With ``skip``, documents without shapes are no samples. Those that do not fit
    have their error.
    """
    fields = ShapeFields(sampler.paths, hulls=hulls)
    folders = list(roots) or folders_near(path)
    for number, (_, parsed, _, problem) in enumerate(objects(path), 1):
        if problem is None and skip and not any(parsed.get(name) for name in SHAPES):
            continue
        try:
            if problem is not None:
                raise problem
            with import_errors(path, line=number, unit="image"):
                image = _image(parsed, number, folders, fields)
            row = sampler.row(image)
        except ImportFileError as error:
            row = FileRow(number, parsed, None, b"", error)
        yield row


def _image(
    document: Mapping[str, Any], number: int, folders: Sequence[Path], fields: ShapeFields
) -> AnnotatedImage:
    key = f"doccano:{as_key(value_at(document, 'id'), 'id')}"
    filename = document.get("filename")
    if not isinstance(filename, str):
        raise ValueError(f"'filename' is text, not {describe(filename)}")  # noqa: TRY004
    shapes = [*_shapes(document)]
    boxed = fields.boxed(shapes)
    return AnnotatedImage(
        number,
        key,
        f"document {document['id']}",
        [box_of(shape, None) for shape in boxed],
        "xyxy",
        [shape.name for shape in boxed],
        None,
        partial(read_image, filename, folders, lambda _: True),
        {**document, **fields.fields(shapes, boxed)},
    )


def _shapes(document: Mapping[str, Any]) -> Iterator[Shape]:
    for kind in SHAPES:
        given = document.get(kind) or []
        if not isinstance(given, list):
            raise ValueError(f"{kind!r} is a list, not {describe(given)}")  # noqa: TRY004
        for number, each in enumerate(given, 1):
            name = f"shape {number} ({kind})"
            if not isinstance(each, Mapping) or not isinstance(each.get("label"), str):
                raise ValueError(f"{name} has no label")  # noqa: TRY004
            if kind == "bbox":
                x, y, width, height = (_number(each.get(side), name) for side in _SIDES)
                points = [[x, y], [x + width, y + height]]
                yield Shape(name, kind, each["label"], points, "box", points)
            else:
                points = _points(each.get("points"), name)
                yield Shape(name, "polygon", each["label"], points, "polygon", points)


def _points(flat: Any, name: str) -> list[list[float]]:
    if not isinstance(flat, list) or not flat or len(flat) % 2:
        raise ValueError(f"the points of {name} are not x, y, x, y, …")
    numbers = [_number(each, name) for each in flat]
    return [[*pair] for pair in zip(numbers[::2], numbers[1::2], strict=True)]


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError(f"{name} has no number where one is needed, but {describe(value)}")
    return value
