"""Reading of a folder of images, in a folder per class: ``cats/1.png``, ``dogs/big/7.png``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from registry.errors import ImportFileError
from registry.io.row import Mapped, Row
from registry.samples.features import LARGEST_RECORD, ClassLabel, Feature, Features, Image

SUFFIXES = (".png", ".jpg", ".jpeg")
_PLACES = ("image", "class", "path")
"""Places for a mapping: the file's bytes, the name of its outermost folder, its relative path."""


def read(path: Path, features: Features, key: str | None, mapped: Mapped) -> Iterator[Row]:
    """Yield the folder's images in the order of their paths.

    Keys are the paths, beginning with the folder's own name, so that images of two folders have
    different keys. Paths in keys are separated by ``/`` on every system.

    Files without the suffix of an image, and names that begin with a dot, are skipped. A symbolic
    link is followed only to a file within the folder; any other raises `ImportFileError`.
    """
    if key not in (None, "path"):
        raise ImportFileError("images are known by their paths; leave --key out", file=str(path))
    places = _places(path, features, mapped)
    # The name of the path ``.`` is empty; that of the folder it stands for is not.
    folder = path.resolve().name
    for number, file in enumerate(walk(path), start=1):
        relative = file.relative_to(path)
        content = _content(file)
        found: dict[str, Any] = {"image": content, "path": relative.as_posix()}
        if len(relative.parts) > 1:
            found["class"] = relative.parts[0]
        values = {}
        for name, place in places.items():
            if place not in found:
                reason = "it lies in no class's folder"
                raise ImportFileError(reason, file=str(file), feature=name)
            values[name] = _value(file, name, features[name], found[place])
        yield Row(number, values, f"{folder}/{relative.as_posix()}", content)


def extent(path: Path) -> int:
    """Return the bytes of the folder's images, with one more for each, as `batches` counts them."""
    return sum(file.stat().st_size + 1 for file in walk(path))


def walk(folder: Path) -> Iterator[Path]:
    """Yield the image files of a folder and its subfolders, each folder sorted by name."""
    if not folder.is_dir():
        raise ImportFileError("images come as a folder of them", file=str(folder))
    root = folder.resolve()
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        if place != folder and not place.is_dir():
            yield place
            continue
        with os.scandir(place) as entries:
            # Reversed, as `pop` takes the last. `scandir` returns entries in the order of the file
            # system, which would differ between machines.
            found = sorted(entries, key=lambda entry: entry.name, reverse=True)
        waiting += [place / entry.name for entry in found if _wanted(entry, root)]


def _wanted(entry: os.DirEntry[str], root: Path) -> bool:
    if entry.name.startswith("."):
        return False
    named = entry.name.lower().endswith(SUFFIXES)
    if not entry.is_symlink():
        # A pipe or a device: reading it might block, or never end.
        if named and not entry.is_dir() and not entry.is_file():
            raise ImportFileError("it is no file that can be read to its end", file=entry.path)
        return named or entry.is_dir()
    # A link to a folder is refused: it might lead to a parent, and the walk would not end.
    if named or entry.is_dir():
        target = Path(entry.path).resolve()
        if not target.is_relative_to(root) or not target.is_file():
            reason = f"it is a link to {target}; links are followed to files in the folder only"
            raise ImportFileError(reason, file=entry.path)
    return named


def _places(path: Path, features: Features, mapped: Mapped) -> dict[str, str]:
    """Return the place of each feature's value: one of `_PLACES`."""
    found = dict(mapped)
    if not found:
        kinds = {Image: "image", ClassLabel: "class"}
        found = {name: kinds.get(type(feature), "") for name, feature in features.items()}
        if sorted(found.values()) != ["class", "image"]:
            raise ImportFileError(
                "images by class fit a dataset of one Image and one ClassLabel; for another say "
                "what goes where, as in --map photo=image --map kind=class --map name=path",
                file=str(path),
            )
    for name in features:
        if found.get(name) not in _PLACES:
            said = f"{found[name]!r} is nothing in a folder" if name in found else "not mapped"
            reason = f"{said}; map it to {', '.join(_PLACES)}"
            raise ImportFileError(reason, file=str(path), feature=name)
    return found


def _content(file: Path) -> bytes:
    if (size := file.stat().st_size) > LARGEST_RECORD:
        reason = f"it has {size:,} bytes; at most {LARGEST_RECORD:,} fit in a record"
        raise ImportFileError(reason, file=str(file))
    return file.read_bytes()


def _value(file: Path, name: str, feature: Feature, found: Any) -> Any:
    # Only classes without names need conversion; the codec finds the index of a name.
    if not isinstance(feature, ClassLabel) or feature.names is not None:
        return found
    if not (isinstance(found, str) and found.isascii() and found.isdecimal()):
        reason = f"{found!r} is no class: the feature has no names, so folders are named by index"
        raise ImportFileError(reason, file=str(file), feature=name)
    return int(found)
