"""The runs of a dataset: opened, created and removed by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex

from sqlalchemy import Engine

from registry.catalog.extent import Extent
from registry.samples.splits import Interval, interval
from registry.storage.log.reader import Log
from registry.training import run_store
from registry.training.balanced_runs import BalancedRuns
from registry.training.conditions import Where
from registry.training.mix import Mix, mix
from registry.training.policy import Policy
from registry.training.run import Run
from registry.training.run_request import RunRequest
from registry.training.run_store import RunSettings
from registry.training.sources import Sources


@dataclass(frozen=True)
class Runs:
    """The runs of the dataset ``name``; see the methods of `Dataset` for what these do."""

    log: Log
    name: str
    splits: dict[str, Interval]
    sources: Sources
    extent: Extent

    def all(self) -> list[Run]:
        """Open every run, in the alphabetical order of their names."""
        return [self._open(run) for run in run_store.all_settings(*self._dataset)]

    def find(self, name: str) -> Run:
        """Open a run that exists; raises `RunNotFoundError` if there is none."""
        return self._open(run_store.find(*self._dataset, name))

    def remove(self, name: str) -> None:
        """Remove a run with its epochs; raises `RunNotFoundError` if there is none."""
        run_store.remove(self.log.engine, run_store.find(*self._dataset, name))

    def open(self, request: RunRequest) -> Run:
        """Open the run that is asked for, or create it."""
        return self._open(run_store.get_or_create(*self._dataset, request))

    def balanced(self, request: RunRequest, by: str, classes: Sequence[str | int] | None) -> Mix:
        """Open the mix of the runs of each class, or create them."""
        buckets = interval(self.splits, request.split)
        runs = BalancedRuns(self.log, self.sources, request, by, buckets)
        opened = [self._open(run) for run in runs.open(classes, self.extent.head)]
        return mix([(run, 1) for run in opened], seed=opened[0].seed)

    def request(
        self,
        name: str,
        seed: SupportsIndex | None,
        split: str | None,
        policy: Policy | None,
        where: Where | None,
        *,
        refresh: bool,
    ) -> RunRequest:
        """Return a request with the features that a run may have conditions on.

        ``refresh`` reads them again. Raises `FeatureError` for an unknown split, before the row of
        a run is created.
        """
        interval(self.splits, split)
        version = self.extent.version
        # A class or a feature may just have been added by another process.
        if refresh and version is None:
            self.log.schemas.refresh()
        features = self.extent.schema.features
        return RunRequest(name, features, seed, split, policy, version=version, where=where)

    @property
    def _dataset(self) -> tuple[Engine, int]:
        return self.log.engine, self.log.dataset_id

    def _open(self, run: RunSettings) -> Run:
        return Run(self.log, run, interval(self.splits, run.split), self.sources, self.name)
