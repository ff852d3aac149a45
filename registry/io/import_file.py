"""Import of files into datasets.

`registry.io.formats` selects the format by the file's suffix. Its reader is a generator that goes
through the file once and yields a `FileRow` per sample. `batches` packs the rows, and each batch is
appended in its own transaction. So a file of any length takes the memory of one batch, and an
import that fails has stored the batches before the failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from registry.catalog.dataset import Dataset
from registry.errors import ImportFileError, InvalidSampleError, RegistryError
from registry.io.batching import Origin, PackedRows, Refuse, batches
from registry.io.dry_run import DryRun
from registry.io.faults import Faults, RejectedRow, discard_outdated, keep_rejected
from registry.io.files.image_folder import total_size
from registry.io.formats import find_reader
from registry.io.media import MediaReader
from registry.io.row import FieldMapping, FileRow, GivenFeatures, Reader, encodable_name
from registry.io.row_media import with_media
from registry.samples.features import Features
from registry.samples.schema import Schema
from registry.samples.text import path_problem
from registry.storage.log.batch import Batch, Report
from registry.storage.log.head import Head

ImportProgress = Callable[[int, int], None]
"""Called after every batch with the rows, and the bytes of the file, that are stored."""


class Target(Protocol):
    """The destination of samples: a `Dataset`, or a `DryRun` that writes nothing."""

    @property
    def schema(self) -> Schema: ...

    @property
    def head(self) -> Head: ...

    def append(self, batch: Batch) -> Report: ...


def import_size(
    path: Path, form: str | None = None, options: Mapping[str, Any] | None = None
) -> int | None:
    """Return the bytes that `insert_file` will have reported at the end, None if unknown."""
    # Rows of a gzip file are counted unpacked, and the size on disk is that of the packed file.
    if not find_reader(path, form, options).file_format.sized or path.suffix.lower() == ".gz":
        return None
    return total_size(path) if path.is_dir() else path.stat().st_size


def insert_file(  # noqa: PLR0913  # the options of an import
    dataset: Target,
    path: Path,
    *,
    form: str | None = None,
    key: str | None = None,
    mapping: FieldMapping | None = None,
    options: Mapping[str, Any] | None = None,
    media: MediaReader | None = None,
    progress: ImportProgress | None = None,
    quarantine: bool = False,
    faults: Faults | None = None,
) -> Report:
    """Insert a file's samples, batch by batch, in the order of the file.

    ``form`` names the format; by default the suffix decides. ``mapping`` has the path of each
    feature's values in the file; by default they are under the feature's name. ``options``
    has options of the format, by the names in `FileFormat.options`. Keys are read from the field
    that ``key`` names, or are made from the file's name, the line's number and its bytes. Importing
    a file again therefore changes nothing, and a line that was edited makes a new sample instead of
    overwriting one. The option ``group`` is the path of the samples' groups.

    A feature with a default may be missing in the file. One that is mapped has to be there.

    A text in place of an image or bytes is base64 or a ``data:`` URI, or names a file or a URI that
    ``media`` may read.

    Lines that do not fit are added to ``faults``, by default to raise the first of them as
    `ImportFileError`. Nothing of its batch is stored then; the batches before it are. With
    ``quarantine``, they are stored as rejected rows of the inbox. Rejected rows of an earlier
    import of the file are removed where the file now has a row of their key that fits.
    """
    faults = faults or Faults(keep_going=quarantine)
    rejected: list[RejectedRow] = []

    def refuse(error: ImportFileError, fields: Mapping[str, Any] | None) -> None:
        faults.add(error)
        if quarantine:
            rejected.append((error, fields))

    if problem := path_problem(path):
        raise ImportFileError(f"the name of a file {problem}", file=repr(str(path)))
    file_format, read = find_reader(path, form, options)
    origin = Origin(path, encodable_name(path), file_format.unit)
    total = Report(0, 0, 0, 0, dataset.head)
    # One for the whole file, and after the head: it is then the newest one.
    schema = dataset.schema
    features = GivenFeatures(schema.features, schema.defaults)
    row_count, size = 0, 0
    try:
        reader = media or MediaReader()
        # Formats that search the files of their images themselves.
        if reader.roots and "roots" in file_format.options:
            read = find_reader(path, form, {**(options or {}), "roots": reader.roots}).read
        rows = _rows(read, path, features, key, mapping or {})
        if file_format.root:
            reader = reader.with_roots(path.parent)
        rows = with_media(rows, features, reader, path, file_format.unit)
        on_fault = refuse if faults.keep_going else None
        for packed in batches(schema, rows, origin, on_fault):
            report, keys = _append(dataset, packed, origin, on_fault)
            total += report
            # Before new rejections are stored: of a key that is in the file twice, one is.
            faults.outdated += _discard_outdated(dataset, origin, keys)
            _keep_rejected(dataset, origin, rejected)
            # After the append, so that only committed rows are counted.
            row_count += len(packed.lines)
            size += packed.size
            if progress is not None:
                progress(row_count, size)
        _keep_rejected(dataset, origin, rejected)
    # An interrupted import has stored batches, too: the user has to know how many.
    except (RegistryError, KeyboardInterrupt) as error:
        # A dry run stores nothing, whatever it has counted.
        if not isinstance(dataset, DryRun):
            _add_stored_rows(error, path, row_count)
        raise
    return total


def _append(
    dataset: Target, packed: PackedRows, origin: Origin, refuse: Refuse | None
) -> tuple[Report, Sequence[str]]:
    """Append a batch; a row that the dataset does not take, such as one of another group, is named.

    Returns the report, and the keys that the dataset took. Calls ``refuse`` for each such row, and
    appends the others; without it, raises `ImportFileError` for the first.
    """
    while True:
        try:
            return dataset.append(packed.batch), packed.batch.keys
        except InvalidSampleError as error:
            if error.row is None:
                raise
            problem = ImportFileError(
                error.reason,
                file=str(origin.path),
                line=packed.lines[error.row],
                key=error.key,
                unit=origin.unit,
            )
            if refuse is None:
                raise problem from error
            refuse(problem, None)
            packed = packed.without(error.row)


def _discard_outdated(target: Target, origin: Origin, keys: Sequence[str]) -> int:
    # A dry run removes nothing.
    if not isinstance(target, Dataset):
        return 0
    return discard_outdated(target, f"file:{origin.name}", keys)


def _keep_rejected(target: Target, origin: Origin, rejected: list[RejectedRow]) -> None:
    if isinstance(target, Dataset):
        keep_rejected(target, f"file:{origin.name}", rejected)
    rejected.clear()


def _add_stored_rows(error: RegistryError | KeyboardInterrupt, path: Path, row_count: int) -> None:
    """Add to an error how many rows are already stored."""
    if isinstance(error, ImportFileError):
        error.stored = row_count
        stored = f"the first {row_count:,} rows are stored"
        error.add_note(
            f"{stored if row_count else 'nothing of it is stored'}; correct the file and import it "
            "again, which adds what is missing"
        )
    elif row_count:
        # The current batch may have been committed, and only the server's reply been lost: the
        # number is a lower bound.
        error.add_note(
            f"{path}: {row_count:,} rows or more are stored; import it again for the rest"
        )


def _rows(
    read: Reader, path: Path, features: Features, key: str | None, mapping: FieldMapping
) -> Iterator[FileRow]:
    # A reader looks up the features in the mapping, and would ignore a name that is misspelled.
    if unknown := [name for name in mapping if name not in features]:
        names = ", ".join(map(repr, features))
        reason = f"{unknown[0]!r} is mapped and is no feature; the features are {names}"
        raise ImportFileError(reason, file=str(path))
    try:
        # A reader may raise OSError at any row, so the whole iteration is inside the try.
        yield from read(path, features, key, mapping)
    except OSError as error:
        raise ImportFileError(error.strerror or str(error), file=str(path)) from error
