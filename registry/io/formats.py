"""The file formats that can be imported, by name.

A format's module is imported when a file of that format is read. Thus a format whose libraries
are not installed does not prevent the import of other formats.
"""

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
    """How to load a format's reader, and the suffixes of its files, in lower case.

    ``unit`` is the word for one row in messages. ``extra`` is the extra of this package that
    installs the libraries of the format. ``sized`` says whether the sizes of the rows add up to
    the size of the file, so that progress can be shown as a share of it.
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
    # Imported by name, when the format is used: the libraries of some formats are extras, and the
    # modules of labeling tools import modules of `registry.io`, which would make a circle.
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
"""The formats by name.

A Label Studio export is not one of them: it retracts samples, too, and is compared with earlier
events. `registry.io.labeling.label_studio.export` imports it.
"""


def find(path: Path, name: str | None = None) -> Found:
    """Return the format called ``name`` or, without a name, the format of the file's suffix.

    A folder is read as a folder of images. Raises `ImportFileError` if there is no such format,
    or if an extra that it needs is not installed.
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
        # Without an extra, the missing module is a defect of the installation, not a choice.
        if form.extra is None:
            raise
        raise ImportFileError(
            f"{chosen} files need {error.name}; run: pip install 'registry[{form.extra}]'",
            file=str(path),
        ) from None


def _by_suffix(path: Path) -> str:
    if path.is_dir():
        return "images"
    # The last two suffixes: of ``digits.jsonl.gz``, the format is that of ``.jsonl``.
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
