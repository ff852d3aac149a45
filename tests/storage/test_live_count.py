"""The number of live samples at a position: stored with commits, and counted where it is not."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text

from registry import Dataset, Registry, Tensor
from registry.errors import DivergenceError
from registry.samples.codec import Codec
from registry.storage.database.models import SampleRow
from registry.storage.database.transactions import read, writing
from registry.storage.log import live_count as module
from registry.storage.log.batch import Batch
from registry.storage.log.changes import Change
from registry.storage.log.live_count import live_count

numbers = count()
KEYS = st.sampled_from([f"k{n}" for n in range(6)])
CHANGES = st.tuples(st.sampled_from(["insert", "insert", "retract", "erase"]), KEYS)
COMMITS = st.lists(st.lists(CHANGES, min_size=1, max_size=12), min_size=1, max_size=8)


def create(reg: Registry) -> Dataset:
    return reg.create(f"d{next(numbers)}", {"n": Tensor("int64")})


def commit(dataset: Dataset, changes: list[tuple[str, str]]) -> None:
    """Commit the inserts and retractions among the changes together, and then the erasures."""
    codec = Codec(dataset.features)
    known = {entry.key for entry in dataset.entries()}
    rows: list[tuple[str, bytes | None]] = []
    for action, key in changes:
        if action == "insert":
            rows.append((key, codec.encode({"n": [next(numbers)]})[0]))
            known.add(key)
        elif action == "retract" and key in known:
            rows.append((key, None))
    if rows:
        keys, records = zip(*rows, strict=True)
        dataset.append(Batch(keys, records, [None] * len(keys)))
    dataset.erase(*{key for action, key in changes if action == "erase" and key in known})


def forget(reg: Registry, dataset: Dataset) -> None:
    """Remove the stored numbers, as if all rows were older than their column."""
    with writing(reg.engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        else:
            connection.execute(text("DROP TRIGGER IF EXISTS samples_never_change"))
        of_dataset = {"id": dataset.id}
        connection.execute(
            text("UPDATE samples SET live = NULL WHERE dataset_id = :id"), of_dataset
        )


@pytest.fixture(params=[4, 5000], ids=["large commits", "small commits"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits have blocks of these numbers of rows."""
    monkeypatch.setattr("registry.storage.log.writer.BLOCK", request.param)
    monkeypatch.setattr(module, "SEARCHED", request.param)


@pytest.mark.usefixtures("blocks")
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(commits=COMMITS, old=st.integers(0, 8))
def test_the_size_of_every_version_is_that_of_a_simple_model(
    reg: Registry, commits: list[list[tuple[str, str]]], old: int
) -> None:
    """The first ``old`` commits are older than the stored numbers."""
    dataset = create(reg)
    for changes in commits[:old]:
        commit(dataset, changes)
    forget(reg, dataset)
    for changes in commits[old:]:
        commit(dataset, changes)
    log = [(entry.key, entry.action != "retract") for entry in dataset.entries()]
    for position in range(len(log) + 1):
        expected = sum(dict(log[:position]).values())
        assert read(reg.engine, live_count, dataset.id, position) == expected
        version = reg.open(f"{dataset.name}@{position}")
        assert len(version) == version.head.live == expected
    assert len(dataset) == sum(dict(log).values())


def test_each_commit_and_each_block_of_it_stores_its_number_with_its_last_row(
    reg: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.storage.log.writer.BLOCK", 4)
    dataset = create(reg)
    dataset.insert({"n": range(10)}, keys=[f"k{n}" for n in range(10)], source="é")
    dataset.insert({"n": range(20, 28)}, keys=[f"k{n}" for n in range(4, 12)])
    dataset.retract("k0")
    dataset.erase("k1", "k2")
    dataset.insert({"n": [1]}, keys=["other"], groups=["g"])
    fresh = [Change(None, {"n": n}) for n in range(4)]
    dataset.apply([[Change("k3", action="retract"), Change("k0", {"n": 1})], fresh])
    query = select(SampleRow.position, SampleRow.live).where(SampleRow.live.is_not(None))
    rows = read(reg.engine, lambda connection: connection.execute(query).all())
    live = {row.position: row.live for row in rows}
    first = {3: 4, 7: 8, 9: 10, 13: 10, 17: 12}
    assert live == {**first, 18: 11, 20: 9, 21: 10, 25: 12, 27: 14}
    assert [entry.source for entry in dataset.entries(9, 10)] == ["é"]


def test_a_version_that_the_log_no_longer_reaches_has_no_size(reg: Registry) -> None:
    dataset = create(reg)
    dataset.insert({"n": [1, 2, 3]})
    with pytest.raises(DivergenceError, match="it ends at position 3"):
        read(reg.engine, live_count, dataset.id, 4)
