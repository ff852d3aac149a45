"""Appends: where a large one is divided, what it reports, and how its rows are stored."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from hashlib import blake2b

import pytest
from sqlalchemy import event, func, select

import registry
from registry import Bytes, ClassLabel, Dataset, Registry
from registry.errors import InvalidSampleError, RegistryError, SampleNotFoundError
from registry.samples.buckets import buckets
from registry.storage.database.models import SampleRow
from registry.storage.database.transactions import read, reading, writing
from registry.storage.log import append, bulk_insert, few_rows, writer
from registry.storage.log.batch import Batch, Report
from registry.storage.log.bulk_insert import NewRows, insert
from registry.storage.log.changes import Change
from registry.storage.log.hash_chain import NONE, extend
from registry.storage.log.head import (
    advance_head,
    chain_and_erasures,
    chain_at,
    lock_head,
    was_committed,
)
from registry.storage.log.lookup import Latest, latest
from registry.storage.log.records import records_at

NASTY = ["", "!", "0", "Z", "a", "aa", "a\x01", "\x7f", "é", "ß", "\u2028", "\uffff", "\U0001f600"]
"""Ends of keys, whose order is another by bytes, by UTF-16 units and by the rules of a language."""


@pytest.fixture
def labels(reg: Registry) -> Dataset:
    return reg.create("labels", {"label": ClassLabel(200)})


def batch(dataset: Dataset, keys: Sequence[str], numbers: Sequence[int]) -> Batch:
    records = dataset._log.codec.encode({"label": list(numbers)})
    return Batch(keys, records, [None] * len(keys))


def counts(report: Report) -> tuple[int, int, int, int]:
    return report.inserted, report.revised, report.retracted, report.unchanged


@pytest.mark.parametrize(
    ("sizes", "rows", "size", "ends"),
    [
        ([10] * 7, 3, 1000, [3, 6, 7]),
        ([10] * 6, 3, 30, [3, 6]),
        ([10] * 5, 9, 29, [2, 4, 5]),
        ([10] * 4, 9, 20, [2, 4]),
        ([5, 40, 5, 5], 9, 20, [1, 2, 4]),
        ([40, 40, 5], 9, 20, [1, 2, 3]),
        ([5, 15, 5, 11, 4, 5], 9, 20, [2, 5, 6]),
        ([10], 1, 1, [1]),
    ],
)
def test_an_insert_is_divided_where_a_chunk_is_full(
    sqlite_url: str,
    monkeypatch: pytest.MonkeyPatch,
    sizes: list[int],
    rows: int,
    size: int,
    ends: list[int],
) -> None:
    monkeypatch.setattr(append, "CHUNK_ROWS", rows)
    monkeypatch.setattr(append, "CHUNK_BYTES", size)
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("blobs", {"blob": Bytes()})
        records = dataset._log.codec.encode({"blob": [b"x" * (each - 4) for each in sizes]})
        assert [len(record) for record in records] == sizes
        commits: list[int] = []
        event.listen(
            reg.engine,
            "commit",
            lambda connection: commits.append(
                connection.execute(select(func.count(SampleRow.position))).scalar_one()
            ),
        )
        dataset.append(Batch([f"k{n}" for n in range(len(sizes))], records, [None] * len(sizes)))
    assert commits == ends


def test_a_row_that_fails_leaves_the_chunks_before_its_own(
    reg: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append, "CHUNK_ROWS", 3)
    keys = [f"k{n}" for n in range(7)]
    for failing in range(7):
        dataset = reg.create(f"d{failing}", {"label": ClassLabel(200)})
        good = batch(dataset, keys, range(7))
        bad = [None if n == failing else record for n, record in enumerate(good.records)]
        with pytest.raises(SampleNotFoundError) as caught:
            dataset.append(replace(good, records=bad))
        start = failing // 3 * 3
        notes = getattr(caught.value, "__notes__", [])
        assert notes == ([f"the first chunks are stored, up to position {start}"] if start else [])
        assert [entry.key for entry in dataset.entries()] == keys[:start]
        assert counts(dataset.append(good)) == (7 - start, 0, 0, start)
        assert [entry.key for entry in dataset.entries()] == keys


def test_the_reports_of_chunks_add_up(labels: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append, "CHUNK_ROWS", 2)
    keys = [f"k{n}" for n in range(9)]
    labels.append(batch(labels, keys[:6], range(6)))
    for key in keys[4:6]:
        labels.retract(key)
    change = batch(labels, keys, [0, 9, 9, 9, 9, 9, 9, 9, 9])
    records = [*change.records[:1], *[lambda _record, _schema: None] * 2, *change.records[3:]]
    report = labels.append(replace(change, records=records))
    assert counts(report) == (5, 1, 2, 1)
    assert (report.head.position, report.head.live) == (16, 7)
    assert report.head == labels.head
    assert len(labels) == 7


@pytest.mark.parametrize("count", [3, 6, 8])
def test_an_insert_in_several_blocks_makes_the_log_of_its_rows_one_by_one(
    reg: Registry, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    for module in (writer, bulk_insert):
        monkeypatch.setattr(module, "BLOCK", 3)
    rows = [{"label": n} for n in range(count)]
    keys = [f"k{n % 5}" for n in range(count)]
    whole, single = (reg.create(name, {"label": ClassLabel(200)}) for name in ("whole", "single"))
    whole.insert(rows, keys=keys, source="tool")
    for row, key in zip(rows, keys, strict=True):
        single.insert([row], keys=[key], source="tool")
    assert whole.head == single.head
    for log in (whole, single):
        assert [(entry.key, entry.source) for entry in log.entries()] == [(k, "tool") for k in keys]
        assert log.verify()[0].differs is None


def test_few_rows_are_stored_as_by_copy(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one, some together, and all by COPY: the same rows, to the byte."""
    rng = random.Random(5)
    with registry.connect(postgresql_url) as reg:
        logs = [reg.create(name, {"blob": Bytes()}) for name in ("few", "copied")]
        for count in [1, 1, 1, 2, 3, 7, few_rows.ROWS, 1, 40, 1]:
            keys = [rng.choice(NASTY[1:]) * rng.randint(1, 9) for _ in range(count)]
            groups = [rng.choice([None, None, "g", "é"]) for _ in keys]
            blobs = [rng.choice([b"", b"\0\xff", rng.randbytes(99)]) for _ in keys]
            records = [*logs[0]._log.codec.encode({"blob": blobs})]
            sources = [rng.choice([None, "tool", "😀"]) for _ in keys]
            retracted = [n for n in range(1, count) if keys[n] == keys[n - 1]]
            outcomes = []
            for rows, log in zip((few_rows.ROWS, 0), logs, strict=True):
                monkeypatch.setattr(few_rows, "ROWS", rows)
                values = [None if n in retracted else record for n, record in enumerate(records)]
                sent = Batch(keys, values, sources, default_groups=groups)
                outcomes.append(counts(log.append(sent)))
            monkeypatch.undo()
            assert outcomes[0] == outcomes[1]
        columns = [
            column
            for column in SampleRow.__table__.columns
            if column.name not in ("dataset_id", "created_at")
        ]
        query = select(*columns).order_by(SampleRow.position)
        with reading(reg.engine) as connection:
            few, copied = (
                connection.execute(query.where(SampleRow.dataset_id == log.id)).all()
                for log in logs
            )
        assert few == copied
        assert logs[0].head == logs[1].head
        assert {row.record is None for row in few} == {True, False}
        assert {row.supersedes is None for row in few} == {True, False}
        assert {row.group_key for row in few} == {None, "g", "é"}


def test_batches_of_one_transaction_follow_one_another(labels: Dataset) -> None:
    """Each one revises the rows of those before it; one that fails leaves none."""

    def change(key: str, label: int | None) -> Change:
        if label is None:
            return Change(key, None, "retract")
        return Change(key, {"label": label}, "insert")

    labels.insert([{"label": 1}], keys=["a"])
    outcomes = labels.apply(
        [
            [change("a", 2), change("b", 1)],
            [change("c", 5), change("b", 9), change("never", None)],
            [change("b", 1), change("a", None), change("c", 3), change("c", 4)],
            [change("a", 2), Change("b", {"label": 7}, "update")],
        ]
    )
    reports = [each for each in outcomes if isinstance(each, Report)]
    assert [isinstance(each, RegistryError) for each in outcomes] == [False, True, False, False]
    assert [counts(each) for each in reports] == [(1, 1, 0, 0), (1, 1, 1, 1), (1, 1, 0, 0)]
    assert {each.head for each in reports} == {labels.head}
    assert (labels.head.position, labels.head.live) == (8, 3)
    assert [(entry.key, entry.supersedes) for entry in labels.entries()] == [
        ("a", None),
        ("a", 0),
        ("b", None),
        ("a", 1),
        ("c", None),
        ("c", 4),
        ("a", 3),
        ("b", 2),
    ]
    assert {key: labels.get(key)["label"] for key in "abc"} == {"a": 2, "b": 7, "c": 4}
    assert labels.verify()[0].differs is None


def test_the_latest_revision_of_any_key_is_found_among_other_datasets(reg: Registry) -> None:
    rng = random.Random(2)
    names = [first + last for first in ("k", "é", "\U0001f600") for last in NASTY]
    datasets = [reg.create(name, {"label": ClassLabel(200)}) for name in ("one", "two", "three")]
    models: list[dict[str, Latest]] = [{}, {}, {}]
    for dataset, model in zip(datasets, models, strict=True):
        for key in rng.choices(names, k=40):
            number = rng.randrange(200)
            position = dataset.head.position
            group = model[key].group if key in model else rng.choice([None, "g"])
            if key in model and model[key].record is not None and number < 60:
                dataset.retract(key)
                model[key] = Latest(position, None, group)
            elif dataset.insert([{"label": number}], keys=[key], groups=[group]).unchanged == 0:
                (record,) = dataset._log.codec.encode({"label": [number]})
                model[key] = Latest(position, record, group)
    for dataset, model in zip(datasets, models, strict=True):
        neighbours = itertools.pairwise(sorted(names))
        for keys in (*map(list, neighbours), rng.sample(names, 5), names[:1], names):
            revisions = read(reg.engine, latest, dataset._log.dataset_id, keys)
            assert revisions == {key: model[key] for key in keys if key in model}
        assert dataset.verify()[0].differs is None


def test_records_are_returned_in_the_order_of_the_positions(reg: Registry, labels: Dataset) -> None:
    other = reg.create("other", {"label": ClassLabel(200)})
    other.insert([{"label": 100 + n} for n in range(9)])
    labels.insert([{"label": n} for n in range(6)], keys=[f"k{n}" for n in range(6)])
    labels.retract("k0")
    dataset_id, records = labels._log.dataset_id, labels._log.codec.encode({"label": range(6)})
    for positions in ([3], [5, 0, 3], [2, 2, 1], list(range(6)), list(range(5, -1, -1))):
        assert read(reg.engine, records_at, dataset_id, positions) == [
            records[position] for position in positions
        ]
    labels.erase("k1")
    assert read(reg.engine, records_at, dataset_id, [2, 1, 3]) == [records[2], b"", records[3]]
    for positions in ([6], [7], [0, 6, 1], [0, 99]):
        with reg.engine.connect() as connection, pytest.raises(RegistryError):
            records_at(connection, dataset_id, positions)


def test_a_lost_commit_is_recognized_by_all_of_its_head(reg: Registry, labels: Dataset) -> None:
    other = reg.create("other", {"label": ClassLabel(200)})
    other.insert([{"label": 9}] * 3, keys=["a", "b", "c"])
    heads = [labels.insert([{"label": 1}], keys=[key]).head for key in "abc"]
    dataset_id = labels._log.dataset_id
    with reg.engine.connect() as connection:
        for (n, head), (m, chain), key in itertools.product(
            enumerate(heads), enumerate(each.chain for each in heads), "abc"
        ):
            arrived = was_committed(connection, dataset_id, head.position, chain, key)
            assert arrived == (n == m == "abc".index(key))
        assert [chain_at(connection, dataset_id, n) for n in range(5)] == [
            bytes(16),
            *[head.chain for head in heads],
            None,
        ]
        assert not was_committed(connection, dataset_id, 4, heads[2].chain, "c")
        assert [chain_and_erasures(connection, dataset_id, n) for n in range(5)] == [
            (bytes(16), 0),
            *[(head.chain, 0) for head in heads],
            (None, 0),
        ]


def test_the_chain_is_the_documented_hash_of_every_row(reg: Registry, labels: Dataset) -> None:
    labels.insert([{"label": 1}, {"label": 2}], keys=["a", "é"])
    labels.retract("a")
    labels.update("é", label=3)
    labels.insert([{"label": 4}], keys=["a"])
    first, second, third, fourth = labels._log.codec.encode({"label": [1, 2, 3, 4]})
    expected = [bytes(16)]
    for key, supersedes, record in (
        ("a", -1, first),
        ("é", -1, second),
        ("a", 0, b""),
        ("é", 1, third),
        ("a", 2, fourth),
    ):
        link = supersedes.to_bytes(8, "little", signed=True)
        bucket = blake2b(key.encode(), digest_size=2).digest()
        row = expected[-1] + link + bucket + record
        expected.append(blake2b(row, digest_size=16).digest())
    dataset_id = labels._log.dataset_id
    assert [read(reg.engine, chain_at, dataset_id, n) for n in range(6)] == expected


def test_times_given_with_rows_are_stored_to_the_microsecond(
    reg: Registry, labels: Dataset
) -> None:
    edge = datetime(2000, 1, 1, tzinfo=UTC)
    second, tick = timedelta(seconds=1), timedelta(microseconds=1)
    east = timezone(timedelta(hours=5, minutes=30))
    times = [edge, edge - tick, edge + tick, edge - second, edge.replace(year=1969), edge + second]
    times += [
        datetime(2038, 1, 19, 3, 14, 8, 999_999, UTC),
        datetime(2024, 2, 29, 1, 2, 3, 4, east),
    ]
    keys = [f"k{n}" for n in range(len(times))]
    sources = [None if n % 3 == 0 else f"s{n % 3} é" for n in range(len(times))]
    groups = [None if n % 4 == 0 else f"g{n % 4} é" for n in range(len(times))]
    new = batch(labels, keys, range(len(times)))
    dataset_id, hashes = labels._log.dataset_id, buckets(keys, groups)
    with writing(reg.engine) as connection:
        head = lock_head(connection, dataset_id)
        records = [record for record in new.records if isinstance(record, bytes)]
        chains = extend(head.chain, [NONE] * len(keys), hashes, records)
        unlinked = [None] * len(keys)
        rows = NewRows(0, hashes, chains, records, keys, unlinked, sources, times, groups)
        chain = insert(connection, dataset_id, [rows])
        after = replace(head, position=len(keys), live=len(keys), chain=chain)
        advance_head(connection, dataset_id, after)
    columns = (SampleRow.created_at, SampleRow.source, SampleRow.key, SampleRow.group_key)
    with reg.engine.connect() as connection:
        stored = connection.execute(select(*columns).order_by(SampleRow.position)).all()
    assert [row.created_at for row in stored] == times
    assert [row.source for row in stored] == sources
    assert [row.key for row in stored] == keys
    assert [row.group_key for row in stored] == groups
    assert labels.verify()[0].differs is None


@pytest.mark.parametrize("failing", [0, 1, 4])
def test_an_invalid_change_is_named_by_its_row_among_all(labels: Dataset, failing: int) -> None:
    labels.insert([{"label": 1}] * 2, keys=["a", "b"])
    changes = [Change(f"k{n}", {"label": n}) for n in range(5)]
    changes[2] = Change("a", None, "retract")
    changes[3] = Change("b", {"label": 3}, "update")
    for change, feature in (
        (Change("bad", {"label": 200}), "label"),
        (Change("bad", {"label": 1, "other": 2}), None),
        (Change("bad", None), None),
        (Change("bad", {}, "remove"), None),
        (Change("b", {"label": 200}, "update"), "label"),
        (Change("b", {"other": 1}, "update"), None),
        (Change("b", None, "retract", ""), None),
        (Change(None, None, "retract"), None),
    ):
        changes[failing] = change
        (error,) = labels.apply([changes])
        assert isinstance(error, InvalidSampleError)
        assert (error.row, error.key, error.feature) == (failing, change.key, feature)
    assert len(labels.entries()) == 2


def test_a_request_without_changes_is_refused_alone(labels: Dataset) -> None:
    outcomes = labels.apply([[], [Change("a", {"label": 1}), Change(None, {"label": 2})], []])
    assert [isinstance(each, InvalidSampleError) for each in outcomes] == [True, False, True]
    assert str(outcomes[0]).startswith("there is no change in it")
    assert labels.apply([]) == []
    assert labels.apply([[]]) != []
    assert labels.head.position == 2
    empty = labels.append(Batch([], [], []))
    assert (counts(empty), empty.head) == ((0, 0, 0, 0), labels.head)
