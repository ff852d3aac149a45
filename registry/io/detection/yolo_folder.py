"""The layout of a YOLO dataset: its ``data.yaml`` or ``classes.txt``, and its images.

The names are those of Ultralytics: ``train``, ``val`` and ``test`` in a ``data.yaml`` are folders
of images or ``.txt`` lists of them, relative to ``path``. Nothing outside of the dataset's folder
is read, whatever the file says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from registry.errors import ImportFileError
from registry.io.files.image_folder import walk
from registry.io.files.lines import decode, lines
from registry.samples.json_codec import describe, excerpt

CONFIGS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
CLASSES = "classes.txt"
PARTS = ("train", "val", "test")
_DEEPEST = 16
_LONGEST = 1 << 18
"""Maximum number of bytes of a ``data.yaml`` or ``classes.txt``."""
_MOST_CLASSES = 1 << 16


class PartImage(NamedTuple):
    """The file of an image, and the part of the dataset that lists it; "" without parts."""

    part: str
    file: Path


@dataclass(frozen=True)
class YoloFolder:
    """A YOLO dataset.

    ``names`` are those of the classes by index. ``parts`` has the folders and lists of each part.
    ``keypoints`` is the number of keypoints and of values of each, (0, 0) for boxes alone.
    """

    root: Path
    names: Sequence[str]
    parts: Mapping[str, Sequence[Path]]
    keypoints: tuple[int, int] = (0, 0)

    def images(self, parts: Sequence[str] = ()) -> Iterator[PartImage]:
        """Yield the images of the parts, or of all of them, each once; raises `ImportFileError`."""
        for part in parts:
            if part not in self.parts:
                known = ", ".join(filter(None, self.parts)) or "none"
                reason = f"no part is named {excerpt(part)}; the dataset has {known}"
                raise ImportFileError(reason, file=str(self.root))
        entries = {part: self.parts[part] for part in parts or self.parts}
        # An image may be in several parts. The names are kept only if that is possible.
        is_single = sum(map(len, entries.values())) < 2
        known_files: set[Path] = set()
        for part, paths in entries.items():
            for path in paths:
                for file in _files(path, self.root):
                    if is_single:
                        yield PartImage(part, file)
                    elif file not in known_files:
                        known_files.add(file)
                        yield PartImage(part, file)

    def labels_of(self, image: Path) -> Path:
        """Return the path of an image's labels, which need not be there.

        Of ``images/train/1.jpg``, it is ``labels/train/1.txt``; without ``images`` in its path,
        the labels are next to the image.
        """
        parts = list(image.relative_to(self.root).parts)
        for index in reversed(range(len(parts) - 1)):
            if parts[index] == "images":
                parts[index] = "labels"
                break
        return self.root.joinpath(*parts).with_suffix(".txt")


def is_yolo(folder: Path) -> bool:
    """Return whether a folder is a YOLO dataset."""
    if any((folder / name).is_file() for name in CONFIGS):
        return True
    return (folder / CLASSES).is_file() and (folder / "labels").is_dir()


def open_folder(path: Path) -> YoloFolder:
    """Open a dataset, given its folder or its ``data.yaml``; raises `ImportFileError`."""
    if path.is_file():
        return _configured(path) if path.name != CLASSES else _classes_only(path.parent)
    for name in CONFIGS:
        if (path / name).is_file():
            return _configured(path / name)
    if (path / CLASSES).is_file():
        return _classes_only(path)
    reason = f"no YOLO dataset: it holds neither {CONFIGS[0]} nor {CLASSES}"
    raise ImportFileError(reason, file=str(path))


def _classes_only(root: Path) -> YoloFolder:
    """Return the dataset of Label Studio's export, or of a folder of images and labels."""
    file = root / CLASSES
    names = [line.strip() for line in _text(file).splitlines()]
    while names and not names[-1]:
        names.pop()
    if not names or not all(names):
        raise ImportFileError("it lists the name of a class on each line", file=str(file))
    images = root / "images"
    return YoloFolder(root, names, {"": [images if images.is_dir() else root]})


def _configured(file: Path) -> YoloFolder:
    config = _parse(file)
    try:
        names = _names(config)
        parts = _parts(config, file.parent)
        return YoloFolder(file.parent, names, parts, _keypoints(config))
    except ValueError as error:
        raise ImportFileError(str(error), file=str(file)) from None


def _parse(file: Path) -> Mapping[str, Any]:
    import yaml  # noqa: PLC0415  # an extra

    text = _text(file)
    try:
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            # An alias may stand for a value of any size: a few lines for billions of items. And
            # the time that the parser takes grows with the square of the depth.
            if isinstance(event, yaml.AliasEvent) or depth > _DEEPEST:
                what = "aliases (*name) are" if depth <= _DEEPEST else "such deep nesting is"
                raise ImportFileError(f"{what} not accepted", file=str(file))
        config = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = None if mark is None else mark.line + 1
        reason = f"not YAML: {error.problem or error}"
        raise ImportFileError(reason, file=str(file), line=line) from None
    # A date or a number that looks like one and is none raises ValueError.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = f"not YAML ({type(error).__name__})"
        raise ImportFileError(reason, file=str(file)) from None
    if not isinstance(config, dict):
        raise ImportFileError("not a mapping with 'names' and 'train'", file=str(file))
    return config


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(_LONGEST + 1)
    except OSError as error:
        raise ImportFileError(error.strerror or str(error), file=str(file)) from error
    if len(content) > _LONGEST:
        raise ImportFileError(f"it has over {_LONGEST:,} bytes", file=str(file))
    try:
        return decode(content.removeprefix(b"\xef\xbb\xbf"))
    except ValueError as error:
        raise ImportFileError(str(error), file=str(file)) from None


def _names(config: Mapping[str, Any]) -> list[str]:
    names, count = config.get("names"), config.get("nc")
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
            raise ValueError("'names' does not number the classes from 0 without gaps")
        names = [name for _, name in sorted(names.items(), key=lambda item: int(item[0]))]
    if names is None and isinstance(count, int) and _is_count(count):
        names = list(range(count))
    if not isinstance(names, list) or not names or len(names) > _MOST_CLASSES:
        raise ValueError("'names' is a list of the classes' names, or a mapping of their indexes")
    # An unquoted `no` or `1` is no text in YAML.
    if not all(isinstance(name, str | int) for name in names):
        raise ValueError("'names' holds something else than text; quote the names of the classes")
    if count is not None and count != len(names):
        raise ValueError(f"'nc' is {_count_text(count)}, and 'names' has {len(names)} classes")
    return [str(name) for name in names]


def _count_text(count: Any) -> str:
    return str(count) if _is_count(count) else describe(count)


def _is_count(count: Any) -> bool:
    return isinstance(count, int) and not isinstance(count, bool) and 0 < count <= _MOST_CLASSES


def _keypoints(config: Mapping[str, Any]) -> tuple[int, int]:
    shape = config.get("kpt_shape")
    if shape is None:
        return 0, 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(map(_is_count, shape)):
        raise ValueError("'kpt_shape' is the number of keypoints and of values of each, as [17, 3]")
    return shape[0], shape[1]


def _parts(config: Mapping[str, Any], folder: Path) -> dict[str, list[Path]]:
    base = config.get("path")
    if base is not None and not isinstance(base, str):
        raise ValueError(f"'path' is the path of a folder, not {describe(base)}")
    parts: dict[str, list[Path]] = {}
    for part in PARTS:
        entries = config.get(part)
        if not entries:
            continue
        listed = entries if isinstance(entries, list) else [entries]
        if not all(isinstance(each, str) for each in listed):
            raise ValueError(f"{part!r} is a path or a list of paths")
        parts[part] = [_entry(part, each, base, folder) for each in listed]
    if not parts:
        raise ValueError("none of 'train', 'val' and 'test' names images")
    return parts


def _entry(part: str, entry: str, base: str | None, folder: Path) -> Path:
    """Return the folder or list that a part names; raises `ValueError`."""
    root = folder.resolve()
    # `path` is often that of another machine, and Roboflow writes ``../train/images``.
    spellings = [entry, entry.removeprefix("../")]
    candidates = [Path(each, name) for name in spellings for each in (base or ".", ".")]
    outside = False
    for candidate in candidates:
        # A null character, or a link that leads in a circle.
        with suppress(ValueError, OSError, RuntimeError):
            path = (folder / candidate).resolve()
            inside, exists = path.is_relative_to(root), path.is_dir() or path.is_file()
            if inside and exists:
                return folder / path.relative_to(root)
            outside = outside or (exists and not inside)
    if outside:
        raise ValueError(
            f"{part!r} is {excerpt(entry)}, outside of the folder of {CONFIGS[0]}, and is not "
            "read; move the images into it"
        )
    raise ValueError(f"{part!r} is {excerpt(entry)}, which is no folder or list in this folder")


def _files(path: Path, root: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from walk(path)
        return
    for number, line in lines(path):
        try:
            name = decode(line).strip()
            if name:
                yield _listed(name, path, root)
        except ValueError as error:
            raise ImportFileError(str(error), file=str(path), line=number) from None


def _listed(name: str, path: Path, root: Path) -> Path:
    """Return the image that a line of a list names, relative to the list or to the dataset."""
    resolved = root.resolve()
    for folder in (path.parent, root):
        with suppress(ValueError, OSError, RuntimeError):
            file = (folder / name).resolve()
            if file.is_relative_to(resolved) and file.is_file():
                return root / file.relative_to(resolved)
    raise ValueError(f"{excerpt(name)} is no file in the dataset's folder")
