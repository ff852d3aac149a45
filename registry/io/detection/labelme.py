"""LabelMe: a JSON file for each image, with the image in it or next to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

from registry.errors import ImportFileError
from registry.io.detection.annotated_image import AnnotatedImage, Sampler, import_errors
from registry.io.detection.image_files import read_image
from registry.io.detection.shapes import Points, Role, Shape, ShapeFields, box_of
from registry.io.files.jsonl import parse_object
from registry.io.labeling.boxes import Size
from registry.io.row import FieldMapping, FileRow
from registry.samples.features import LARGEST_RECORD, Features
from registry.samples.json_codec import describe, from_base64

_ROLES: dict[str, Role] = {
    "rectangle": "box",
    "polygon": "polygon",
    "oriented_rectangle": "area",
    "circle": "area",
    "mask": "area",
    "line": "line",
    "linestrip": "line",
    "point": "points",
    "points": "points",
}
_FACTS = ("group_id", "description", "flags", "mask")
"""Properties of a shape that are its attributes."""


def read(
    path: Path,
    features: Features,
    key: str | None,
    mapping: FieldMapping,
    *,
    boxes: str = "rel_xyxy",
    rotated: str = "refuse",
    roots: Sequence[Path] = (),
    group: str | None = None,
) -> Iterator[FileRow]:
    """Yield a sample per JSON file, with the key ``labelme:FOLDER/NAME``, in the names' order.

    A sample has: ``image``, the bytes in ``imageData`` or of the file at ``imagePath``; ``boxes``,
    of shape (n, 4), in the format ``boxes``; ``names``, their labels, as JSON text, of which
    ``names.classes[cat,dog]`` makes indexes; ``polygons``, ``lines``, ``points`` and ``shapes`` as
    JSON text; ``label``, the image's only flag that is set, and ``flags.NAME``; ``imagePath``,
    ``width`` and ``height``.

    An image file is read from the folder of its JSON file, or from below ``roots``. ``rotated`` is
    "refuse", or "hull" for the upright box around a polygon, a circle, a mask or a rotated box.
    Raises `ImportFileError` with the file and the shape.
    """
    sampler = Sampler(path, features, key, mapping, boxes, group)
    fields = ShapeFields(sampler.paths, hulls=rotated == "hull")
    base = path if path.is_dir() else path.parent
    folder = base.resolve().name
    for number, file in enumerate(_files(path), 1):
        name = file.relative_to(base).with_suffix("").as_posix()
        parse = partial(_annotated, path, file, number, (folder, name), roots, fields)
        yield sampler.read(number, f"labelme:{folder}/{name}", parse)


def _annotated(
    path: Path, file: Path, number: int, names: tuple[str, str], *rest: Any
) -> AnnotatedImage:
    with import_errors(path, line=number, unit="image", name=f"{names[1]}.json"):
        return _image(file, number, names, *rest)


def _image(
    file: Path, number: int, names: tuple[str, str], roots: Sequence[Path], fields: ShapeFields
) -> AnnotatedImage:
    folder, name = names
    parsed = _parse(file)
    shapes = _shapes(parsed)
    boxed = fields.boxed(shapes)
    size = _size(parsed)
    return AnnotatedImage(
        number,
        f"labelme:{folder}/{name}",
        f"{name}.json",
        [box_of(shape, size) for shape in boxed],
        "xyxy",
        [shape.name for shape in boxed],
        size,
        partial(_load, parsed, file, roots),
        {**_facts(parsed, size), **fields.fields(shapes, boxed)},
    )


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(each for each in path.rglob("*.json") if each.name[:1] != ".")
    if not files:
        raise ImportFileError("it holds no .json files of LabelMe", file=str(path))
    return files


def _parse(file: Path) -> dict[str, Any]:
    # Checked before the file is read, which takes several times its size of memory.
    if (size := file.stat().st_size) > LARGEST_RECORD:
        raise ValueError(f"it has {size:,} bytes, over {LARGEST_RECORD:,}")
    parsed = parse_object(file.read_bytes().strip().removeprefix(b"\xef\xbb\xbf"))
    if not isinstance(parsed.get("shapes"), list):
        raise ValueError("it is no file of LabelMe, which has a list of 'shapes'")  # noqa: TRY004
    return parsed


def _shapes(parsed: Mapping[str, Any]) -> list[Shape]:
    shapes = []
    for number, each in enumerate(parsed["shapes"], 1):
        if not isinstance(each, Mapping):
            raise ValueError(f"shape {number} is an object, not {describe(each)}")  # noqa: TRY004
        # Files of old versions have polygons only, without a type.
        kind = each.get("shape_type", "polygon")
        name = f"shape {number} ({kind})"
        label, points = each.get("label"), each.get("points")
        if not isinstance(kind, str) or kind not in _ROLES:
            raise ValueError(f"shape {number} is of no known type: {describe(kind)}")
        if not isinstance(label, str) or not label:
            raise ValueError(f"{name} has no label")
        if not isinstance(points, list) or not points or not all(map(_is_point, points)):
            raise ValueError(f"the points of {name} are not [x, y], …")
        facts = {fact: each[fact] for fact in _FACTS if each.get(fact)}
        shapes.append(
            Shape(name, kind, label, points, _ROLES[kind], _outline(kind, points, name), facts)
        )
    return shapes


def _outline(kind: str, points: Points, name: str) -> Points:
    """Return points whose hull is that of the shape."""
    counts = {"rectangle": (2, 4), "circle": (2,), "mask": (2,)}
    if kind in counts and len(points) not in counts[kind]:
        raise ValueError(f"{name} has {len(points)} points, where there are {counts[kind][0]}")
    if kind != "circle":
        return points
    (x, y), edge = points
    radius = math.dist((x, y), edge)
    return [[x - radius, y - radius], [x + radius, y + radius]]


def _facts(parsed: Mapping[str, Any], size: Size | None) -> dict[str, Any]:
    flags = parsed.get("flags") or {}
    if not isinstance(flags, Mapping):
        raise ValueError(f"'flags' is an object, not {describe(flags)}")  # noqa: TRY004
    facts: dict[str, Any] = {"flags": flags, "imagePath": parsed.get("imagePath")}
    if marked := [name for name, is_set in flags.items() if is_set]:
        facts["label"] = marked[0] if len(marked) == 1 else marked
    if size is not None:
        facts |= size._asdict()
    return facts


def _size(parsed: Mapping[str, Any]) -> Size | None:
    width, height = parsed.get("imageWidth"), parsed.get("imageHeight")
    if not isinstance(width, int) or not isinstance(height, int) or min(width, height) < 1:
        return None
    return Size(width, height)


def _load(parsed: Mapping[str, Any], file: Path, roots: Sequence[Path]) -> bytes:
    if (data := parsed.get("imageData")) is not None:
        return from_base64(data)
    name = parsed.get("imagePath")
    if not isinstance(name, str) or not name:
        raise ValueError("it has neither 'imageData' nor an 'imagePath'")
    # LabelMe writes the separators of the system that it runs on.
    return read_image(PureWindowsPath(name).as_posix(), [file.parent, *roots], lambda _: True)


def _is_point(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 2 and all(map(_is_coordinate, point))


def _is_coordinate(value: Any) -> bool:
    # The limit also excludes infinity and NaN, of which every comparison is false.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
