"""Search for the image files that annotations name, in the folders of the usual layouts.

Tools write the names of files as they were on their server: with the path of its media folder,
quoted as in a URI, or with the separators of Windows. So the name is searched as it is written,
and then its last part alone. A file is read only from below the folders, whatever its name says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from registry.io import media
from registry.samples.json_codec import excerpt


def folders_near(path: Path) -> list[Path]:
    """Return the folders in which the images of an annotation file may be, the likeliest first.

    They are its own folder and the folders of the usual layouts: ``images/`` and, for
    ``annotations/instances_train2017.json``, ``train2017/`` next to ``annotations/``.
    """
    own = path.parent
    # Resolved, as the parent of "." has no name.
    in_annotations = own.resolve().name.lower() == "annotations"
    base = own.resolve().parent if in_annotations else own
    part = path.name.partition(".")[0]
    folders = [own]
    for name in dict.fromkeys([part, part.rpartition("_")[2]]):
        folders += [base / name, base / "images" / name, base / name / "images"]
    folders += [base / "images", base]
    return [each for each in dict.fromkeys(folders) if each.is_dir()]


def read_image(name: str, folders: Sequence[Path], is_unique: Callable[[str], bool]) -> bytes:
    """Return the content of the file of this name below one of the folders.

    ``is_unique`` says whether the last part of the name is that of no other image: otherwise it is
    not searched alone. Raises `ValueError`.
    """
    for path in _paths(name, is_unique):
        if (content := media.read_below(path, folders, name)) is not None:
            return content
    shown, allowed = excerpt(media.safe(name)), ", ".join(map(str, folders))
    raise ValueError(f"{shown} is no file below {allowed}; name the images' folder with --root")


def last_part(name: str) -> str:
    """Return the last part of the name of a file, unquoted."""
    return next(reversed([*_spellings(name)])).rpartition("/")[2]


def is_uri(name: str) -> bool:
    """Return whether a name is a URI that could be fetched."""
    return "://" in name and not name.lower().startswith("file:")


def _paths(name: str, is_unique: Callable[[str], bool]) -> Iterator[str]:
    spellings = [] if "://" in name else [*_spellings(name)]
    yield from spellings
    # The same name may be in two folders of the tool's server, and be two images.
    if (last := last_part(name)) not in ("", *spellings) and is_unique(last):
        yield last


def _spellings(name: str) -> Iterator[str]:
    text = name.replace("\\", "/")
    yield text
    # Label Studio's path of a local file.
    if files := parse_qs(urlsplit(text).query).get("d") if "?d=" in text else None:
        yield files[0]
        return
    unquoted = unquote(text.partition("?")[0] if "://" in text else text)
    if unquoted != text:
        yield unquoted
