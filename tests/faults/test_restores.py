"""Databases that are dumped and restored, copied, or replaced by a standby."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from sqlalchemy import URL

import registry
from registry import Dataset, Page, Registry, Replay, Run
from registry.catalog.doctor.examine import examine
from registry.errors import DivergenceError, DivergenceWarning, VersionError
from registry.storage.log import paging
from registry.training.policy import Policy
from tests.catalog.test_copy import contents
from tests.support.clusters import (
    Cluster,
    base_backup,
    catch_up,
    cluster,
    cut_off,
    restored,
    set_up,
    standby,
    tool,
)
from tests.support.commands import run
from tests.support.figures import Figure, rounds
from tests.support.growing_datasets import KINDS, Kind, Row, due, yielded
from tests.support.growing_datasets import rows as rows_of

POLICIES: dict[str, Policy] = {"every": "all", "new": "new", "replay": Replay(0.5)}


@pytest.fixture(scope="module")
def clusters() -> Iterator[tuple[Cluster, Cluster]]:
    """A server with the schema, and one that has run fewer transactions."""
    with cluster() as older, cluster() as younger:
        set_up(older.url)
        older.do(
            "DO $$ BEGIN FOR n IN 1..10000 LOOP"
            " PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
        )
        yield older, younger


def kind_of(number: int) -> Kind:
    """Return the kind of dataset that a round is for."""
    return KINDS["fixed" if number % 2 else "variable"]


def text(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def train(dataset: Dataset, kind: Kind) -> None:
    """Pin two epochs of a run of each policy, and stop in the middle of the first."""
    for _ in range(2):
        kind.grow(dataset, 30)
        for number, (name, policy) in enumerate(POLICIES.items()):
            trained = dataset.run(name, seed=number, split="train", policy=policy)
            trained.epoch(0 if trained.last is None else 1)
            trained.record(13)


def next_rows(dataset: Dataset) -> list[Row]:
    """Return the rows that each run is trained on next, from its present position."""
    following = []
    for name in POLICIES:
        # Beyond the pinned epochs, if the policy has samples for another one.
        batches = dataset.run(name).stream(5)
        following += [row for batch in islice(batches, 6) for row in rows_of(batch)]
    return following


def check_same(source: Registry, target: Registry) -> None:
    """Check that two databases have the same rows, and that their runs continue with the same."""
    assert contents(target) == contents(source)
    copy, dataset = target.open("growing"), source.open("growing")
    assert copy.head == dataset.head
    assert {result.differs for result in copy.verify()} == {None}
    assert next_rows(copy) == next_rows(dataset)


@rounds(1, 10)
def test_a_dump_restored_into_a_younger_cluster_is_the_same_registry(
    rounds: int,
    clusters: tuple[Cluster, Cluster],
    tmp_path: Path,
    figure: Figure,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    older, younger = clusters
    for number in range(rounds):
        restored = younger.url.set(database=f"restored_{rounds}_{number}")
        younger.do(f"CREATE DATABASE {restored.database}")
        with registry.connect(text(older.url)) as source:
            train(kind_of(number).create(source), kind_of(number))
            assert _transactions(younger) < _transactions(older)
            file = str(tmp_path / f"{number}.dump")
            dump = ["-Fc", "-f", file, "-d", _plain(older.url)]
            subprocess.run([tool("pg_dump"), *dump], check=True)
            restore = ["--exit-on-error", "-d", _plain(restored), file]
            subprocess.run([tool("pg_restore"), *restore], check=True)
            with registry.connect(text(restored)) as target:
                check_same(source, target)
                _check_elsewhere(source, target, monkeypatch, tmp_path / f"{number}")
            source.drop("growing")
    figure(
        f"pg_dump restored into a younger cluster, {rounds} times",
        "same positions and chains, runs continue with the same batches",
    )


@rounds(1, 10)
def test_a_registry_copied_from_sqlite_to_postgresql_and_back_is_the_same(
    rounds: int,
    postgresql_url: str,
    tmp_path: Path,
    figure: Figure,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(rounds):
        first, last = (f"sqlite:///{tmp_path / f'{number}-{name}.db'}" for name in "az")
        with (
            registry.connect(first) as source,
            registry.connect(postgresql_url) as target,
            registry.connect(last) as back,
        ):
            train(kind_of(number).create(source), kind_of(number))
            run("copy", first, postgresql_url, "growing")
            check_same(source, target)
            run("copy", postgresql_url, last, "growing")
            check_same(target, back)
            _check_elsewhere(source, back, monkeypatch, tmp_path / f"{number}")
            target.drop("growing")
    figure(
        f"SQLite copied to PostgreSQL and back, {rounds} times",
        "same positions and chains, runs continue with the same batches",
    )


def _check_elsewhere(
    source: Registry, target: Registry, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Check that runs continue with the same rows on a machine without a mirror."""
    expected = next_rows(source.open("growing"))
    with monkeypatch.context() as patch:
        patch.setenv("REGISTRY_CACHE", str(folder))
        assert next_rows(target.open("growing")) == expected


def _transactions(of: Cluster) -> int:
    return int(of.ask("SELECT pg_snapshot_xmax(pg_current_snapshot())::text"))


def _plain(url: URL) -> str:
    return text(url.set(drivername="postgresql"))


@pytest.mark.timeout(900)
@rounds(1, 10)
def test_a_standby_promoted_without_the_last_commits_is_detected_by_all_that_had_read_them(
    rounds: int, figure: Figure
) -> None:
    for number in range(rounds):
        with cluster() as primary:
            set_up(primary.url)
            with standby(primary) as follower:
                _fail_over(kind_of(number + 1), primary, follower)
    figure(
        f"standby promoted without the last commits, {rounds} times",
        "run, writer, follower and mirror each raise an error with the position",
    )


def _fail_over(kind: Kind, primary: Cluster, follower: Cluster) -> None:
    # libpq fails over by this URL, to whichever of the two servers accepts writes.
    query = {"host": f"{primary.host},{follower.host}", "target_session_attrs": "read-write"}
    with registry.connect(text(primary.url.set(query=query))) as reg:
        dataset = kind.create(reg)
        kind.grow(dataset, 30)
        trained = dataset.run("r")
        trained.epoch(0)
        catch_up(follower, primary)
        assert any("is a standby" in finding.said for finding in examine(text(follower.url)))
        cut_off(follower)
        kind.grow(dataset, 10)
        pages = dataset.follow(after=33)
        while next(pages).stop < 46:
            pass
        epoch = trained.epoch(1)
        chain, samples = dataset.head.chain.hex(), yielded(epoch)
        primary.kill()
        follower.ask("SELECT pg_promote()")
        diverged = [f for f in examine(text(follower.url)) if f.severity == "error"]
        assert [finding.subject for finding in diverged] == ["mirror of growing"]
        assert "agree up to position 33" in diverged[0].said
        runs = [trained, reg.open("growing").run("r")]
        _check_errors(kind, dataset, runs, pages, chain)
        assert dataset.head.position == 33
        kind.grow(dataset, 20, 500)
        assert yielded(epoch) == samples, "an open epoch keeps its rows"
        with pytest.warns(DivergenceWarning, match="only up to position 33"):
            fresh = dataset.run("new").epoch(0)
        assert yielded(fresh) == due(dataset, fresh)
        assert dataset.verify()[0].differs is None


def _check_errors(
    kind: Kind, dataset: Dataset, runs: list[Run], pages: Iterator[Page], chain: str
) -> None:
    """Check that a reader, runs, a follower and a writer each get an error with the position."""
    with pytest.raises(DivergenceError, match="to be read, but it ends at position 33 in"):
        next(paging.pages(runs[0].log, 33, 46))
    for run_again in runs:
        with pytest.raises(DivergenceError, match=rf"epoch 1 at position 46 \({chain}\)"):
            run_again.epoch(1)
    with pytest.raises(DivergenceError, match=rf"up to position 46 \({chain}\) were read"):
        next(pages)
    with pytest.raises(DivergenceError, match=rf"up to position 46 \({chain}\) were committed"):
        kind.grow(dataset, 20, 500)


def test_a_recovery_to_a_point_in_time_has_the_rows_and_epochs_of_that_time() -> None:
    with cluster() as primary:
        set_up(primary.url)
        kind = KINDS["fixed"]
        with registry.connect(text(primary.url)) as reg:
            dataset = kind.create(reg)
            train(dataset, kind)
            backup = base_backup(primary)
            kind.grow(dataset, 30)
            before = dataset.version
            primary.do("SELECT pg_create_restore_point('before')")
            # What is undone: rows, and an epoch that this machine has trained on.
            kind.grow(dataset, 30)
            lost, last = dataset.version, len(dataset.run("every").epochs(100))
            dataset.run("every").epoch(last)
            primary.do("SELECT pg_switch_wal()")
        with (
            restored(primary, backup, "before") as later,
            registry.connect(text(later.url)) as reg,
        ):
            opened = reg.open(dataset.name)
            assert opened.version == before
            assert opened.verify()[0].differs is None
            with pytest.raises(VersionError):
                reg.open(str(lost))
            with pytest.raises(DivergenceError):
                opened.run("every").epoch(last)
