"""A host's mirror of a log, kept up to date for processes that only open its files.

A worker of tf.data service runs the graph of an `EpochDataset` on another host than the trainer's,
and opens the files of its epoch by name. `HostMirror.update` brings the rows there, makes the files
of the newest epochs, and keeps them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic

from registry.errors import MirrorError, RegistryError, RunNotFoundError, TransientError
from registry.storage.log.following import await_growth
from registry.storage.log.head import Head
from registry.storage.log.reader import Log
from registry.storage.log.watermark import Watermark
from registry.storage.mirror.local_files import LocalFiles
from registry.storage.mirror.state import load_state
from registry.storage.mirror.usage import record_use
from registry.training import pin_store
from registry.training.mirror_source import cache_folder
from registry.training.run import Run
from registry.training.sources import Sources

KEPT_EPOCHS = 2
"""Epochs of a run whose files are kept, the newest ones: a worker may still read the one before."""
KEPT_TIME = timedelta(days=1)
"""How long after it was pinned an epoch's files are kept, at most."""
_RECORD_SECONDS = 60.0
"""Seconds after which the use of the mirror is recorded again."""
_RETRY_SECONDS = 60.0
"""Seconds after which the files of an epoch are made again that could not be made."""


@dataclass(frozen=True)
class MirrorUpdate:
    """What an update has resulted in: rows that are here, and epochs whose files are kept.

    ``problems`` say for which epochs there are none; each is reported once.
    """

    rows: int
    epochs: int
    problems: tuple[str, ...] = ()


class HostMirror:
    """The mirror of a dataset on this host, and the files of its newest epochs.

    The files stay for as long as this object lives. Not thread-safe, except for `rows`.

    Of the errors of an update, three kinds are raised: a `TransientError`, an `OSError` of this
    host's disk, and what concerns the whole log, such as a dropped dataset or a missing privilege.
    The caller tries again after the first two. An error that concerns one epoch, such as damage
    that stays or samples that were erased, is a problem of that epoch: the others have their files,
    and it is tried again after a minute.
    """

    def __init__(
        self, log: Log, sources: Sources, dataset: str, find_run: Callable[[str], Run]
    ) -> None:
        self._log = log
        self._sources = sources
        self._dataset = dataset
        self._find_run = find_run
        self._files: dict[str, list[LocalFiles]] = {}
        self._newest: dict[str, int] = {}
        self._retry_at: dict[str, float] = {}
        """When, by the monotonic clock, runs are tried again that have epochs with problems."""
        self._generation = -1
        self._reported: set[str] = set()
        self._recorded = -_RECORD_SECONDS

    @property
    def folder(self) -> Path:
        """The mirror's folder, which may not exist yet."""
        return cache_folder() / self._log.uid

    @property
    def rows(self) -> int:
        """The number of rows that are here."""
        state = load_state(self.folder)
        return 0 if state is None else state.position

    def update(self, head: Head) -> MirrorUpdate:
        """Bring the mirror up to a head of the log, and make the files of the newest epochs.

        Raises `OSError` if the cache directory cannot be written. Warns as `Mirror.sync` does if
        mirror and database hold different histories.
        """
        mirror = self._sources.mirror()
        if monotonic() >= self._recorded + _RECORD_SECONDS:
            record_use(self.folder, self._log.engine.url, self._dataset)
            self._recorded = monotonic()
        view = mirror.sync(Watermark.of(head), head.erased, head.schema)
        if view.state.generation != self._generation:
            # The names of all files must point to the new generation.
            self._generation = view.state.generation
            self._newest.clear()
        problems = tuple(self._keep_epochs())
        return MirrorUpdate(view.position, sum(map(len, self._files.values())), problems)

    def wait(self, head: Head, seconds: float) -> None:
        """Wait until the log has grown past a head, for at most so many seconds."""
        await_growth(self._log, head.position, monotonic() + seconds)

    def _keep_epochs(self) -> Iterator[str]:
        """Keep the files of the newest epochs of each run; yield problems that are new."""
        newest = pin_store.newest_of_runs(self._log.engine, self._log.dataset_id)
        self._files = {run: files for run, files in self._files.items() if run in newest}
        for run, number in newest.items():
            if self._newest.get(run) != number or self._is_due(run) or self._are_removed(run):
                with suppress(RunNotFoundError):  # removed meanwhile
                    yield from self._keep(run)
                    self._newest[run] = number

    def _keep(self, name: str) -> Iterator[str]:
        run, kept, earliest = self._find_run(name), [], datetime.now(UTC) - KEPT_TIME
        self._retry_at.pop(name, None)
        for epoch in run.epochs(KEPT_EPOCHS):
            if epoch.pinned_at < earliest:
                continue
            try:
                files = run.local_files(epoch.pin)
            except TransientError:
                raise
            except RegistryError as error:
                problem = f"no files of epoch {epoch.pin.number} of run {name!r}: {error}"
                if problem not in self._reported:
                    self._reported.add(problem)
                    yield problem
                self._retry_at[name] = monotonic() + _RETRY_SECONDS
                continue
            if files is not None:
                kept.append(files)
        self._files[name] = kept

    def _is_due(self, run: str) -> bool:
        return monotonic() >= self._retry_at.get(run, math.inf)

    def _are_removed(self, run: str) -> bool:
        try:
            for files in self._files.get(run, ()):
                files.check()
        except MirrorError:
            return True
        return False
