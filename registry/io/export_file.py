"""Export of datasets to files, from which an import makes the same samples again.

The samples are written to a temporary file next to the destination, which then replaces it. A
reader sees the old file or the complete new one, and a failed export leaves the old one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Engine

from registry.catalog.dataset import Dataset
from registry.errors import ExportFileError
from registry.io.live_samples import Samples, live_samples
from registry.samples.features import Features
from registry.samples.text import fault, path_fault

__all__ = ["FORMATS", "export_file"]

Write = Callable[[Samples], None]
"""Appends samples to a file."""
Writer = Callable[[Path, Features, str], AbstractContextManager[Write]]
"""Opens a new file, given its path, the features and the name under which keys are written."""
Progress = Callable[[int, int], None]
"""Called after every page with the samples, and the bytes of their records, that are written."""


class Format(NamedTuple):
    """How to load a format's writer, the suffixes of its files, and the extra that it needs."""

    find: Callable[[], Writer]
    suffixes: tuple[str, ...]
    extra: str | None = None


def _module(name: str) -> Writer:
    write: Writer = import_module(f"registry.io.files.{name}_writer").writer
    return write


FORMATS: Mapping[str, Format] = {
    "jsonl": Format(partial(_module, "jsonl"), (".jsonl", ".ndjson")),
    "parquet": Format(partial(_module, "parquet"), (".parquet",), "parquet"),
    "tfrecord": Format(partial(_module, "tfrecord"), (".tfrecord", ".tfrecords"), "tfrecord"),
}


def export_file(
    engine: Engine,
    dataset: Dataset,
    path: Path,
    *,
    form: str | None = None,
    key: str = "key",
    progress: Progress | None = None,
) -> int:
    """Write a dataset's live samples, in the order of the log, and return their number.

    They are those of the dataset's head or, if it was opened at a version, of that version. The
    keys are written under the name ``key``. An existing file is replaced when the new one is
    complete. Raises `ExportFileError` for a name that cannot be used and for errors of the file
    system, and the errors of `live_samples`.
    """
    writer = _find(path, form)
    if wrong := fault(key):
        raise ExportFileError(f"the name of the keys {wrong}", file=str(path))
    if wrong := path_fault(path):
        raise ExportFileError(f"the name of a file {wrong}", file=repr(str(path)))
    if key in dataset.features:
        reason = f"{key!r} is a feature; choose another name for the keys with --key"
        raise ExportFileError(reason, file=str(path))
    try:
        if path.name == "-" or (path.exists() and not path.is_file()):
            reason = "it is no file that can be replaced; name one, which may not be there yet"
            raise ExportFileError(reason, file=str(path))
        # Replacing the link itself would leave its target with the old content.
        path = path.resolve()
        # In the same folder: a rename is atomic only within one file system.
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            with writer(part, dataset.features, key) as write:
                count = _write(write, live_samples(engine, dataset), progress)
            # After the writer is closed: Parquet writes its footer when it is closed.
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ExportFileError(error.strerror or str(error), file=str(path)) from error
    return count


def _write(write: Write, pages: Iterable[Samples], progress: Progress | None) -> int:
    count, size = 0, 0
    for samples in pages:
        write(samples)
        count += len(samples.keys)
        size += samples.size
        if progress is not None:
            progress(count, size)
    return count


def _find(path: Path, name: str | None) -> Writer:
    suffix = path.suffix.lower()
    chosen = name or next((n for n, form in FORMATS.items() if suffix in form.suffixes), "")
    if chosen not in FORMATS:
        said = f"suffix {suffix!r} names no format" if name is None else f"no format {name!r}"
        reason = f"{said} that can be written; choose one of {', '.join(FORMATS)}"
        raise ExportFileError(reason, file=str(path))
    form = FORMATS[chosen]
    try:
        return form.find()
    except ImportError as error:
        reason = f"{chosen} files need {error.name}; run: pip install 'registry[{form.extra}]'"
        raise ExportFileError(reason, file=str(path)) from None
