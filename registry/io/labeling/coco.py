"""COCO: pictures with boxes, in one JSON file in the pictures' folder or in one above it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from registry.errors import ImportFileError, InvalidSampleError
from registry.io import media
from registry.io.files.lines import decode
from registry.io.labeling.tool_lines import select_values
from registry.io.row import FieldMapping, FileRow, as_key, value_at
from registry.samples.features import Features
from registry.samples.json_codec import excerpt, parse_json

_SHOWN = 5


def read(
    path: Path, features: Features, key: str | None, mapping: FieldMapping
) -> Iterator[FileRow]:
    """Yield a sample per picture, with the key ``coco:FOLDER/FILE:ID``, in the order of the file.

    In addition to the picture's own properties (``id``, ``file_name``, ``width`` …), a sample has:
    ``image``, the bytes of its file, which must be below the folder of the annotations;
    ``boxes``, x, y, width and height of each annotation in pixels, flattened; ``category_ids``;
    ``classes``, the categories as indexes into the file's categories, ordered by id; and
    ``names``, the categories' names, as JSON text. The annotations are read into memory whole.
    Raises `ImportFileError` for annotations of pictures or categories that are not in the file.
    """
    try:
        pictures, categories, boxes = _parse(path)
    except ValueError as error:
        raise ImportFileError(str(error), file=str(path)) from None
    paths = {mapping.get(name, name) for name in features}
    for number, picture in enumerate(pictures, 1):
        try:
            fields = {**picture, **_fields(boxes.get(picture["id"], []), categories)}
            # Files that no feature needs are not read, and may be missing.
            content = _image(path.parent, picture) if "image" in paths else b""
            values = select_values(features, mapping, {**fields, "image": content})
            row_key = (
                f"coco:{path.resolve().parent.name}/{path.stem}:{picture['id']}"
                if key is None
                else as_key(value_at(fields, key), key)
            )
        except InvalidSampleError as error:
            raise ImportFileError(
                f"image {picture['id']}: {error.reason}",
                file=str(path),
                line=number,
                feature=error.feature,
                unit="image",
            ) from None
        except ValueError as error:
            raise ImportFileError(
                f"image {picture['id']}: {error}", file=str(path), line=number, unit="image"
            ) from None
        yield FileRow(number, values, row_key, content)


Boxes = dict[int, list[dict[str, Any]]]


def _parse(path: Path) -> tuple[list[dict[str, Any]], dict[int, str], Boxes]:
    """Return the pictures, the categories' names by id, and the annotations by picture id."""
    # Whole: the pictures, categories and annotations may be in any order in the file.
    parsed = parse_json(decode(path.read_bytes().removeprefix(b"\xef\xbb\xbf")))
    if not isinstance(parsed, dict) or not isinstance(parsed.get("images"), list):
        raise ValueError("not COCO: an object with 'images' and 'annotations'")  # noqa: TRY004
    pictures = _objects(parsed, "images")
    categories = {each["id"]: str(each.get("name")) for each in _objects(parsed, "categories")}
    boxes: Boxes = {}
    for annotation in _objects(parsed, "annotations"):
        boxes.setdefault(_whole(annotation, "image_id"), []).append(annotation)
    if unknown := sorted(boxes.keys() - {picture["id"] for picture in pictures}):
        ids = ", ".join(map(str, unknown[:_SHOWN])) + (" …" if unknown[_SHOWN:] else "")
        first = boxes[unknown[0]][0]["id"]
        raise ValueError(
            f"annotations of images that are not there: {ids} (the first is annotation {first})"
        )
    # Sorted by id: the class indexes must not depend on the order in the file.
    return pictures, dict(sorted(categories.items())), boxes


def _objects(parsed: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return a list of objects; raises `ValueError` for an id that is missing or not unique."""
    objects = parsed.get(name, [])
    if not isinstance(objects, list) or not all(isinstance(each, dict) for each in objects):
        raise ValueError(f"{name!r} is not a list of objects")
    ids: set[int] = set()
    for each in objects:
        number = _whole(each, "id", name)
        # A picture with the id of another would take its boxes.
        if number in ids:
            raise ValueError(f"{name!r} has id {number} twice")
        ids.add(number)
    return objects


def _whole(parsed: Mapping[str, Any], name: str, list_name: str = "annotations") -> int:
    number = parsed.get(name)
    # In Python, bool is a subclass of int: True would be the id 1.
    if isinstance(number, bool) or not isinstance(number, int):
        value = excerpt(number) if isinstance(number, str) else type(number).__name__
        raise ValueError(f"{list_name!r}: {name!r} is a whole number, not {value}")  # noqa: TRY004
    return number


def _fields(annotations: list[dict[str, Any]], categories: Mapping[int, str]) -> dict[str, Any]:
    indexes = {number: index for index, number in enumerate(categories)}
    numbers = [_whole(each, "category_id") for each in annotations]
    for number, each in zip(numbers, annotations, strict=True):
        if number not in categories:
            raise ValueError(f"annotation {each['id']} has category {number}, which is not there")
    return {
        "boxes": [side for each in annotations for side in _box(each)],
        "category_ids": numbers,
        "classes": [indexes[number] for number in numbers],
        "names": [categories[number] for number in numbers],
    }


def _box(annotation: Mapping[str, Any]) -> list[float]:
    box = annotation.get("bbox")
    if not isinstance(box, list) or not _is_box(box):
        raise ValueError(
            f"the 'bbox' of annotation {annotation['id']} is not x, y, width and height in pixels"
        )
    return [float(side) for side in box]


def _is_box(sides: list[Any]) -> bool:
    return len(sides) == 4 and all(map(_is_number, sides)) and min(sides[2:]) >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _image(folder: Path, picture: Mapping[str, Any]) -> bytes:
    name = picture.get("file_name")
    if not isinstance(name, str):
        raise ValueError("'file_name' is not text")  # noqa: TRY004
    # The same file must be found on every machine to which the folder is copied.
    if "://" in name or name.startswith("/"):
        raise ValueError(
            f"{excerpt(media.safe(name))} is not read; 'file_name' counts from the folder of the "
            "file"
        )
    return media.read(name, [folder], name)
