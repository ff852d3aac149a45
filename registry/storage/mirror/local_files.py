"""The files of a mirror that a TensorFlow graph reads directly, without Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from registry.errors import MirrorError
from registry.samples.arrays import Positions
from registry.storage.mirror.file_lease import FileLease
from registry.storage.mirror.index import Index
from registry.storage.mirror.snapshot import View


@dataclass(frozen=True)
class LocalFiles:
    """Files that may be opened by name at any time while this object lives.

    The locks of ``lease`` and ``index`` keep other processes from removing them. The names of the
    files follow from the log (`prefixes`), so that they are the same on every host. ``withheld``
    are the positions of rows that are erased in the files, though the database still has them.
    """

    view: View
    index: Index
    withheld: Positions
    lease: FileLease

    @property
    def paths(self) -> list[Path]:
        """The files that a graph opens by name."""
        index = self.index.files
        values = [] if self.view.fixed_width else [self.view.values_path]
        return [self.view.path, *values, *([index.cells, index.entries] if index else [])]

    def check(self) -> None:
        """Raise `MirrorError` if a file is gone, as when the cache directory was emptied."""
        for path in self.paths:
            if not path.exists():
                raise MirrorError(
                    f"{path} was removed while a dataset was to read it; make the dataset again, "
                    "and let `registry` alone remove files from its cache directory"
                )
