"""Where the samples of a log are read: its mirror, or the database if there can be no mirror."""

from __future__ import annotations

import time
from pathlib import Path

from registry.storage.log.page import Page
from registry.storage.log.reader import Log
from registry.storage.log.watermark import Watermark
from registry.storage.mirror.mirror import Mirror, open_mirror
from registry.storage.mirror.usage import record_use
from registry.training.database_source import DatabaseSource
from registry.training.mirror_source import MirrorSource, cache_folder, warn
from registry.training.source import Source

_USE_INTERVAL = 1.0
"""Seconds between two records of a mirror's use by one object, at least."""


class Sources:
    """Opens a source for a watermark: the mirror, or the database if there can be no mirror.

    ``name`` is the dataset's, which the mirror records. Pickles as its log and this name.
    """

    def __init__(self, log: Log, name: str) -> None:
        self._log = log
        self._name = name
        self._mirror: Mirror | None = None
        self._used: tuple[Path | None, float] = None, 0.0
        """The mirror's folder whose use was recorded last, and when, by the monotonic clock."""

    def __reduce__(self) -> tuple[type[Sources], tuple[Log, str]]:
        return Sources, (self._log, self._name)

    def open(
        self,
        watermark: Watermark,
        schema: int,
        erased: int | None = None,
        page: Page | None = None,
    ) -> Source:
        """Return a source of the log's rows before a watermark, in the schema of this number.

        It can also be read in an older schema.
        ``erased`` is the number of rows that the database has erased, if known, and ``page`` the
        last rows before the watermark, if they were read already. Warns with `CacheWarning` if the
        cache directory cannot be written or is full.
        """
        try:
            mirror = self.mirror()
            self._record_use(mirror.folder)
            view = mirror.sync(watermark, erased, schema, page)
            return MirrorSource(mirror, view, watermark, schema)
        except OSError as error:
            warn(f"no local copy can be kept ({error}), so all is read from the database, slowly")
            return DatabaseSource(self._log, watermark)

    def _record_use(self, folder: Path) -> None:
        now = time.monotonic()
        if folder != self._used[0] or now - self._used[1] > _USE_INTERVAL:
            self._used = folder, now
            record_use(folder, self._log.engine.url, self._name)

    def mirror(self) -> Mirror:
        """Return the mirror. Raises `OSError` if its folder cannot be used."""
        # Read each time: $REGISTRY_CACHE may change while the process runs.
        folder = cache_folder()
        if self._mirror is None or self._mirror.folder.parent != folder:
            self._mirror = open_mirror(self._log, folder)
        return self._mirror
