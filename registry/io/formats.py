"""The formats that files can have, by name: each a module, loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from registry.errors import ImportFileError
from registry.io.row import Reader


@dataclass(frozen=True)
class Format:
    """Where a format's reader is, and what ends the names of its files.

    ``unit`` is what its rows are counted in, ``extra`` the extra that brings what it needs, and
    ``sized`` says whether rows come to as many bytes as the file has.
    """

    find: Callable[[], Reader]
    suffixes: tuple[str, ...] = ()
    unit: str = "line"
    extra: str | None = None
    sized: bool = False


class Found(NamedTuple):
    """A file's format and its reader."""

    form: Format
    read: Reader


def _module(name: str) -> Reader:
    # Each format loads its libraries, some of which are extras.
    read: Reader = import_module(f"registry.io.{name}").read
    return read


FORMATS = {
    "jsonl": Format(partial(_module, "files.jsonl"), (".jsonl", ".ndjson"), sized=True),
    "csv": Format(partial(_module, "files.csv"), (".csv",), sized=True),
    "parquet": Format(
        partial(_module, "files.parquet"), (".parquet",), unit="row", extra="parquet"
    ),
    "images": Format(partial(_module, "files.image_folder"), unit="file", sized=True),
    "npz": Format(partial(_module, "files.npz"), (".npz",), unit="row"),
    "tfrecord": Format(
        partial(_module, "files.tfrecord"),
        (".tfrecord", ".tfrecords"),
        unit="record",
        extra="tfrecord",
        sized=True,
    ),
    "coco": Format(partial(_module, "labeling.coco"), unit="image"),
    "prodigy": Format(partial(_module, "labeling.prodigy")),
    "doccano": Format(partial(_module, "labeling.doccano")),
}
"""A Label Studio export is none of these: it retracts samples, too (`label_studio/export.py`)."""


def find(path: Path, name: str | None = None) -> Found:
    """Return the format of this name or, without one, the format that the file's suffix says.

    A folder is one of images. Raises `ImportFileError` where there is none, or where an extra
    that it needs is not installed.
    """
    chosen = name or _by_suffix(path)
    if chosen not in FORMATS:
        raise ImportFileError(
            f"no format is named {chosen!r}; choose one of {', '.join(FORMATS)}", file=str(path)
        )
    form = FORMATS[chosen]
    try:
        return Found(form, form.find())
    except ImportError as error:
        if form.extra is None:
            raise
        raise ImportFileError(
            f"{chosen} files need {error.name}; run: pip install 'registry[{form.extra}]'",
            file=str(path),
        ) from None


def _by_suffix(path: Path) -> str:
    if path.is_dir():
        return "images"
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    by_suffix = {suffix: name for name, form in FORMATS.items() for suffix in form.suffixes}
    if last not in by_suffix:
        said = f"suffix {path.suffix!r} names no known format" if last else "no suffix"
        known = ", ".join(by_suffix)
        raise ImportFileError(f"{said}; files can be {known}, or say --format", file=str(path))
    return by_suffix[last]
