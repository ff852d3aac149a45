"""Files of a mirror that are read without Python."""

from __future__ import annotations

from dataclasses import dataclass

from registry.errors import MirrorError
from registry.samples.arrays import Positions
from registry.storage.mirror.index import Index
from registry.storage.mirror.snapshot import Held, View


@dataclass(frozen=True)
class LocalFiles:
    """Files that are opened by name, at any time: none is removed for as long as this lives.

    ``withheld`` are the positions of rows that the files lack, though the database has them.
    """

    view: View
    index: Index
    withheld: Positions
    held: Held

    def check(self) -> None:
        """Raise `MirrorError` where a file is gone all the same."""
        records, entries = self.view.path, self.index.path
        for path, there in (
            (records, self.held.at(records)),
            (entries, entries is None or entries.exists()),
        ):
            if not there:
                raise MirrorError(
                    f"{path} was removed while a dataset was to read it; make the dataset again, "
                    "and let `registry` alone remove files from its cache directory"
                )
