"""The runs of a balanced mix: one for each class of a feature, under names that tell the class.

They are created together, in one transaction. So the runs that exist say which classes the mix has.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import Connection

from registry.errors import EpochError, FeatureError, RunMismatchError
from registry.samples.splits import Interval
from registry.storage.database.transactions import write
from registry.storage.log.head import Head
from registry.storage.log.reader import Log
from registry.storage.log.watermark import Watermark
from registry.training import run_store
from registry.training.class_weights import class_label, count_classes
from registry.training.conditions import AnyOf, Value
from registry.training.parse_conditions import parse_conditions
from registry.training.population import Population
from registry.training.run_request import RunRequest
from registry.training.run_store import RunSettings
from registry.training.schedule import LARGEST
from registry.training.sharding import CHUNK_ROWS
from registry.training.sources import Sources


@dataclass(frozen=True)
class BalancedRuns:
    """The runs that a ``request`` asks for, one for each class of the feature ``by``.

    ``interval`` are the buckets of the split.
    """

    log: Log
    sources: Sources
    request: RunRequest
    by: str
    interval: Interval

    def open(
        self, classes: Sequence[str | int] | None, head: Callable[[], Head]
    ) -> list[RunSettings]:
        """Return the runs, in the order of their classes; create them if there are none.

        ``head`` reads up to where every class must have a sample when they are created. Raises
        `FeatureError` for arguments that are not valid, `EpochError` for a class without samples,
        and `RunMismatchError` if the runs have other classes or settings.
        """
        self.request.check()
        wanted = self._wanted(classes)
        existing = self._existing()
        if not existing:
            self._check_number(len(wanted))
            self._check_samples(wanted, head())
            requests = [self._request_of(each) for each in wanted]
            write(self.log.engine, self._create, requests)
            existing = self._existing()
        if classes is not None and existing != wanted:
            raise RunMismatchError(
                f"the runs {self.request.name!r}/… are of the classes {reprlib.repr(existing)}, "
                f"not {reprlib.repr(wanted)}; leave classes= out to continue them, or choose "
                "another name"
            )
        # Without conditions, those of the runs are not compared.
        given = self.request.where is not None
        requests = [self._request_of(each) for each in existing]
        return [
            run_store.get_or_create(
                self.log.engine, self.log.dataset_id, each if given else replace(each, where=None)
            )
            for each in requests
        ]

    @property
    def _all(self) -> list[Value]:
        label = class_label(self.request.features, self.by, "it has no classes to balance")
        return list(label.names or range(label.count))

    def _wanted(self, classes: Sequence[str | int] | None) -> list[Value]:
        """Return the classes to be balanced, in the order of the feature's."""
        known = self._all
        if self.by in (self.request.where or {}):
            raise FeatureError(
                f"where has a condition on {self.by!r}, which the mix is balanced by: name its "
                "classes by classes=[…]"
            )
        if classes is None:
            return known
        listed = isinstance(classes, Iterable) and not isinstance(classes, str)
        if not listed or not list(classes):
            raise FeatureError(
                f"classes is a list of at least one class of {self.by!r}, such as "
                f"{_text(known[:2])}, not {classes!r:.200}"
            )
        chosen = parse_conditions({self.by: list(classes)}, self.request.features).features[0][1]
        assert isinstance(chosen, AnyOf)
        return [each for each in known if each in chosen.values]

    def _existing(self) -> list[Value]:
        """Read which classes there are runs of. Raises `RunMismatchError` if one is of others."""
        runs = run_store.all_settings(self.log.engine, self.log.dataset_id)
        by_name = {run.name: run for run in runs}
        existing = []
        for each in self._all:
            run = by_name.get(self._name(each))
            if run is None:
                continue
            if dict(run.conditions.features).get(self.by) != AnyOf((each,)):
                raise RunMismatchError(
                    f"run {run.name!r} exists and is not that of class {each!r} of {self.by!r}; "
                    "choose another name"
                )
            existing.append(each)
        return existing

    def _name(self, value: Value) -> str:
        return f"{self.request.name}/{value}"

    def _request_of(self, value: Value) -> RunRequest:
        where = {**(self.request.where or {}), self.by: value}
        return replace(self.request, name=self._name(value), where=where)

    def _create(self, connection: Connection, requests: Sequence[RunRequest]) -> None:
        """Create all runs, unless another worker has created the first one, and so its own."""
        for number, request in enumerate(requests):
            values = request.values(request.conditions(of_rows=False))
            if not run_store.insert(connection, self.log.dataset_id, values) and number == 0:
                return

    def _check_number(self, classes: int) -> None:
        if classes > LARGEST:
            raise FeatureError(
                f"{classes:,} classes of {self.by!r} would be balanced, and a mix has at most "
                f"{LARGEST:,} runs: choose some by classes=[…]"
            )

    def _check_samples(self, classes: Sequence[Value], head: Head) -> None:
        """Raise `EpochError` for classes that have no sample up to a head."""
        where = {**(self.request.where or {}), self.by: list(classes)}
        conditions = parse_conditions(where, self.request.features)
        population = Population(head.position, self.interval, conditions=conditions)
        source = self.sources.open(Watermark.of(head), head.schema)
        index = source.index(population, None)
        known = self._all
        label = class_label(self.request.features, self.by)
        ranks = (
            np.arange(after, min(index.size, after + CHUNK_ROWS))
            for after in range(0, index.size, CHUNK_ROWS)
        )
        counts = count_classes(source, self.by, label, map(index.positions, ranks))
        known = self._all
        lacking = [each for each in classes if not counts[known.index(each)]]
        if not lacking:
            return
        others = [each for each in classes if each not in lacking]
        split = self.request.split
        holder = "the dataset" if split is None else f"split {split!r}"
        which = " that meets the other conditions" if self.request.where else ""
        remedy = f", or leave it out: classes={_text(others)}" if others else ""
        raise EpochError(
            f"{holder} has no sample of class {_text(lacking)[1:-1]} of {self.by!r}{which} yet; "
            f"insert one{remedy}"
        )


def _text(classes: Sequence[Value]) -> str:
    shown = [repr(each) for each in classes[:10]]
    return f"[{', '.join([*shown, *(['…'] if len(classes) > 10 else [])])}]"
