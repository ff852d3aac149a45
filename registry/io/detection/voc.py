"""Pascal VOC: an XML file for each image in ``Annotations/``, the images in ``JPEGImages/``.

The corners of a box are pixels that count from 1, both within the box: a box of one pixel in the
upper left corner is 1, 1, 1, 1. In the other formats it is 0, 0, 1, 1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import ImportFileError
from registry.io.detection.annotated_image import AnnotatedImage, Sampler, import_errors
from registry.io.detection.image_files import last_part, read_image
from registry.io.files.lines import decode, lines
from registry.io.labeling.boxes import Size
from registry.io.row import FieldMapping, FileRow
from registry.samples.features import Features
from registry.samples.json_codec import excerpt

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_LARGEST = 16 << 20
"""Maximum number of bytes of an annotation file."""
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".gif", ".bmp", ".webp")


def read(  # noqa: PLR0913  # options that are all given by name
    path: Path,
    features: Features,
    key: str | None,
    mapping: FieldMapping,
    *,
    boxes: str = "rel_xyxy",
    difficult: str = "keep",
    part: Sequence[str] = (),
    roots: Sequence[Path] = (),
    group: str | None = None,
) -> Iterator[FileRow]:
    """Yield a sample per annotation file, with the key ``voc:FOLDER/NAME``, in their names' order.

    A sample has: ``image``, the bytes of the file; ``boxes``, of shape (n, 4), in the format
    ``boxes``; ``names``, the classes' names, as JSON text, of which ``names.classes[cat,dog]``
    makes indexes; ``difficult`` and ``truncated``, 0 or 1 for each box; ``filename``, ``folder``,
    ``width`` and ``height``.

    ``difficult`` is "keep" or "drop" for boxes that are marked so. ``part`` has names of lists in
    ``ImageSets/Main``. ``path`` is a folder, or one annotation file. Raises `ImportFileError` with
    the file and the object.
    """
    sampler = Sampler(path, features, key, mapping, boxes, group)
    if "classes" in sampler.paths:
        reason = "Pascal VOC numbers no classes; map them by name, as in names.classes[cat,dog]"
        raise ImportFileError(reason, file=str(path), feature="classes")
    base = path if path.is_dir() else path.parent
    base = base.parent if base.name == "Annotations" else base
    annotations = base / "Annotations" if (base / "Annotations").is_dir() else base
    folders = list(roots) or [
        each for each in (base / "JPEGImages", base / "images", annotations) if each.is_dir()
    ]
    folder = base.resolve().name
    names = _names(base, annotations, part) if path.is_dir() else [path.stem]
    for number, name in enumerate(names, 1):
        file = annotations / f"{name}.xml"
        key = f"voc:{folder}/{name}"
        parse = partial(_annotated, file, folders, number, key, keep_difficult=difficult == "keep")
        yield sampler.read(number, key, parse)


def is_voc(folder: Path) -> bool:
    """Return whether a folder is in the layout of Pascal VOC."""
    return (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir()


def _names(path: Path, annotations: Path, parts: Sequence[str]) -> Iterator[str]:
    """Yield the names of the annotation files, without suffix: those of the parts, or all."""
    if not parts:
        with os.scandir(annotations) as entries:
            names = sorted(each.name for each in entries if each.name.lower().endswith(".xml"))
        if not names:
            raise ImportFileError("it holds no annotations, which are .xml files", file=str(path))
        yield from (name[:-4] for name in names if not name.startswith("."))
        return
    known: set[str] = set()
    for part in parts:
        file = path / "ImageSets" / "Main" / f"{part}.txt"
        if "/" in part or not file.is_file():
            raise ImportFileError(f"there is no ImageSets/Main/{part}.txt", file=str(path))
        for number, line in lines(file):
            with import_errors(file, line=number):
                # A list of a class has a second column: 1, -1 or 0.
                name = decode(line).split()[:1]
                if name and ("/" in name[0] or not (annotations / f"{name[0]}.xml").is_file()):
                    raise ValueError(f"there is no annotation of {excerpt(name[0])}")
            yield from (each for each in name if each not in known)
            known.update(name)


def _annotated(
    file: Path, folders: Sequence[Path], number: int, key: str, *, keep_difficult: bool
) -> AnnotatedImage:
    root = _parse(file)
    objects = list(root.iter("object"))
    with import_errors(file):
        marks = {
            mark: [_mark(each, mark, number) for number, each in enumerate(objects, 1)]
            for mark in ("difficult", "truncated")
        }
        kept = [n for n in range(len(objects)) if keep_difficult or not marks["difficult"][n]]
        boxes = [_box(objects[n], n + 1) for n in kept]
        names = [_text(objects[n], "name", f"object {n + 1}") for n in kept]
        filename = root.findtext("filename") or f"{file.stem}.jpg"
        size = _size(root)
    folder = root.findtext("folder") or ""
    fields: dict[str, Any] = {"names": names, "filename": filename, "folder": folder}
    fields |= {mark: [values[n] for n in kept] for mark, values in marks.items()}
    if size is not None:
        fields |= size._asdict()
    return AnnotatedImage(
        number,
        key,
        file.name,
        boxes,
        "xyxy",
        [f"object {n + 1}" for n in kept],
        size,
        lambda: _load(filename, file.stem, folders),
        fields,
    )


def _parse(file: Path) -> Element:
    from defusedxml import ElementTree  # noqa: PLC0415  # an extra
    from defusedxml.common import DefusedXmlException  # noqa: PLC0415  # an extra

    try:
        # Checked before the file is parsed, which takes several times its size of memory.
        if (size := file.stat().st_size) > _LARGEST:
            raise ImportFileError(f"it has {size:,} bytes, over {_LARGEST:,}", file=str(file))
        root: Element = ElementTree.parse(file, forbid_dtd=True).getroot()
    except ElementTree.ParseError as error:
        line, column = error.position
        reason = f"not XML: {str(error).partition(':')[0]} at column {column + 1}"
        raise ImportFileError(reason, file=str(file), line=line) from None
    except DefusedXmlException:
        reason = "a document type or an entity is not accepted; remove the <!DOCTYPE …>"
        raise ImportFileError(reason, file=str(file)) from None
    except (ValueError, LookupError) as error:  # an encoding that is not known
        raise ImportFileError(f"not XML ({error})", file=str(file)) from None
    if root.tag != "annotation":
        reason = f"no annotation of Pascal VOC: its element is {excerpt(root.tag)}"
        raise ImportFileError(reason, file=str(file))
    return root


def _box(element: Element, number: int) -> list[float]:
    box = element.find("bndbox")
    if box is None:
        raise ValueError(f"object {number} has no bndbox")
    left, top, right, bottom = (
        _number(_text(box, corner, f"object {number}"), f"object {number}") for corner in _CORNERS
    )
    # Some tools count from 0: the box of theirs that begins there has no pixel before.
    return [left - 1 if left >= 1 else left, top - 1 if top >= 1 else top, right, bottom]


def _size(root: Element) -> Size | None:
    sides = [root.findtext(f"size/{side}") or "" for side in ("width", "height")]
    if not all(side.strip().isdecimal() and len(side) < 10 for side in sides):
        return None
    size = Size(int(sides[0]), int(sides[1]))
    # Some tools state 0 by 0: the file has the size then.
    return size if min(size) > 0 else None


def _mark(element: Element, name: str, number: int) -> int:
    text = (element.findtext(name) or "0").strip().lower()
    marks = {"0": 0, "1": 1, "false": 0, "true": 1, "unspecified": 0}
    if text not in marks:
        raise ValueError(f"object {number}: {name!r} is 0 or 1, not {excerpt(text)}")
    return marks[text]


def _text(element: Element, name: str, label: str) -> str:
    text = (element.findtext(name) or "").strip()
    if not text:
        raise ValueError(f"{label} has no {name!r}")
    return text


def _number(text: str, label: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{label}: {excerpt(text)} is no number") from None


def _load(filename: str, stem: str, folders: Sequence[Path]) -> bytes:
    # The file may have been renamed or converted since: then the annotation's own name is right.
    names = [last_part(filename), *(f"{stem}{suffix}" for suffix in _SUFFIXES)]
    for name in dict.fromkeys(names):
        try:
            return read_image(name, folders, lambda _: False)
        except ValueError:
            continue
    return read_image(filename, folders, lambda _: False)
