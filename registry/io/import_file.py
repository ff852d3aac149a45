"""Files into datasets. A format is a module with a `read`; the file's suffix picks it.

A reader goes through the file once and keeps no more of it than one row, so a file of any length
takes the memory of one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from registry.errors import ImportFileError, RegistryError
from registry.io.batching import BATCH_ROWS, Origin, batches
from registry.io.dry_run import Rehearsal
from registry.io.files.image_folder import extent as images_extent
from registry.io.formats import FORMATS, find
from registry.io.row import Mapped, Reader, Row
from registry.samples.codec import Codec
from registry.samples.features import Features
from registry.samples.text import path_fault
from registry.storage.log.batch import Batch, Report
from registry.storage.log.head import Head

__all__ = ["BATCH_ROWS", "FORMATS", "Progress", "Rehearsal", "extent", "find", "insert_file"]

Progress = Callable[[int, int], None]
"""Told, after every batch, how many rows and bytes of the file are stored."""


class Target(Protocol):
    """Where samples go: a dataset, or a rehearsal of what would become of it."""

    @property
    def features(self) -> Features: ...

    @property
    def head(self) -> Head: ...

    def append(self, batch: Batch) -> Report: ...


def extent(path: Path, form: str | None = None) -> int | None:
    """Return the bytes that `insert_file` will have told of at the end, None if that is unknown."""
    if not find(path, form).form.sized or path.suffix.lower() == ".gz":
        return None
    return images_extent(path) if path.is_dir() else path.stat().st_size


def insert_file(
    dataset: Target,
    path: Path,
    *,
    form: str | None = None,
    key: str | None = None,
    mapped: Mapped | None = None,
    progress: Progress | None = None,
) -> Report:
    """Insert a file's samples, batch by batch, in the order of the file.

    ``form`` names the format where the suffix does not say it, and ``mapped`` says where in the
    file a feature's values are, unless under its own name. Keys come from the field that ``key``
    names, or are made from the file's name, the line's number and its bytes: importing a file
    again changes nothing, and a line that was edited makes a new sample instead of overwriting
    one. Raises `ImportFileError` for the first line that does not fit, and then stores nothing of
    its batch.
    """
    if wrong := path_fault(path):
        raise ImportFileError(f"the name of a file {wrong}", file=repr(str(path)))
    form_, read = find(path, form)
    origin = Origin(path, _name(path), form_.unit)
    total = Report(0, 0, 0, 0, dataset.head)
    done, size = 0, 0
    try:
        rows = _rows(read, path, dataset.features, key, mapped or {})
        for batch, bytes_ in batches(Codec(dataset.features), rows, origin):
            total += dataset.append(batch)
            done += len(batch.keys)
            size += bytes_
            if progress is not None:
                progress(done, size)
    except (RegistryError, KeyboardInterrupt) as error:
        if not isinstance(dataset, Rehearsal):
            _tell(error, path, done)
        raise
    return total


def _tell(error: RegistryError | KeyboardInterrupt, path: Path, done: int) -> None:
    """Add to an error what is stored by then."""
    if isinstance(error, ImportFileError):
        error.stored = done
        stored = f"the first {done:,} rows are stored" if done else "nothing of it is stored"
        error.add_note(f"{stored}; mend the file and import it again, which adds what is missing")
    elif done:
        # The batch in hand may have been stored, and only the answer been lost.
        error.add_note(f"{path}: {done:,} rows or more are stored; import it again for the rest")


def _rows(
    read: Reader, path: Path, features: Features, key: str | None, mapped: Mapped
) -> Iterator[Row]:
    if unknown := [name for name in mapped if name not in features]:
        names = ", ".join(map(repr, features))
        reason = f"{unknown[0]!r} is mapped and is no feature; the features are {names}"
        raise ImportFileError(reason, file=str(path))
    try:
        yield from read(path, features, key, mapped)
    except OSError as error:
        raise ImportFileError(error.strerror or str(error), file=str(path)) from error


def _name(path: Path) -> str:
    """Return the file's name as text: on some systems it may be bytes that are not UTF-8."""
    return (path.name or path.resolve().name).encode(errors="replace").decode()
