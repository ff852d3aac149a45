"""Export of datasets to files, from which an import makes the same samples again.

The samples are written to a temporary file next to the destination, which then replaces it. A
reader sees the old file or the complete new one, and a failed export leaves the old one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

from registry.catalog.dataset import Dataset
from registry.catalog.live_samples import Samples, has_groups, live_samples
from registry.errors import ExportFileError
from registry.io.formats import Write, find_writer
from registry.samples.text import path_problem, text_problem

ExportProgress = Callable[[int, int], None]
"""Called after every page with the samples, and the bytes of their records, that are written."""


def export_file(
    dataset: Dataset,
    path: Path,
    *,
    form: str | None = None,
    key: str = "key",
    group: str = "group",
    progress: ExportProgress | None = None,
) -> int:
    """Write a dataset's live samples, in the order of the log, and return their number.

    They are those of the dataset's head or, if it was opened at a version, of that version. The
    keys are written under the name ``key``. If any sample has a group, groups are written under the
    name ``group``, in formats that can have them. An existing file is replaced when the new one is
    complete. Raises `ExportFileError` for a name that cannot be used and for errors of the file
    system, and the errors of `live_samples`.
    """
    find_writer(path, form)
    # One version with its features, for the header and all rows.
    dataset = dataset.snapshot()
    for name, what in ((key, "keys"), (group, "groups")):
        if problem := text_problem(name):
            raise ExportFileError(f"the name of the {what} {problem}", file=str(path))
    if problem := path_problem(path):
        raise ExportFileError(f"the name of a file {problem}", file=repr(str(path)))
    if key in dataset.features:
        reason = f"{key!r} is a feature; choose another name for the keys with --key"
        raise ExportFileError(reason, file=str(path))
    grouped = has_groups(dataset)
    if grouped and (group == key or group in dataset.features):
        taken = "the name of the keys" if group == key else "a feature"
        reason = f"{group!r} is {taken}; choose another name for the groups with --group"
        raise ExportFileError(reason, file=str(path))
    writer = find_writer(path, form, group if grouped else None)
    try:
        # Renaming over a device or a pipe would replace it by a regular file.
        if path.name == "-" or (path.exists() and not path.is_file()):
            reason = "it is no file that can be replaced; name one, which may not be there yet"
            raise ExportFileError(reason, file=str(path))
        # Replacing the link itself would leave its target with the old content.
        path = path.resolve()
        # In the same folder: a rename is atomic only within one file system.
        # Its name is random: two exports to one file must not write to one temporary file.
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            with writer(part, dataset.features, key) as write:
                count = _write_pages(write, live_samples(dataset), progress)
            # After the writer is closed: Parquet writes its footer when it is closed.
            part.replace(path)
        finally:
            # After a failure; a complete file has been renamed, and is not there.
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ExportFileError(error.strerror or str(error), file=str(path)) from error
    return count


def _write_pages(write: Write, pages: Iterable[Samples], progress: ExportProgress | None) -> int:
    count, size = 0, 0
    for samples in pages:
        write(samples)
        count += len(samples.keys)
        size += samples.size
        if progress is not None:
            progress(count, size)
    return count
