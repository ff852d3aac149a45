"""COCO: images with boxes, in one JSON file in the images' folder, above it, or next to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from registry.errors import ImportFileError
from registry.io import media
from registry.io.detection.annotated_image import AnnotatedImage, Sampler, import_errors
from registry.io.detection.coco_file import CocoFile, CocoImage, whole
from registry.io.detection.image_files import folders_near, is_uri, read_image
from registry.io.labeling.boxes import Size, hull, rotate
from registry.io.row import FieldMapping, FileRow
from registry.samples.features import Features
from registry.samples.json_codec import describe

_SHOWN = 5
_BY_OBJECT = ("segmentation", "keypoints", "area", "iscrowd", "attributes", "score")
"""Properties of annotations that are fields of the image, as a list with a value per object."""


def read(  # noqa: PLR0913  # options that are all given by name
    path: Path,
    features: Features,
    key: str | None,
    mapping: FieldMapping,
    *,
    boxes: str = "rel_xyxy",
    crowd: str = "drop",
    rotated: str = "refuse",
    roots: Sequence[Path] = (),
    group: str | None = None,
) -> Iterator[FileRow]:
    """Yield a sample per image, with the key ``coco:FOLDER/FILE:FILE_NAME``, in the file's order.

    In addition to the image's own properties (``id``, ``file_name``, ``width`` …), a sample has:
    ``image``, the bytes of its file; ``boxes``, of shape (n, 4), in the format ``boxes``;
    ``classes``, the categories as indexes into the file's categories, ordered by id; ``names``,
    the categories' names, as JSON text; ``category_ids``; and the annotations' ``segmentation``,
    ``keypoints``, ``area``, ``iscrowd``, ``attributes`` and ``score``, each a list.

    Images are read from below ``roots`` or, without them, from below the folders of
    `folders_near`. ``crowd`` is "drop" or "keep" for boxes around a crowd of objects. ``rotated``
    is "refuse", or "hull" for the upright box around a rotated one. Raises `ImportFileError`.
    """
    path = _file(path)
    sampler = Sampler(path, features, key, mapping, boxes, group)
    # A mapping may also name the JSON form of a property, or one item of it.
    used = {each.partition(".")[0] for each in sampler.paths}
    dropped = {name for name in ("segmentation", "keypoints") if name not in used}
    folders = list(roots) or folders_near(path)
    prefix = f"coco:{path.resolve().parent.name}/{path.stem}"
    with closing(CocoFile(path, dropped)) as file:
        reader = _Reader(file, folders, prefix, used, crowd == "keep", rotated == "hull")
        for image in file.images():
            key = reader.key_of(image)
            yield sampler.read(image.number, key, partial(reader.annotated, image, key, path))


def _file(path: Path) -> Path:
    """Return the file of annotations in a folder, or the path of a file."""
    if not path.is_dir():
        return path
    files = sorted([*path.glob("*.json"), *path.glob("annotations/*.json")])
    if len(files) != 1:
        names = ", ".join(each.relative_to(path).as_posix() for each in files[:_SHOWN]) or "none"
        reason = f"a folder with one .json file is read, and this one has {names}; name a file"
        raise ImportFileError(reason, file=str(path))
    return files[0]


class _Reader:
    """Reads the images of a file."""

    def __init__(
        self,
        file: CocoFile,
        folders: Sequence[Path],
        prefix: str,
        used: set[str],
        crowd: bool,
        hulls: bool,
    ) -> None:
        self._file = file
        self._folders = folders
        self._prefix = prefix
        self._used = used
        self._crowd = crowd
        self._hulls = hulls
        self._indexes = {number: index for index, number in enumerate(file.categories)}

    def key_of(self, image: CocoImage) -> str:
        name = image.content.get("file_name")
        known = media.safe(name) if isinstance(name, str) else image.content["id"]
        return f"{self._prefix}:{known}"

    def annotated(self, image: CocoImage, key: str, path: Path) -> AnnotatedImage:
        """Return the image of this key; raises `ImportFileError`."""
        label = f"id {image.content['id']}"
        with import_errors(path, line=image.number, unit="image", name=label):
            return self._annotated(image, key, label)

    def _annotated(self, image: CocoImage, key: str, label: str) -> AnnotatedImage:
        content, kept = image.content, image.annotations
        if not self._crowd:
            kept = [each for each in kept if not each.get("iscrowd")]
        name = content.get("file_name")
        if not isinstance(name, str):
            raise ValueError("'file_name' is not text")  # noqa: TRY004
        size = _size(content)
        return AnnotatedImage(
            image.number,
            key,
            label,
            [_box(each, size, hulls=self._hulls) for each in kept] if self._boxed else [],
            "xywh",
            [f"annotation {each['id']}" for each in kept],
            size,
            lambda: self._load(name),
            {**content, **self._fields(kept)},
        )

    @property
    def _boxed(self) -> bool:
        return "boxes" in self._used

    def _load(self, name: str) -> bytes | str:
        try:
            return read_image(name, self._folders, self._file.is_unique)
        except ValueError:
            if not is_uri(name):
                raise
            return name

    def _fields(self, annotations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        categories = self._file.categories
        numbers = [whole(each, "category_id") for each in annotations]
        for number, each in zip(numbers, annotations, strict=True):
            if number not in categories:
                raise ValueError(
                    f"annotation {each['id']} has category {number}, which is not there"
                )
        return {
            "category_ids": numbers,
            "classes": [self._indexes[number] for number in numbers],
            "names": [categories[number] for number in numbers],
            **{
                name: [_property(each, name) for each in annotations]
                for name in _BY_OBJECT
                if name in self._used
            },
        }


def _property(annotation: Mapping[str, Any], name: str) -> Any:
    # A box that the file does not mark is no crowd, as most tools leave the property out.
    if name == "iscrowd":
        return int(bool(annotation.get(name)))
    if name not in annotation:
        raise ValueError(f"annotation {annotation['id']} has no {name!r}")
    return annotation[name]


def _size(content: Mapping[str, Any]) -> Size | None:
    width, height = content.get("width"), content.get("height")
    whole_numbers = all(isinstance(each, int) and each > 0 for each in (width, height))
    return Size(width, height) if whole_numbers else None  # type: ignore[arg-type]  # checked


def _box(annotation: Mapping[str, Any], size: Size | None, *, hulls: bool) -> Sequence[float]:
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(
            f"the 'bbox' of annotation {annotation['id']} is not x, y, width and height in pixels"
        )
    attributes = annotation.get("attributes")
    degrees = attributes.get("rotation") if isinstance(attributes, Mapping) else None
    if not degrees:
        return box
    # CVAT states the box before the rotation.
    if not _is_number(degrees):
        raise ValueError(f"annotation {annotation['id']}: its rotation is {describe(degrees)}")
    if not hulls:
        raise ValueError(
            f"annotation {annotation['id']} is rotated by {degrees:g} degrees, which four numbers "
            "cannot say; take its hull with --rotated hull"
        )
    x, y, width, height = box
    left, top, right, bottom = hull(
        rotate(box, degrees, (x + width / 2, y + height / 2)), within=size
    )
    return [left, top, right - left, bottom - top]


def _is_number(value: Any) -> bool:
    # The limit also excludes infinity and NaN, of which every comparison is false.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
