"""YOLO: a folder of images, and of a text file for each image with a box on each line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from registry.errors import ImportFileError
from registry.io.detection.annotated_image import AnnotatedImage, Sampler
from registry.io.detection.yolo_folder import PartImage, YoloFolder, open_folder
from registry.io.files.image_folder import read_file
from registry.io.files.lines import decode, lines
from registry.io.labeling.boxes import SLACK, BoxError, Size, corners_of, hull
from registry.io.row import FieldMapping, FileRow
from registry.samples.features import Features
from registry.samples.json_codec import excerpt

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|[+-]?inf", re.ASCII | re.IGNORECASE)
_WHOLE = Size(1, 1)


class _Label(NamedTuple):
    """A line of a file of labels; ``keypoints`` has the values of all of its keypoints."""

    line: int
    class_index: int
    box: Sequence[float]
    keypoints: Sequence[float]


def read(
    path: Path,
    features: Features,
    key: str | None,
    mapping: FieldMapping,
    *,
    boxes: str = "rel_xyxy",
    rotated: str = "refuse",
    part: Sequence[str] = (),
    group: str | None = None,
) -> Iterator[FileRow]:
    """Yield a sample per image, with the key ``yolo:FOLDER/images/train/1.jpg``.

    ``path`` is the dataset's folder or its ``data.yaml``. A sample has: ``image``, the bytes of
    the file; ``boxes``, of shape (n, 4), in the format ``boxes``; ``classes``, the indexes of the
    classes; ``names``, their names, as JSON text; ``keypoints``; ``path``, that of the image, and
    ``folder``, its folder's; and ``part``, the part of the dataset (``train``, ``val``, ``test``).
    The argument ``part`` selects some parts.

    An image without labels, or with an empty file of them, has no boxes. ``rotated`` is "refuse",
    or "hull" for the upright box around a label of four corners. Raises `ImportFileError` with the
    file and the line.
    """
    dataset = open_folder(path)
    sampler = Sampler(path, features, key, mapping, boxes, group)
    # The name of the path ``.`` is empty; that of the folder it stands for is not.
    folder, number = dataset.root.resolve().name, 0
    for number, image in enumerate(dataset.images(part), 1):
        key = f"yolo:{folder}/{image.file.relative_to(dataset.root).as_posix()}"
        labels = partial(_labels, hulls=rotated == "hull", boxed=sampler.boxed)
        parse = partial(_annotated, dataset, image, number, key, labels)
        yield sampler.read(number, key, parse)
    # Label Studio's plain YOLO export has labels alone: nothing would be imported, silently.
    if not number:
        reason = "it has no images; export YOLO with images, or copy them into images/"
        raise ImportFileError(reason, file=str(path))


class _LabelBoxError(ValueError):
    """A label whose box is wrong, and not its class."""


def _annotated(
    dataset: YoloFolder,
    image: PartImage,
    number: int,
    key: str,
    labels_of: Callable[[YoloFolder, Path], Iterator[_Label]],
) -> AnnotatedImage:
    path = image.file.relative_to(dataset.root)
    labels = [*labels_of(dataset, dataset.labels_of(image.file))]
    return AnnotatedImage(
        number,
        key,
        path.as_posix(),
        [label.box for label in labels],
        "rel_xyxy",
        [f"line {label.line}" for label in labels],
        None,
        partial(read_file, image.file),
        {
            "path": path.as_posix(),
            "folder": path.parent.as_posix(),
            "part": image.part,
            "classes": [label.class_index for label in labels],
            "names": [dataset.names[label.class_index] for label in labels],
            "keypoints": [label.keypoints for label in labels],
        },
    )


def _labels(dataset: YoloFolder, file: Path, *, hulls: bool, boxed: str | None) -> Iterator[_Label]:
    """Yield the labels of an image; none if their file is not there, as for a background."""
    if not file.is_file():
        return
    # A link would lead out of the folder.
    if not file.resolve().is_relative_to(dataset.root.resolve()):
        raise ImportFileError("it is a link out of the dataset's folder", file=str(file))
    for number, line in lines(file):
        try:
            columns = decode(line).split()
            if columns:
                yield _label(number, columns, dataset, hulls=hulls)
        except ValueError as error:
            feature = boxed if isinstance(error, _LabelBoxError) else None
            raise ImportFileError(
                str(error), file=str(file), line=number, feature=feature
            ) from None


def _label(line: int, columns: Sequence[str], dataset: YoloFolder, *, hulls: bool) -> _Label:
    index = _class_index(columns[0], dataset.names)
    numbers = [_number(each) for each in columns[1:]]
    count, values = dataset.keypoints
    is_pose = count > 0 and len(numbers) == 4 + count * values
    is_polygon = len(numbers) >= 6 and len(numbers) % 2 == 0 and not is_pose
    if not is_polygon and not is_pose and len(numbers) != 4:
        raise _LabelBoxError(
            f"{len(columns)} columns; a box has 5: the class, then x and y of its center, width "
            "and height as shares of the image"
        )
    shares = numbers if is_polygon else numbers[:4]
    for share in shares:
        # A number of pixels, as in the formats of other tools, or one that is not finite.
        if not -SLACK <= share <= 1 + SLACK:
            raise _LabelBoxError(
                f"{share:g} is outside of 0 to 1; a label is in shares of the image"
            )
    box = _hull(shares, hulls=hulls) if is_polygon else _clipped(shares)
    return _Label(line, index, box, numbers[4:])


def _hull(shares: Sequence[float], *, hulls: bool) -> Sequence[float]:
    """Return the box around a polygon; one of four corners may be a rotated box."""
    if len(shares) == 8 and not hulls:
        raise _LabelBoxError(
            "9 columns are the four corners of a rotated box, or of a polygon; take its hull with "
            "--rotated hull"
        )
    return _checked(hull(np.reshape(shares, (-1, 2)), _WHOLE), shares)


def _clipped(shares: Sequence[float]) -> Sequence[float]:
    """Return the part of a box that is in the image: its center may be near the image's edge."""
    x, y, width, height = shares
    points = [[x - width / 2, y - height / 2], [x + width / 2, y + height / 2]]
    return _checked(hull(points, _WHOLE) if min(width, height) > 0 else [0, 0, 0, 0], shares)


def _checked(corners: Sequence[float], shares: Sequence[float]) -> Sequence[float]:
    try:
        corners_of([corners], "rel_xyxy", None)
    except BoxError:
        shown = ", ".join(f"{share:g}" for share in shares[:8])
        raise _LabelBoxError(f"the box ({shown}) has no area within the image") from None
    return corners


def _class_index(text: str, names: Sequence[str]) -> int:
    number = _number(text)
    if not number.is_integer() or not 0 <= number < len(names):
        raise ValueError(
            f"class {excerpt(text)} is none of the {len(names)} classes, which count from 0"
        )
    return int(number)


def _number(text: str) -> float:
    # `float` would accept 1_000, and digits of other scripts.
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"{excerpt(text)} is no number")
    return float(text)
