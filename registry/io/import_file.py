"""Import of files into datasets.

A format is a module with a function `read`; the file's suffix selects it. A reader is a generator
that goes through the file once and yields a `Row` per sample. `batches` packs the rows, and each
batch is appended in its own transaction. So a file of any length takes the memory of one batch,
and an import that fails has stored the batches before the failure.
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
"""Called after every batch with the rows, and the bytes of the file, that are stored."""


class Target(Protocol):
    """The destination of samples: a `Dataset`, or a `Rehearsal` that writes nothing."""

    @property
    def features(self) -> Features: ...

    @property
    def head(self) -> Head: ...

    def append(self, batch: Batch) -> Report: ...


def extent(path: Path, form: str | None = None) -> int | None:
    """Return the bytes that `insert_file` will have reported at the end, None if unknown."""
    # Rows of a gzip file are counted unpacked, and the size on disk is that of the packed file.
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

    ``form`` names the format; by default the suffix decides. ``mapped`` says where in the file a
    feature's values are; by default they are under the feature's name. Keys are read from the
    field that ``key`` names, or are made from the file's name, the line's number and its bytes.
    Importing a file again therefore changes nothing, and a line that was edited makes a new
    sample instead of overwriting one.

    Raises `ImportFileError` for the first line that does not fit. Nothing of its batch is stored
    then; the batches before it are.
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
            # After the append, so that ``done`` counts committed rows only.
            done += len(batch.keys)
            size += bytes_
            if progress is not None:
                progress(done, size)
    # An interrupted import has stored batches, too: the user has to know how many.
    except (RegistryError, KeyboardInterrupt) as error:
        if not isinstance(dataset, Rehearsal):
            _tell(error, path, done)
        raise
    return total


def _tell(error: RegistryError | KeyboardInterrupt, path: Path, done: int) -> None:
    """Add to an error how many rows are already stored."""
    if isinstance(error, ImportFileError):
        error.stored = done
        stored = f"the first {done:,} rows are stored" if done else "nothing of it is stored"
        error.add_note(
            f"{stored}; correct the file and import it again, which adds what is missing"
        )
    elif done:
        # The current batch may have been committed, and only the server's reply been lost: the
        # number is a lower bound.
        error.add_note(f"{path}: {done:,} rows or more are stored; import it again for the rest")


def _rows(
    read: Reader, path: Path, features: Features, key: str | None, mapped: Mapped
) -> Iterator[Row]:
    if unknown := [name for name in mapped if name not in features]:
        names = ", ".join(map(repr, features))
        reason = f"{unknown[0]!r} is mapped and is no feature; the features are {names}"
        raise ImportFileError(reason, file=str(path))
    try:
        # A reader may raise OSError at any row, so the whole iteration is inside the try.
        yield from read(path, features, key, mapped)
    except OSError as error:
        raise ImportFileError(error.strerror or str(error), file=str(path)) from error


def _name(path: Path) -> str:
    """Return the file's name as text that can be encoded.

    On POSIX a name may hold bytes that are not UTF-8. Python represents them as surrogates, which
    no database stores; they are replaced here.
    """
    return (path.name or path.resolve().name).encode(errors="replace").decode()
