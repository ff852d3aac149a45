"""CVAT for images 1.1: an XML file of all images of a task, alone or in a zip archive with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from math import cos, hypot, radians, sin
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import ImportFileError
from registry.io.detection.annotated_image import AnnotatedImage, Sampler, import_errors
from registry.io.detection.cvat_file import CvatFile
from registry.io.detection.shapes import Role, Shape, ShapeFields, box_of
from registry.io.labeling.boxes import Size, rotate
from registry.io.row import FieldMapping, FileRow
from registry.samples.features import Features
from registry.samples.json_codec import excerpt

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_POINTED: dict[str, Role] = {"polygon": "polygon", "polyline": "line", "points": "points"}
_BOX = ("xtl", "ytl", "xbr", "ybr")
_ELLIPSE = ("cx", "cy", "rx", "ry")
_MASK = ("left", "top", "width", "height")


def read(  # noqa: PLR0913  # options that are all given by name
    path: Path,
    features: Features,
    key: str | None,
    mapping: FieldMapping,
    *,
    boxes: str = "rel_xyxy",
    rotated: str = "refuse",
    unlabelled: str | None = None,
    roots: Sequence[Path] = (),
    group: str | None = None,
) -> Iterator[FileRow]:
    """Yield a sample per image, with the key ``cvat:TASK:NAME``, in the order of the file.

    A sample has: ``image``, the bytes of its file; ``boxes``, of shape (n, 4), in the format
    ``boxes``; ``names``, their labels, and ``classes``, their indexes among the task's labels;
    ``polygons``, ``lines``, ``points`` and ``shapes`` as JSON text; ``label``, the image's only
    tag, ``tags``, all of them, and ``attributes.NAME``, those of its tags; ``name``, ``id``,
    ``subset``, ``width`` and ``height``.

    Images are in the archive, or below ``roots`` or the folders of `folders_near`. ``rotated`` is
    "refuse", or "hull" for the upright box around a rotated one or another shape. An image without
    annotations is a sample if ``unlabelled`` is "empty", and none if it is "skip"; by default it is
    one unless a feature takes ``label``. ``group`` is the path of the samples' groups. Raises
    `ImportFileError` with the image and the shape.
    """
    if unlabelled not in (None, "skip", "empty"):
        raise ImportFileError(f"unlabelled is skip or empty, not {unlabelled!r}", file=str(path))
    sampler = Sampler(path, features, key, mapping, boxes, group)
    with closing(CvatFile(path, roots)) as file:
        fields: ShapeFields | None = None
        for number, element in enumerate(file.images(), 1):
            if fields is None:
                fields = ShapeFields(
                    sampler.paths, hulls=rotated == "hull", labels=file.meta.labels or None
                )
                skip = unlabelled == "skip" or (unlabelled is None and "label" in fields.used)
            if skip and len(element) == 0:
                continue
            parse = partial(_annotated, path, element, number, file, fields)
            yield sampler.read(number, _key(element, file), parse)


def _key(element: Element, file: CvatFile) -> str | None:
    task, name = element.get("task_id") or file.meta.task, element.get("name")
    return ":".join(["cvat", *([task] if task else []), name]) if name else None


def _annotated(
    path: Path, element: Element, number: int, file: CvatFile, fields: ShapeFields
) -> AnnotatedImage:
    label = excerpt(element.get("name") or "")
    with import_errors(path, line=number, unit="image", name=label):
        return _image(element, number, label, file, fields)


def _image(
    element: Element, number: int, label: str, file: CvatFile, fields: ShapeFields
) -> AnnotatedImage:
    name, key = element.get("name") or "", _key(element, file)
    if key is None:
        raise ValueError("it has no name")
    size = _size(element)
    shapes = [_shape(child, index) for index, child in enumerate(element, 1) if child.tag != "tag"]
    boxed = fields.boxed(shapes)
    subset = element.get("subset") or ""
    return AnnotatedImage(
        number,
        key,
        label,
        [box_of(shape, size) for shape in boxed],
        "xyxy",
        [shape.name for shape in boxed],
        size,
        lambda: file.load(name, subset),
        {
            "name": name,
            "id": element.get("id"),
            "subset": subset,
            "width": size.width,
            "height": size.height,
            **_tags(element),
            **fields.fields(shapes, boxed),
        },
    )


def _tags(element: Element) -> dict[str, Any]:
    tags = [_label(tag, "a tag") for tag in element.iterfind("tag")]
    attributes = {
        name: value for tag in element.iterfind("tag") for name, value in _attributes(tag).items()
    }
    label = {"label": tags[0] if len(tags) == 1 else tags} if tags else {}
    return {"tags": tags, "attributes": attributes, **label}


def _shape(element: Element, number: int) -> Shape:
    kind = element.tag
    name = f"shape {number} ({kind})"
    label, attributes = _label(element, name), _attributes(element)
    if kind in _POINTED:
        points = _points(element, name)
        outline = points if kind == "polygon" else []
        return Shape(name, kind, label, points, _POINTED[kind], outline, attributes)
    if kind == "box":
        left, top, right, bottom = _numbers(element, _BOX, name)
        points = [[left, top], [right, bottom]]
        degrees = _number(element.get("rotation") or "0", name)
        if not degrees:
            return Shape(name, kind, label, points, "box", points, attributes)
        center = ((left + right) / 2, (top + bottom) / 2)
        corners = rotate([left, top, right - left, bottom - top], degrees, center)
        return Shape(name, "rotated box", label, corners, "area", corners, attributes)
    if kind == "ellipse":
        outline = _ellipse(element, name)
        return Shape(name, kind, label, outline, "area", outline, attributes)
    if kind == "mask":
        left, top, width, height = _numbers(element, _MASK, name)
        outline = [[left, top], [left + width, top + height]]
        attributes["rle"] = element.get("rle") or ""
        return Shape(name, kind, label, outline, "area", outline, attributes)
    raise ValueError(
        f"{name} is not read; boxes, polygons, polylines, points, ellipses and masks are"
    )


def _ellipse(element: Element, name: str) -> list[list[float]]:
    """Return two corners of the upright box around an ellipse."""
    x, y, radius_x, radius_y = _numbers(element, _ELLIPSE, name)
    angle = radians(_number(element.get("rotation") or "0", name))
    width = hypot(radius_x * cos(angle), radius_y * sin(angle))
    height = hypot(radius_x * sin(angle), radius_y * cos(angle))
    return [[x - width, y - height], [x + width, y + height]]


def _points(element: Element, name: str) -> list[list[float]]:
    pairs = [each.split(",") for each in (element.get("points") or "").split(";")]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"the points of {name} are not x,y;x,y;…")
    return [[_number(side, name) for side in pair] for pair in pairs]


def _numbers(element: Element, names: Sequence[str], shape: str) -> list[float]:
    for each in names:
        if element.get(each) is None:
            raise ValueError(f"{shape} has no {each!r}")
    return [_number(element.get(each) or "", shape) for each in names]


def _number(text: str, shape: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{shape}: {excerpt(text)} is no number") from None


def _label(element: Element, name: str) -> str:
    label = element.get("label")
    if not label:
        raise ValueError(f"{name} has no label")
    return label


def _attributes(element: Element) -> dict[str, str]:
    return {
        each.get("name") or "": (each.text or "").strip() for each in element.iterfind("attribute")
    }


def _size(element: Element) -> Size:
    sides = [element.get(side) or "" for side in ("width", "height")]
    if not all(side.isdecimal() and 0 < len(side) < 10 and int(side) for side in sides):
        raise ValueError("its width and height are no whole numbers of pixels")
    return Size(int(sides[0]), int(sides[1]))
