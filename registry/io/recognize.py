"""Recognition of a format by content, where the suffix does not say which one it is.

Only the beginning of a file, or the names in a folder and one of its files, are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from registry.errors import ImportFileError
from registry.io.detection.voc import is_voc
from registry.io.detection.yolo_folder import is_yolo
from registry.io.files.json_array import elements
from registry.io.files.lines import beginning

LABEL_STUDIO = "label-studio"
_BEGINNING = 1 << 18
_LISTED = 1000
"""Names of a folder that are looked at."""
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"(\s*:)?|[{}\[\]]', re.DOTALL)
_ROOT = re.compile(rb"<(?![?!])(?:\w+:)?(\w+)")
_XML_ROOTS = {b"annotations": "cvat", b"annotation": "voc"}
_DOCCANO_LABELS = ("label", "labels", "entities", "cats", "bbox", "segmentation")


def recognize(path: Path) -> str:
    """Return the name of the format of a folder, or of a ``.json``, ``.xml`` or ``.zip`` file.

    Raises `ImportFileError`, with the formats that it could be, and `OSError`.
    """
    if path.is_dir():
        return _folder_format(path)
    return {".json": _json_format, ".xml": _xml_format, ".zip": _zip_format}[_suffix(path)](path)


def is_recognized(path: Path) -> bool:
    """Return whether the format of this path is known by its content and not by its suffix."""
    return path.is_dir() or _suffix(path) in (".json", ".xml", ".zip")


def _suffix(path: Path) -> str:
    return path.suffix.lower()


def _json_format(path: Path) -> str:
    start = beginning(path, _BEGINNING)
    if start.lstrip()[:1] != b"{":
        # One element: its size is limited, and a file that is no array is reported with its line.
        for element in islice(elements(path), 1):
            return _element_format(element.value)
        return "json"
    if _is_json_lines(start):
        raise ImportFileError("it looks like JSON Lines: say --format jsonl", file=str(path))
    names = [*_names(start.decode(errors="replace"))]
    known = {*names}
    if "shapes" in known and known & {"imagePath", "imageData", "imageHeight", "version"}:
        return "labelme"
    if "annotations" in known and known & {"images", "categories", "info", "licenses"}:
        return "coco"
    if "annotations" in known and b'"image_id"' in start:
        return "coco"
    if known & {"annotations", "annotation_id"}:
        return _element_format({name: [] for name in names})
    has = ", ".join(map(repr, [*dict.fromkeys(names)][:5])) or "no properties"
    raise ImportFileError(
        f"an object with {has} is not recognized: COCO has 'images' and 'annotations', and LabelMe "
        "'shapes'; Label Studio, Argilla, doccano and plain samples are arrays. Say --format",
        file=str(path),
    )


def _element_format(element: Any) -> str:
    """Return the format of an array by one of its elements."""
    if not isinstance(element, Mapping):
        return "json"
    names = element.keys()
    if {"data", "annotations"} <= names or {"annotation_id", "annotator"} <= names:
        return LABEL_STUDIO
    if {"fields", "responses"} <= names:
        return "argilla"
    if {"_input_hash", "_task_hash"} <= names:
        return "prodigy"
    labels = [element[name] for name in _DOCCANO_LABELS if name in names]
    # doccano's labels are lists even where there is one; plain samples have no comments.
    if "id" in names and labels and all(isinstance(each, list) for each in labels):
        is_text = "text" in names and ("Comments" in names or _are_doccanos(labels))
        if is_text or {"filename", "Comments"} <= names:
            return "doccano"
    return "json"


def _are_doccanos(labels: list[list[Any]]) -> bool:
    """Return whether these are names, spans with names, or objects with offsets."""
    return all(
        isinstance(each, str)
        or (isinstance(each, list) and len(each) == 3 and isinstance(each[2], str))
        or (isinstance(each, Mapping) and "start_offset" in each)
        for label in labels
        for each in label
    ) and any(labels)


def _is_json_lines(start: bytes) -> bool:
    """Return whether a text begins with a line that is one object, and a second one."""
    first, _, rest = start.lstrip().partition(b"\n")
    if rest.lstrip()[:1] != b"{":
        return False
    try:
        return isinstance(json.loads(first), dict)
    except ValueError:
        return False


def _names(text: str) -> Iterator[str]:
    """Yield the names of the properties of the object that begins a text, as far as it goes."""
    depth = 0
    for token in _TOKEN.finditer(text):
        match token[0][0]:
            case "{" | "[":
                depth += 1
            case "}" | "]":
                depth -= 1
            case _ if depth == 1 and token[1]:
                yield token[0][: -len(token[1])][1:-1]


def _xml_format(path: Path) -> str:
    root = _ROOT.search(re.sub(rb"(?s)<!--.*?-->", b"", beginning(path, _BEGINNING)))
    if root is None or root[1] not in _XML_ROOTS:
        given = f"a root element <{root[1].decode()}>" if root else "no root element"
        raise ImportFileError(
            f"{given}: CVAT's XML has <annotations>, and Pascal VOC's <annotation>", file=str(path)
        )
    return _XML_ROOTS[root[1]]


def _zip_format(path: Path) -> str:
    try:
        with ZipFile(path) as archive:
            names = archive.namelist()
    except BadZipFile as error:
        raise ImportFileError(f"no zip archive ({error})", file=str(path)) from None
    if "annotations.xml" in names:
        return "cvat"
    raise ImportFileError(
        "a zip archive without annotations.xml, which CVAT for images has; unpack another one, and "
        "import the folder",
        file=str(path),
    )


def _folder_format(path: Path) -> str:
    """Return the format of a folder; one without the files of another format is one of images."""
    if is_yolo(path):
        return "yolo"
    if is_voc(path):
        return "voc"
    files = [*islice((each for each in path.rglob("*") if each.name[:1] != "."), _LISTED)]
    if not files:
        raise ImportFileError("the folder is empty", file=str(path))
    by_suffix: dict[str, Path] = {}
    for each in files:
        by_suffix.setdefault(_suffix(each), each)
    if ".parquet" in by_suffix:
        return "parquet"
    for suffix, formats in ((".json", ("labelme", "coco")), (".xml", ("cvat", "voc"))):
        if suffix in by_suffix:
            try:
                chosen = recognize(by_suffix[suffix])
            except (ImportFileError, OSError):
                continue
            if chosen in formats:
                return chosen
    return "images"
