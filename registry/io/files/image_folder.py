"""Reading of a folder of images, in a folder per class: ``cats/1.png``, ``dogs/big/7.png``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from registry.errors import ImportFileError
from registry.io.row import FieldMapping, FileRow, optional
from registry.samples.features import LARGEST_RECORD, ClassLabel, Feature, Features, Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp")
_FIELDS = ("image", "class", "path")
"""The fields of a file: its bytes, the name of its outermost folder, its relative path."""


def read(
    path: Path, features: Features, key: str | None, mapping: FieldMapping
) -> Iterator[FileRow]:
    """Yield the folder's images in the order of their paths.

    Keys are the paths, beginning with the folder's own name, so that images of two folders have
    different keys. Paths in keys are separated by ``/`` on every system.

    Files without the suffix of an image, and names that begin with a dot, are skipped. A symbolic
    link is followed only to a file within the folder; any other raises `ImportFileError`.
    """
    if key not in (None, "path"):
        raise ImportFileError("images are known by their paths; leave --key out", file=str(path))
    fields = _fields(path, features, mapping)
    # The name of the path ``.`` is empty; that of the folder it stands for is not.
    folder = path.resolve().name
    for number, file in enumerate(walk(path), start=1):
        # Relative: the key must be the same wherever the folder is.
        relative = file.relative_to(path)
        content = read_file(file)
        parts: dict[str, Any] = {"image": content, "path": relative.as_posix()}
        if len(relative.parts) > 1:
            parts["class"] = relative.parts[0]
        values = {}
        for name, field in fields.items():
            if field not in parts:
                reason = "it lies in no class's folder"
                raise ImportFileError(reason, file=str(file), feature=name)
            values[name] = _value(file, name, features[name], parts[field])
        yield FileRow(number, values, f"{folder}/{relative.as_posix()}", content)


def total_size(path: Path) -> int:
    """Return the bytes of the folder's images, with one more for each, as `batches` counts them."""
    return sum(file.stat().st_size + 1 for file in walk(path))


def walk(folder: Path) -> Iterator[Path]:
    """Yield the image files of a folder and its subfolders, each folder sorted by name."""
    if not folder.is_dir():
        raise ImportFileError("images come as a folder of them", file=str(folder))
    root = folder.resolve()
    pending = [folder]
    while pending:
        path = pending.pop()
        if path != folder and not path.is_dir():
            yield path
            continue
        with os.scandir(path) as entries:
            # Reversed, as `pop` takes the last. `scandir` returns entries in the order of the file
            # system, which would differ between machines.
            ordered = sorted(entries, key=lambda entry: entry.name, reverse=True)
        pending += [path / entry.name for entry in ordered if _is_wanted(entry, root)]


def _is_wanted(entry: os.DirEntry[str], root: Path) -> bool:
    if entry.name.startswith("."):
        return False
    has_suffix = entry.name.lower().endswith(SUFFIXES)
    if not entry.is_symlink():
        # A pipe or a device: reading it might block, or never end.
        if has_suffix and not entry.is_dir() and not entry.is_file():
            raise ImportFileError("it is no file that can be read to its end", file=entry.path)
        return has_suffix or entry.is_dir()
    # A link to a folder is refused: it might lead to a parent, and the walk would not end.
    if has_suffix or entry.is_dir():
        target = Path(entry.path).resolve()
        if not target.is_relative_to(root) or not target.is_file():
            reason = f"it is a link to {target}; links are followed to files in the folder only"
            raise ImportFileError(reason, file=entry.path)
    return has_suffix


def _fields(path: Path, features: Features, mapping: FieldMapping) -> dict[str, str]:
    """Return the field of each feature's value: one of `_FIELDS`; `optional` ones have none."""
    fields = dict(mapping)
    may_lack = optional(features, mapping)
    if not fields:
        by_type = {Image: "image", ClassLabel: "class"}
        fields = {name: by_type.get(type(feature), "") for name, feature in features.items()}
        if sorted(fields.values()) != ["class", "image"]:
            fields = {name: field for name, field in fields.items() if name not in may_lack}
        if sorted(fields.values()) != ["class", "image"]:
            raise ImportFileError(
                "images by class fit a dataset of one Image and one ClassLabel; for another say "
                "what goes where, as in --map photo=image --map kind=class --map name=path",
                file=str(path),
            )
    for name in features:
        if name not in fields and name in may_lack:
            continue
        if fields.get(name) not in _FIELDS:
            problem = f"{fields[name]!r} is nothing in a folder" if name in fields else "not mapped"
            reason = f"{problem}; map it to {', '.join(_FIELDS)}"
            raise ImportFileError(reason, file=str(path), feature=name)
    return fields


def read_file(file: Path) -> bytes:
    """Return a file's content; raises `ImportFileError` if it is larger than a record."""
    # Checked before the file is read, which would take as much memory as the file is long.
    if (size := file.stat().st_size) > LARGEST_RECORD:
        reason = f"it has {size:,} bytes; at most {LARGEST_RECORD:,} fit in a record"
        raise ImportFileError(reason, file=str(file))
    return file.read_bytes()


def _value(file: Path, name: str, feature: Feature, value: Any) -> Any:
    # Only classes without names need conversion; the codec finds the index of a name.
    if not isinstance(feature, ClassLabel) or feature.names is not None:
        return value
    # `int` would accept " 1", "1_0" and digits of other scripts.
    if not (isinstance(value, str) and value.isascii() and value.isdecimal()):
        reason = f"{value!r} is no class: the feature has no names, so folders are named by index"
        raise ImportFileError(reason, file=str(file), feature=name)
    return int(value)
