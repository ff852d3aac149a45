"""The table of file formats: how each is recognized, read and, if it can be exported, written.

The modules of two formats need libraries that are extras of this package. They are imported when a
file of that format is used. So a format whose libraries are not installed does not prevent the use
of the others, and `import registry` loads none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from registry.catalog.live_samples import Samples
from registry.distribution import install_extra
from registry.errors import ExportFileError, ImportFileError
from registry.io.detection import coco, cvat, labelme, voc, yolo
from registry.io.files import csv, image_folder, jsonl, npz, webdataset
from registry.io.labeling import argilla_export, conll, doccano, prodigy
from registry.io.recognize import LABEL_STUDIO, is_recognized, recognize
from registry.io.row import FileRow, Reader

Write = Callable[[Samples], None]
"""Appends samples to a file."""
Writer = Callable[..., AbstractContextManager[Write]]
"""Opens a new file, given its path, the features and the name under which keys are written.

A format with the option ``group`` is also given the name under which groups are written.
"""


class _Functions(NamedTuple):
    """What the module of a format provides; ``writer`` is None if it cannot be exported.

    ``read`` is a `Reader` that also accepts the format's options, by their names.
    """

    read: Callable[..., Iterator[FileRow]]
    writer: Writer | None = None


@dataclass(frozen=True)
class FileFormat:
    """A file format.

    ``suffixes`` are those of its files, in lower case. ``unit`` is the word for one row in
    messages. ``extra`` is the extra of this package that installs the libraries of the format.
    ``sized`` says whether the sizes of the rows add up to the size of the file, so that progress
    can be shown as a share of it. ``options`` has the names of the options that its reader accepts;
    one of them is ``group``, the path of the samples' groups.
    ``root`` says whether files that the rows name are read from the folder of the file, even if the
    caller allows no folder.
    """

    load: Callable[[], _Functions]
    suffixes: tuple[str, ...] = ()
    unit: str = "line"
    extra: str | None = None
    sized: bool = False
    writable: bool = False
    options: tuple[str, ...] = ()
    root: bool = False


def _load_parquet() -> _Functions:
    from registry.io.files import parquet  # noqa: PLC0415  # an extra

    return _Functions(parquet.read, parquet.writer)


def _load_huggingface() -> _Functions:
    from registry.io.files import parquet  # noqa: PLC0415  # an extra

    return _Functions(parquet.read, partial(parquet.writer, huggingface=True))


def _load_tfrecord() -> _Functions:
    from registry.io.files import tfrecord  # noqa: PLC0415  # an extra

    return _Functions(tfrecord.read, tfrecord.writer)


def _load_yolo() -> _Functions:
    import yaml  # noqa: F401, PLC0415  # an extra

    return _Functions(yolo.read)


def _load_voc() -> _Functions:
    import defusedxml  # noqa: F401, PLC0415  # an extra

    return _Functions(voc.read)


def _load_cvat() -> _Functions:
    import defusedxml  # noqa: F401, PLC0415  # an extra

    return _Functions(cvat.read)


_GROUP = ("group",)
FORMATS = {
    "jsonl": FileFormat(
        lambda: _Functions(jsonl.read, jsonl.writer),
        (".jsonl", ".ndjson"),
        sized=True,
        writable=True,
        options=_GROUP,
    ),
    "csv": FileFormat(lambda: _Functions(csv.read), (".csv",), sized=True, options=_GROUP),
    "parquet": FileFormat(
        _load_parquet,
        (".parquet",),
        unit="row",
        extra="parquet",
        writable=True,
        options=_GROUP,
    ),
    "huggingface": FileFormat(
        _load_huggingface, unit="row", extra="parquet", writable=True, options=_GROUP
    ),
    "images": FileFormat(lambda: _Functions(image_folder.read), unit="file", sized=True),
    "npz": FileFormat(lambda: _Functions(npz.read), (".npz",), unit="row", options=_GROUP),
    "tfrecord": FileFormat(
        _load_tfrecord,
        (".tfrecord", ".tfrecords"),
        unit="record",
        extra="tfrecord",
        sized=True,
        writable=True,
        options=_GROUP,
    ),
    "webdataset": FileFormat(
        lambda: _Functions(webdataset.read), (".tar", ".tgz"), unit="sample", options=_GROUP
    ),
    "conll": FileFormat(lambda: _Functions(conll.read), (".conll", ".iob", ".bio"), options=_GROUP),
    "coco": FileFormat(
        lambda: _Functions(coco.read),
        unit="image",
        options=("boxes", "crowd", "rotated", "roots", "group"),
    ),
    "yolo": FileFormat(
        _load_yolo,
        (".yaml", ".yml"),
        unit="image",
        extra="yaml",
        options=("boxes", "rotated", "part", "group"),
    ),
    "voc": FileFormat(
        _load_voc,
        unit="image",
        extra="xml",
        options=("boxes", "difficult", "part", "roots", "group"),
    ),
    "cvat": FileFormat(
        _load_cvat,
        unit="image",
        extra="xml",
        options=("boxes", "rotated", "unlabelled", "roots", "group"),
    ),
    "labelme": FileFormat(
        lambda: _Functions(labelme.read),
        unit="image",
        options=("boxes", "rotated", "roots", "group"),
    ),
    "json": FileFormat(lambda: _Functions(jsonl.read_array), unit="element", options=_GROUP),
    "prodigy": FileFormat(lambda: _Functions(prodigy.read), root=True, options=_GROUP),
    "doccano": FileFormat(
        lambda: _Functions(doccano.read),
        options=("group", "unlabelled", "boxes", "rotated", "roots"),
        root=True,
    ),
    "argilla": FileFormat(lambda: _Functions(argilla_export.read), root=True),
}
"""The formats by name.

A Label Studio export is not one of them: it retracts samples, too, and is compared with earlier
events. `registry.io.labeling.label_studio.export` imports it.
"""
WRITABLE = [name for name, file_format in FORMATS.items() if file_format.writable]
"""The names of the formats of files that can be exported."""
FOLDER_FORMATS = ("coco", "yolo")
"""The names of the formats of folders that can be exported."""


class ReadableFormat(NamedTuple):
    """A file's format and its reader."""

    file_format: FileFormat
    read: Reader


def find_reader(
    path: Path, name: str | None = None, options: Mapping[str, Any] | None = None
) -> ReadableFormat:
    """Return the format called ``name`` or, without a name, that of `format_of`.

    The reader uses the ``options``; those that are None do not count. Raises `ImportFileError` if
    there is no such format, if it lacks one of the options, or if an extra that it needs is not
    installed.
    """
    chosen = name or format_of(path)
    if chosen == LABEL_STUDIO:
        reason = "a Label Studio export is inserted by insert_export or --format label-studio"
        raise ImportFileError(reason, file=str(path))
    if chosen not in FORMATS:
        raise ImportFileError(
            f"no format is named {chosen!r}; choose one of {', '.join(FORMATS)}", file=str(path)
        )
    # Loaded before the file is opened: a command with several files must not stop at the second
    # one because a library is missing.
    given = {option: value for option, value in (options or {}).items() if value is not None}
    for option in given:
        if option not in FORMATS[chosen].options:
            formats = ", ".join(each for each in FORMATS if option in FORMATS[each].options)
            reason = f"{chosen} has no option {option!r}; formats that have it: {formats}"
            raise ImportFileError(reason, file=str(path))
    try:
        read = FORMATS[chosen].load().read
        return ReadableFormat(FORMATS[chosen], partial(read, **given) if given else read)
    except ImportError as error:
        raise ImportFileError(_missing_extra(chosen, error), file=str(path)) from None


def find_writer(path: Path, name: str | None = None, group: str | None = None) -> Writer:
    """Return the writer of the format called ``name`` or, without a name, of the file's suffix.

    It writes groups under the name ``group``, if there is one and the format can have them. Raises
    `ExportFileError` as `find_reader` raises its error, and for a format that can only be read.
    """
    # Unlike a reader, no writer compresses: the suffix of ``digits.jsonl.gz`` is refused here.
    suffix = path.suffix.lower()
    chosen = name or next((each for each in WRITABLE if suffix in FORMATS[each].suffixes), None)
    if chosen not in WRITABLE:
        problem = f"suffix {suffix!r} names no format" if name is None else f"no format {name!r}"
        reason = f"{problem} that can be written; choose one of {', '.join(WRITABLE)}, or "
        reason += f"a folder by --format {' or '.join(FOLDER_FORMATS)}"
        raise ExportFileError(reason, file=str(path))
    try:
        writer = FORMATS[chosen].load().writer
    except ImportError as error:
        raise ExportFileError(_missing_extra(chosen, error), file=str(path)) from None
    # `WRITABLE` promises it. A test exports to each of its formats.
    assert writer is not None
    has_groups = group is not None and "group" in FORMATS[chosen].options
    return partial(writer, group=group) if has_groups else writer


def _missing_extra(name: str, error: ImportError) -> str:
    extra = FORMATS[name].extra
    assert extra is not None  # the others import nothing that may be missing
    return f"{name} files need {error.name}; run: {install_extra(extra)}"


def format_of(path: Path) -> str:
    """Return the name of a file's format by its suffix or, where that is not enough, its content.

    It is one of `FORMATS` or `LABEL_STUDIO`. Raises `ImportFileError`.
    """
    # Before the suffix: a folder may be called ``photos.csv``.
    if is_recognized(path):
        try:
            return recognize(path)
        except OSError as error:
            raise ImportFileError(error.strerror or str(error), file=str(path)) from error
    # The last two suffixes: of ``digits.jsonl.gz``, the format is that of ``.jsonl``.
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    names = {suffix: name for name, each in FORMATS.items() for suffix in each.suffixes}
    if last not in names:
        problem = f"suffix {path.suffix!r} names no known format" if last else "no suffix"
        known = ", ".join([*names, ".json", ".xml", ".zip"])
        raise ImportFileError(f"{problem}; files can be {known}, or say --format", file=str(path))
    return names[last]
