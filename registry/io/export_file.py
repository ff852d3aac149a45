"""Datasets into files, from which the importers make the same samples again."""

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
"""Opens a new file for samples of these features, with their keys under a name."""
Progress = Callable[[int, int], None]
"""Told, now and then, how many samples, of how many bytes of records, are written."""


class Format(NamedTuple):
    """Where a format's writer is; the suffixes of its files; the extra that it needs."""

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
    """Write a dataset's live samples, in the order of the log, and return how many they are.

    They are the ones of the dataset's head or, where it was opened at a version, of that. The
    file has the keys under the name ``key``. It takes the place of one that was there when it is
    complete. Raises `ExportFileError`.
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
        path = path.resolve()  # a link stays, and leads to what is written
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            with writer(part, dataset.features, key) as write:
                count = _write(write, live_samples(engine, dataset), progress)
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
