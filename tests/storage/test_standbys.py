"""Standbys: rows not received yet are waited for; a replica is read while it keeps up."""

from __future__ import annotations

import itertools
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Connection

import registry
from registry import Dataset, Page, Registry, Text
from registry.errors import InvalidURLError, LogGapError, ReplicaBehindError, ReplicaWarning
from registry.storage.database.retry import logger
from registry.storage.database.transactions import reading
from registry.storage.log import paging, replica
from registry.storage.log.following import await_growth
from registry.storage.log.notifications import Pause, listening
from registry.storage.log.page_queries import fetch
from registry.storage.log.paging import pages
from registry.storage.log.reader import Log
from registry.storage.log.standby import missing_rows
from registry.storage.log.watermark import Watermark
from registry.storage.mirror.mirror import open_mirror
from registry.training.database_source import DatabaseSource
from tests.support.clusters import Cluster, catch_up, cluster, pause, resume, set_up, standby
from tests.support.growing_datasets import KINDS, Kind, due, yielded
from tests.support.proxy import proxied

NAMES = (f"growing-{number}" for number in itertools.count())


def text(url: URL) -> str:
    return url.render_as_string(hide_password=False)


@dataclass
class Pair:
    """A primary, and a standby that the tests pause and resume."""

    primary: Cluster
    follower: Cluster

    @property
    def either(self) -> str:
        """A URL whose connections are each to one of the two."""
        hosts = f"{self.primary.host},{self.follower.host}"
        query = {"host": hosts, "load_balance_hosts": "random"}
        return text(self.primary.url.update_query_dict(query))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause the standby at what the primary has now."""
        catch_up(self.follower, self.primary)
        pause(self.follower)
        try:
            yield
        finally:
            resume(self.follower)

    @contextmanager
    def resuming(self) -> Iterator[list[Exception]]:
        """Resume the standby at the first retry in the block; yield the reasons of the retries."""
        reasons: list[Exception] = []

        class Resume(logging.Handler):
            def emit(_, record: logging.LogRecord) -> None:  # noqa: N805
                reasons.append(record.__dict__["cause"])
                resume(self.follower)

        handler = Resume()
        logger.addHandler(handler)
        try:
            yield reasons
        finally:
            logger.removeHandler(handler)
        assert reasons
        assert {type(reason) for reason in reasons} == {ReplicaBehindError}


# psycopg's own libpq balances over hosts, whatever the version of the servers.
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
    growing = reg.create(next(NAMES), kind.features, splits={"train": 0.8, "test": 0.2})
    kind.grow(growing, 30)
    growing.run("r").epoch(0)
    return growing


def log(dataset: Dataset) -> Log:
    return dataset.run("r").log


@FIXED_ALONE  # others are read on one connection
def test_a_head_and_pages_from_two_servers_make_the_whole_log(
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


def test_reads_wait_for_rows_that_a_standby_has_not_received(
    pair: Pair, lagging: Registry, dataset: Dataset, kind: Kind, cache: Path
) -> None:
    with pair.paused():
        behind = lagging.open(dataset.name)
        standby_log = log(behind)
        kind.grow(dataset, 10)
        with pair.resuming() as reasons:
            assert [page.stop for page in pages(standby_log, 0, 46)] == [33, 46]
        assert "standby that has not received positions [33, 34) of the log" in str(reasons[0])
    with pair.paused():
        kind.grow(dataset, 10)
        end = Watermark.of(dataset.head)
        with pair.resuming():
            assert open_mirror(standby_log, cache / "fresh").sync(end).position == 59
    with pair.paused():
        # The mirror has rows that the standby lacks, but not all that are wanted.
        kind.grow(dataset, 10)
        dataset.run("other").epoch(0)
        kind.grow(dataset, 2000)
        end = Watermark.of(dataset.head)
        with pair.resuming():
            assert open_mirror(standby_log, cache).sync(end).position == 2075
    with pair.paused():
        kind.grow(dataset, 10)
        epoch = dataset.run("r").epoch(1)
        source = DatabaseSource(standby_log, Watermark(epoch.watermark, epoch.chain))
        with pair.resuming():
            assert source.index(epoch._population, None).size == epoch.size
    assert yielded(epoch) == due(behind, epoch)


@FIXED_ALONE
def test_an_epoch_that_a_standby_has_not_received_is_no_divergence(
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
def test_versions_entries_and_verification_wait_for_a_standby(
    pair: Pair, lagging: Registry, dataset: Dataset, kind: Kind
) -> None:
    with pair.paused():
        behind = lagging.open(dataset.name)
        kind.grow(dataset, 10)
        head = dataset.head
        with pair.resuming() as reasons:
            assert lagging.open(str(dataset.version)).head == replace(head, erased=0)
        assert "has not received position 45 of the log" in str(reasons[0])
    with pair.paused():
        kind.grow(dataset, 10)
        head = dataset.head
        with pytest.MonkeyPatch.context() as patch, pair.resuming():
            patch.setattr(Log, "head", lambda _: head)  # as read from the primary
            assert len(behind.entries()) == 59
    assert behind.verify()[0].differs is None


@FIXED_ALONE
def test_a_reader_ahead_of_a_standby_waits_for_it(
    pair: Pair, lagging: Registry, dataset: Dataset, kind: Kind
) -> None:
    with pair.paused():
        standby_log = log(lagging.open(dataset.name))
        kind.grow(dataset, 10)
        head = dataset.head
        assert await_growth(standby_log, 46, time.monotonic(), head.chain) is None
    kind.grow(dataset, 10)
    grown = await_growth(standby_log, 46, chain=head.chain)
    assert grown is not None
    assert grown.head.position > 46


@FIXED_ALONE
def test_a_standby_may_lack_a_dataset_but_a_gap_in_its_log_is_an_error(
    pair: Pair, lagging: Registry, dataset: Dataset
) -> None:
    with reading(lagging.engine) as connection:
        assert type(missing_rows(connection, dataset.id + 1, 0, 1, 0)) is ReplicaBehindError
    pair.primary.do(
        "ALTER TABLE samples DISABLE TRIGGER ALL",
        f"DELETE FROM samples WHERE dataset_id = {dataset.id} AND position = 4",
        "ALTER TABLE samples ENABLE TRIGGER ALL",
    )
    catch_up(pair.follower, pair.primary)
    with pytest.raises(LogGapError):
        list(lagging.open(dataset.name).pages())


@FIXED_ALONE
def test_a_follower_of_a_standby_gets_new_rows(
    pair: Pair, lagging: Registry, dataset: Dataset, kind: Kind
) -> None:
    catch_up(pair.follower, pair.primary)
    behind = lagging.open(dataset.name)
    with listening(lagging.engine, dataset.id) as watch:
        watch.wait(0.001)  # a standby notifies nobody, and refuses to
    followed = behind.follow(after=33)
    kind.grow(dataset, 10)
    assert next(followed).start == 33


@FIXED_ALONE
def test_a_schema_that_a_standby_has_not_received_is_waited_for(
    pair: Pair, lagging: Registry, dataset: Dataset, kind: Kind, read_from: list[str]
) -> None:
    def names(page: Page) -> list[str]:
        return list(page.columns)

    old = [*kind.features]
    behind = lagging.open(dataset.name)
    assert list(behind.features) == old
    with pair.paused():
        dataset.add_feature("note", Text(), "none")
        kind.grow(dataset, 10)
        with pair.resuming():
            read_pages = [*pages(log(behind), 0, 46)]
    assert [names(page) for page in read_pages] == [old, [*old, "note"]]
    with pair.paused():
        dataset.add_feature("more", Text(), "more")
        with pair.resuming():
            assert [*behind.schemas.numbered(2).features] == [*old, "note", "more"]
    # Pages of a replica are decoded by the schemas of the primary.
    read_from.clear()
    with near(pair) as opened:
        both = opened.open(dataset.name)
        both.insert([{**kind.sample(7), "more": "less"}])
        *_, last = both.pages()
    assert last["note"].tolist() == ["none"]
    assert last["more"].tolist() == ["less"]
    assert {*read_from} == {pair.follower.host}


@pytest.fixture
def read_from(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders of the servers from which pages are read."""
    hosts: list[str] = []

    def recorded(connection: Connection, *range_: Any) -> Page:
        hosts.append(str(connection.engine.url.query["host"]))
        return fetch(connection, *range_)

    monkeypatch.setattr(paging, "fetch", recorded)
    return hosts


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop waiting for a replica soon, and try it again at once."""
    monkeypatch.setattr(replica, "LAG", 0.3)
    monkeypatch.setattr(paging, "LAG", 0.3)
    monkeypatch.setattr(replica, "RETRY", 0.0)
    monkeypatch.setattr(replica, "_SHARE", 0.0)


@contextmanager
def near(pair: Pair, url: str | None = None) -> Iterator[Registry]:
    """Connect to the primary, with the standby as a replica, or another."""
    given = text(pair.follower.url) if url is None else url
    with registry.connect(text(pair.primary.url), replica=given) as opened:
        yield opened


def pages_until(pages: Iterable[Page], end: int) -> Iterator[Page]:
    """Yield pages up to the one that ends at ``end``."""
    for page in pages:
        yield page
        if page.stop == end:
            return


def positions(pages: Iterable[Page]) -> list[int]:
    return [position for page in pages for position in range(page.start, page.stop)]


def test_pages_followers_and_mirrors_are_read_from_the_replica(
    pair: Pair, dataset: Dataset, kind: Kind, read_from: list[str], cache: Path
) -> None:
    shutil.rmtree(cache)
    with near(pair) as opened:
        both = opened.open(dataset.name)
        assert positions(both.pages(2, 30)) == [*range(2, 30)]
        followed = both.follow(after=33)
        kind.grow(both, 10)
        assert next(followed).start == 33
        epoch = both.run("r").epoch(1)
        assert yielded(epoch) == due(both, epoch)
        assert read_from
        assert {*read_from} == {pair.follower.host}
        read_from.clear()
        assert [result.differs for result in both.verify()] == [None, None]
        assert {*read_from} == {pair.primary.host}


@FIXED_ALONE
def test_a_replica_is_waited_for_while_it_catches_up(
    pair: Pair,
    dataset: Dataset,
    kind: Kind,
    read_from: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replica, "LAG", 60.0)

    def catch_up_meanwhile(_: Pause) -> float:
        resume(pair.follower)
        return 0.01

    with near(pair) as opened, pair.paused():
        kind.grow(dataset, 10)
        monkeypatch.setattr(Pause, "next", catch_up_meanwhile)
        assert positions(opened.open(dataset.name).pages()) == [*range(46)]
    assert {*read_from} == {pair.follower.host}


@pytest.mark.usefixtures("soon")
def test_rows_the_replica_lacks_come_from_the_primary_with_one_warning(
    pair: Pair,
    dataset: Dataset,
    kind: Kind,
    read_from: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    primary, follower = pair.primary.host, pair.follower.host
    with near(pair) as opened:
        both = opened.open(dataset.name)
        for rows in (33, 46):
            with pair.paused():
                kind.grow(both, 10)
                with pytest.warns(ReplicaWarning, match=f"has {rows} rows of {rows + 13}"):
                    assert positions(both.pages()) == [*range(rows + 13)]
                assert positions(both.pages()) == [*range(rows + 13)]
                assert read_from == [follower, primary, primary]
                # What is pinned, recorded and moved from the inbox is the primary's.
                run = both.run(f"at {rows}")
                assert run.epoch(0).watermark == rows + 13
                run.record(consumed=5)
                assert run.consumed == 5
            catch_up(pair.follower, pair.primary)
            read_from.clear()
            assert positions(both.pages()) == [*range(rows + 13)]
            assert read_from == [follower]
            read_from.clear()
        monkeypatch.setattr(replica, "RETRY", 3600.0)
        with pair.paused():
            kind.grow(both, 10)
            with pytest.warns(ReplicaWarning, match="has 59 rows of 72"):
                next(both.pages(after=59))
        catch_up(pair.follower, pair.primary)
        next(both.pages())
        assert read_from == [primary, primary]


@pytest.mark.usefixtures("soon")
@FIXED_ALONE
def test_erased_rows_are_not_read_from_a_replica_that_still_has_them(
    pair: Pair, dataset: Dataset
) -> None:
    dataset.erase("4")
    with near(pair) as opened, pair.paused():
        both = opened.open(dataset.name)
        both.erase("5")
        with pytest.warns(ReplicaWarning, match="still has the content of 1 rows"):
            (page,) = both.pages(0, 33)
        assert page.erased.tolist() == [4, 5]


@pytest.mark.usefixtures("soon")
@FIXED_ALONE
def test_a_replica_that_is_down_or_diverged_is_not_read(
    pair: Pair, dataset: Dataset, kind: Kind, read_from: list[str], tmp_path: Path
) -> None:
    name = f"others_{dataset.id}"
    pair.primary.do(f"CREATE DATABASE {name}")
    another = pair.primary.url.set(database=name, password="hsif-drows")
    set_up(another)
    down = another.update_query_dict({"host": str(tmp_path)})
    for url, why in [(down, "No such file"), (another, "it has no dataset of uid")]:
        with near(pair, text(url)) as opened:
            assert "hsif" not in repr(opened)
            with pytest.warns(ReplicaWarning, match=why) as warned_of:
                assert positions(opened.open(dataset.name).pages()) == [*range(33)]
            assert "hsif" not in str(warned_of[0].message)
    copy = ["copy", text(pair.primary.url), text(another), dataset.name]
    subprocess.run([sys.executable, "-m", "registry", *copy], check=True, capture_output=True)
    with registry.connect(text(another)) as other:
        kind.grow(other.open(dataset.name), 20, 500)
    kind.grow(dataset, 10)
    another_history = (
        rf"chain at position 46 is \w+, where the primary has {dataset.head.chain.hex()}"
    )
    warned = pytest.warns(ReplicaWarning, match=another_history)
    with near(pair, text(another)) as opened, warned:
        assert positions(opened.open(dataset.name).pages()) == [*range(46)]
    assert {*read_from} == {pair.primary.host}


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("kind", [KINDS["variable"]], ids=["variable"])  # a page at a time
def test_the_primary_takes_over_when_a_replica_goes_down(
    pair: Pair, dataset: Dataset, kind: Kind, read_from: list[str]
) -> None:
    kind.grow(dataset, 200)
    catch_up(pair.follower, pair.primary)
    with ExitStack() as up:
        _, through = up.enter_context(proxied(pair.follower.url))
        with near(pair, f"{text(through)}?host=localhost") as opened:
            # Without a limit of patience: the replica must not be waited for like the primary.
            remaining = opened.open(dataset.name).follow()
            first = next(remaining)
            up.close()
            with pytest.warns(ReplicaWarning, match="refused"):
                rest = list(pages_until(remaining, 236))
        assert positions([first, *rest]) == [*range(236)]
    assert {*read_from} == {pair.primary.host, "localhost"}


def test_a_replica_is_given_by_argument_or_variable_and_not_for_sqlite(
    sqlite_url: str, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidURLError, match="SQLite files have none; leave the replica out"):
        registry.connect(sqlite_url, replica="postgresql://host/database")
    with pytest.raises(InvalidURLError, match="SQLite files have none; leave the replica out"):
        registry.connect("postgresql://host/database", replica=sqlite_url)
    monkeypatch.setenv("REGISTRY_REPLICA_URL", "postgresql://me:hsif@near/base?password=drows")
    with registry.connect(sqlite_url) as reg:
        assert reg.replica is None
    with registry.connect(postgresql_url, replica="") as reg:
        assert reg.replica is None
    with registry.connect(postgresql_url, timeout=12) as reg:
        assert reg.replica is not None
        assert reg.replica.engine.get_execution_options()["registry_timeout"] == 12
        assert repr(reg).endswith(", replica postgresql+psycopg://me:***@near/base>")
    with registry.connect(postgresql_url, replica="postgresql://far/base") as reg:
        assert repr(reg).endswith(", replica postgresql+psycopg://far/base>")
