"""Standbys that lag: what they have not received yet is waited for, not taken for lost."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sqlalchemy import URL
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

import registry
from registry import Dataset, Registry
from registry.cursor import Log, pages
from registry.errors import ReplicaBehindError
from registry.mirror import Mirror
from registry.notifications import listening
from registry.source import DatabaseSource
from tests.clusters import Cluster, catch_up, cluster, pause, resume, set_up, standby
from tests.mirrors import KINDS, Kind, due, yielded

NAMES = (f"growing-{number}" for number in itertools.count())


def text(url: URL) -> str:
    return url.render_as_string(hide_password=False)


@dataclass
class Pair:
    """A primary, and a standby that the tests have stop and resume."""

    primary: Cluster
    follower: Cluster

    @property
    def either(self) -> str:
        """A URL of which each connection is to one of the two."""
        hosts = f"{self.primary.host},{self.follower.host}"
        query = {"host": hosts, "load_balance_hosts": "random"}
        return text(self.primary.url.update_query_dict(query))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Have the standby show nothing more from what the primary has now."""
        catch_up(self.follower, self.primary)
        pause(self.follower)
        try:
            yield
        finally:
            resume(self.follower)

    @contextmanager
    def resuming(self) -> Iterator[list[Exception]]:
        """Let the standby catch up once something is tried again; lend the reasons for that."""
        reasons: list[Exception] = []

        def hook(details: RetryDetails) -> None:
            reasons.append(details.caused_by)
            resume(self.follower)

        set_on_retry_hooks([hook])
        try:
            yield reasons
        finally:
            set_on_retry_hooks(None)
        assert reasons
        assert {type(reason) for reason in reasons} == {ReplicaBehindError}


# The libpq that psycopg brings balances over hosts; servers of any version may be behind it.
@pytest.fixture(scope="module", params=[None, "15"], ids=["wheel", "15"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with cluster(version=request.param) as primary:
        set_up(primary.url)
        with standby(primary) as follower:
            yield Pair(primary, follower)


@pytest.fixture(params=["fixed", "variable"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


FIXED_ALONE = pytest.mark.parametrize("kind", [KINDS["fixed"]], ids=["fixed"])


@pytest.fixture
def reg(pair: Pair) -> Iterator[Registry]:
    with registry.connect(text(pair.primary.url)) as opened:
        yield opened


@pytest.fixture
def lagging(pair: Pair) -> Iterator[Registry]:
    with registry.connect(text(pair.follower.url)) as opened:
        yield opened


@pytest.fixture
def dataset(reg: Registry, kind: Kind) -> Dataset:
    """A dataset with a run that has had its first epoch; 33 rows."""
    made = reg.create(next(NAMES), kind.features, splits={"train": 0.8, "test": 0.2})
    kind.grow(made, 30)
    made.run("r").epoch(0)
    return made


def log(dataset: Dataset) -> Log:
    return dataset.run("r").log


@FIXED_ALONE  # others are read on one connection
def test_a_head_from_one_server_and_pages_from_another_make_the_whole_log(
    pair: Pair, dataset: Dataset, kind: Kind
) -> None:
    with pair.paused():
        kind.grow(dataset, 3000)
        for _ in range(12):
            with registry.connect(pair.either) as either:
                read = either.open(dataset.name)
                end = read.head.position
                ranges = [(page.start, page.stop) for page in read.pages()]
            assert end in (33, 3036)
            assert [start for start, _ in ranges] == [0, *(stop for _, stop in ranges[:-1])]
            assert ranges[-1][1] in (33, 3036)


def test_rows_that_a_standby_has_not_received_are_waited_for(
    pair: Pair, lagging: Registry, dataset: Dataset, kind: Kind, cache: Path
) -> None:
    with pair.paused():
        behind = lagging.open(dataset.name)
        there = log(behind)
        kind.grow(dataset, 10)
        with pair.resuming() as reasons:
            assert [page.stop for page in pages(there, 0, 46)] == [46]
        assert "standby that has not received positions [0, 46) of the log" in str(reasons[0])
    with pair.paused():
        kind.grow(dataset, 10)
        head = dataset.head
        with pair.resuming():
            assert Mirror(there, cache / "fresh").sync(head.position, head.chain).position == 59
    with pair.paused():
        # The mirror has rows that the standby lacks, but not all that are wanted.
        kind.grow(dataset, 10)
        dataset.run("other").epoch(0)
        kind.grow(dataset, 2000)
        head = dataset.head
        with pair.resuming():
            assert Mirror(there, cache).sync(head.position, head.chain).position == 2075
    with pair.paused():
        kind.grow(dataset, 10)
        epoch = dataset.run("r").epoch(1)
        without = DatabaseSource(there, epoch.watermark, epoch.chain)
        with pair.resuming():
            assert without.index(epoch._population, None).size == epoch.size
    assert yielded(epoch) == due(behind, epoch)


@FIXED_ALONE
def test_an_epoch_that_a_standby_has_not_received_is_no_other_history(
    pair: Pair, lagging: Registry, dataset: Dataset, kind: Kind
) -> None:
    with pair.paused():
        theirs = lagging.open(dataset.name).run("r")
        kind.grow(dataset, 10)
        epoch = dataset.run("r").epoch(1)
        with pair.resuming():
            again = theirs.epoch(1)
    assert (again.watermark, again.chain) == (46, epoch.chain)
    with pair.paused():
        end = epoch.start + epoch.size
        kind.grow(dataset, 10)
        dataset.run("r").epoch(2)
        with pair.resuming():
            assert theirs.at(end + 1).number == 2


@FIXED_ALONE
def test_a_version_entries_and_a_proof_wait_for_a_standby(
    pair: Pair, lagging: Registry, dataset: Dataset, kind: Kind
) -> None:
    with pair.paused():
        behind = lagging.open(dataset.name)
        kind.grow(dataset, 10)
        head = dataset.head
        with pair.resuming():
            assert lagging.open(str(dataset.version)).head == replace(head, erased=0)
    with pair.paused():
        kind.grow(dataset, 10)
        head = dataset.head
        with pytest.MonkeyPatch.context() as patch, pair.resuming():
            patch.setattr(Log, "head", lambda _: head)  # as another server has it
            assert len(behind.entries()) == 59
    assert behind.verify()[0].differs is None


@FIXED_ALONE
def test_a_follower_of_a_standby_gets_what_comes_there(
    pair: Pair, lagging: Registry, dataset: Dataset, kind: Kind
) -> None:
    catch_up(pair.follower, pair.primary)
    behind = lagging.open(dataset.name)
    with listening(lagging.engine, dataset.id) as wait:
        wait(0.001)  # a standby notifies nobody, and refuses to
    followed = behind.follow(after=33)
    kind.grow(dataset, 10)
    assert next(followed).start == 33
