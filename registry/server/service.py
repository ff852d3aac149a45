"""State shared by all requests: the registry, its open datasets, and a committer for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from registry.catalog.dataset import Dataset
from registry.catalog.epoch_comparisons import EpochComparisons
from registry.catalog.registry import Registry
from registry.catalog.rename import id_of
from registry.catalog.statistics.background import BackgroundCounts
from registry.errors import DatasetDroppedError, DatasetNotFoundError, RegistryError
from registry.html.thumbnails import Thumbnail
from registry.io.row_media import is_named
from registry.server.auth import Authenticator
from registry.server.connections import OpenConnections
from registry.server.data_metrics import DataMetrics
from registry.server.group_commit import GroupCommitter
from registry.server.media_events import MediaEvents
from registry.server.metrics import Metrics
from registry.server.pages.recent import Recent, RecentOf
from registry.server.pages.session_key import session_key
from registry.server.pages.sessions import Sessions
from registry.server.pages.shared_page import SharedPage
from registry.server.request_body import BodyReader
from registry.server.settings import ServerSettings
from registry.server.thread_pools import ThreadPools
from registry.storage.log.batch import Report
from registry.storage.log.changes import Change
from registry.storage.log.version import NAME, REFERENCE
from registry.storage.mirror.usage import address_of
from registry.training.mirror_source import cache_folder

Result = TypeVar("Result")

_FRESH = 1.0
"""Seconds that a page may be old."""
_STALE = 5.0
"""Seconds that a page may be old which takes long to make."""
_NAME = re.compile(rf"{NAME}|{REFERENCE}")


class OpenDataset:
    """An open dataset. If another one has its name by now, that one is opened.

    Thread-safe: two threads that open it again do so twice, and either result is right.
    """

    def __init__(self, registry: Registry, name: str) -> None:
        self._registry = registry
        self._dataset = registry.open(name)
        self.name = name

    def names_media(self) -> bool:
        """Return whether a text may name the content of one of its features. Blocks, as `use`."""

        def named(dataset: Dataset) -> bool:
            return any(map(is_named, dataset.features.values()))

        # A feature may just have been added by another process.
        return self.use(lambda each: named(each) or (each.schemas.refresh() and named(each)))

    def use(self, work: Callable[[Dataset], Result]) -> Result:
        """Return the result of ``work`` on the dataset. Blocks: call it in a thread.

        Raises `DatasetNotFoundError` if the dataset was dropped or renamed and no other has its
        name.
        """
        # Each time: the dataset could otherwise be written under a name that now is another's.
        if id_of(self._registry.engine, self.name.partition("@")[0]) != self._dataset.id:
            self._dataset = self._registry.open(self.name)
        try:
            return work(self._dataset)
        except DatasetDroppedError:
            self._dataset = self._registry.open(self.name)
            return work(self._dataset)

    def apply(self, requests: Sequence[Sequence[Change]]) -> Sequence[Report | RegistryError]:
        return self.use(lambda dataset: dataset.apply(requests))


class Service:
    """The state of one server; its methods, unless they say so, are for one event loop."""

    def __init__(self, registry: Registry, settings: ServerSettings) -> None:
        self.registry = registry
        self.settings = settings
        self.metrics: Metrics = Metrics()
        self.connections: OpenConnections = OpenConnections(settings, self.metrics)
        self.pools: ThreadPools = ThreadPools(settings.database_timeout)
        self.media_events: MediaEvents = MediaEvents(settings, self.pools)
        self.counts: BackgroundCounts = BackgroundCounts()
        self.data_metrics: DataMetrics = DataMetrics(registry, self.metrics, self.counts)
        self.comparisons: EpochComparisons = EpochComparisons()
        self.auth: Authenticator = Authenticator(registry, settings, self.pools)
        self.bodies: BodyReader = BodyReader(settings, self.metrics)
        address = address_of(registry.engine.url)
        self.sessions: Sessions = Sessions(
            session_key(cache_folder()), address, settings.session_seconds
        )
        self.overview: Recent[Any] = Recent(_FRESH)
        """What the page of all datasets has of each (see `pages/datasets.py`)."""
        self.growths: RecentOf[Any] = RecentOf(_FRESH, 128)
        """How datasets grew, by the numbers of those of a page."""
        self.shared_pages: RecentOf[SharedPage] = RecentOf(_FRESH, 128, _STALE)
        self.shared_pictures: RecentOf[tuple[str, Thumbnail | None]] = RecentOf(_FRESH, 128)
        """Pictures with their tags, as `pages/sample.py` sends them."""
        self._datasets: dict[str, OpenDataset] = {}
        self._committers: dict[str, GroupCommitter] = {}

    async def open(self, name: str) -> OpenDataset:
        """Open a dataset, or a version of one, and keep a dataset open for later requests.

        Raises `DatasetNotFoundError` or `VersionError`.
        """
        if (dataset := self._datasets.get(name)) is not None:
            return dataset
        return await self.pools.read(self.open_here, name)

    def open_here(self, name: str) -> OpenDataset:
        """Return what `open` does. Blocks: call it in a thread."""
        if (dataset := self._datasets.get(name)) is not None:
            return dataset
        # The name is any text of a URL: without this, each invalid one would cost a query.
        if not _NAME.fullmatch(name):
            raise DatasetNotFoundError(name[:200], ())
        dataset = OpenDataset(self.registry, name)
        # Not for versions: a dataset has as many as it has positions, and all would stay open.
        return dataset if "@" in name else self._datasets.setdefault(name, dataset)

    async def names_media(self, dataset: OpenDataset) -> bool:
        """Return whether an event may have to fetch the content of a feature of the dataset."""
        if self.settings.media.fetcher is None:
            return False
        return await self.pools.read(dataset.names_media)

    async def commit(self, dataset: OpenDataset, changes: Sequence[Change]) -> Report:
        """Commit changes together with other requests to the dataset: `GroupCommitter.commit`."""
        # No await between the lookup and the assignment: a dataset must have one committer only.
        committer = self._committers.get(dataset.name)
        if committer is None:
            committer = GroupCommitter(
                dataset.name, dataset.apply, self.pools.writers, self.settings, self.metrics
            )
            self._committers[dataset.name] = committer
        return await self.pools.in_time(committer.commit(changes))

    def close(self) -> None:
        """Shut the thread pools down. All requests must have been answered."""
        self.media_events.close()
        self.data_metrics.close()
        self.counts.close()
        self.comparisons.close()
        self.pools.close()
