"""Groups: samples of one group are in one split, and a key never leaves its group."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

import registry
from registry import ClassLabel, Dataset, Registry
from registry.catalog.copy.dataset import copy_dataset
from registry.errors import InvalidSampleError, SampleNotFoundError
from registry.samples.buckets import buckets
from registry.storage.database import schema
from registry.storage.log import append, insertions
from registry.storage.log.batch import Batch, Report
from registry.storage.log.changes import Change

SPLITS = {"train": 0.5, "validation": 0.2, "test": 0.3}
KEYS = [f"k{number}" for number in range(8)]
GROUPS = ["patient-1", "é" * 256, "k0"]
_numbers = itertools.count()

changes = st.builds(
    Change,
    st.sampled_from(KEYS),
    st.fixed_dictionaries({"label": st.integers(0, 9)}),
    st.sampled_from(["insert", "insert", "insert", "update", "retract"]),
    group=st.none() | st.sampled_from(GROUPS),
    default_group=st.none() | st.sampled_from(GROUPS),
)
requests = st.lists(st.lists(changes, min_size=1, max_size=4), max_size=4)


class Model:
    """The group of each key, and whether it is alive."""

    def __init__(self) -> None:
        self.groups: dict[str, str | None] = {}
        self.alive: set[str] = set()

    def apply(self, request: Sequence[Change]) -> type[Exception] | None:
        """Apply a request, or return the type of the error that rejects all of it."""
        groups, alive = dict(self.groups), {*self.alive}
        for change in request:
            key = change.key or ""
            if key not in groups:
                if change.action != "insert":
                    return SampleNotFoundError
                groups[key] = change.group or change.default_group
            elif change.group not in (None, groups[key]):
                return InvalidSampleError
            if change.action == "update" and key not in alive:
                return SampleNotFoundError
            alive = alive - {key} if change.action == "retract" else alive | {key}
        self.groups, self.alive = groups, alive
        return None


@pytest.fixture
def labels(reg: Registry) -> Dataset:
    return reg.create("labels", {"label": ClassLabel(10)}, splits=SPLITS)


def check(dataset: Dataset, groups: Mapping[str, str | None]) -> None:
    """Check that each row of each key has the key's group, and its bucket."""
    entries = dataset.entries()
    assert {entry.key: entry.group for entry in entries} == groups
    assert [entry.group for entry in entries] == [groups[entry.key] for entry in entries]
    stored = [bucket for page in dataset.pages() for bucket in page.buckets.tolist()]
    assert stored == buckets([groups[entry.key] or entry.key for entry in entries]).tolist()
    for key, group in groups.items():
        assert dataset.split_of(key) == dataset.split_of(group=group or key)
    assert dataset.verify()[0].differs is None


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(commits=st.lists(requests, max_size=5))
def test_no_group_is_in_two_splits_whatever_is_inserted_revised_or_retracted(
    reg: Registry, commits: list[list[list[Change]]]
) -> None:
    dataset = reg.create(f"d{next(_numbers)}", {"label": ClassLabel(10)}, splits=SPLITS)
    model = Model()
    for requests in commits:
        outcomes = dataset.apply(requests)
        assert [None if isinstance(o, Report) else type(o) for o in outcomes] == [
            model.apply(request) for request in requests
        ]
    check(dataset, model.groups)
    assert len(dataset) == len(model.alive)


def test_an_error_names_the_key_and_both_groups_and_nothing_is_stored(labels: Dataset) -> None:
    labels.insert([{"label": 1}, {"label": 2}], keys=["a", "b"], groups=["p1", None])
    before = labels.head
    for key, group, said in (
        ("a", "p2", "key 'a': the key is in group 'p1' and cannot move to group 'p2'"),
        ("b", "p1", "key 'b': the key has no group and cannot move to group 'p1'"),
    ):
        columns = {"label": [5, 1, 2]}
        with pytest.raises(InvalidSampleError, match=f"row 1, {said}") as caught:
            labels.insert(columns, keys=["new", key, "newer"], groups=["p1", group, None])
        assert (caught.value.row, caught.value.key) == (1, key)
        # Also where nothing else would change.
        with pytest.raises(InvalidSampleError, match=said):
            labels.insert([labels.get(key)], keys=[key], groups=[group])
    with pytest.raises(InvalidSampleError, match="in group 'p1' and cannot move to group 'p2'"):
        labels.insert({"label": [1, 1]}, keys=["twice", "twice"], groups=["p1", "p2"])
    assert labels.head == before
    labels.insert({"label": [3, 4]}, keys=["a", "b"])
    labels.retract("a")
    labels.erase("b")
    with pytest.raises(InvalidSampleError, match="in group 'p1'"):
        labels.insert([{"label": 1}], keys=["a"], groups=["p2"])
    labels.insert({"label": [3, 4]}, keys=["a", "b"], groups=["p1", None])
    check(labels, {"a": "p1", "b": None})


@pytest.mark.parametrize(
    ("group", "reason"),
    [
        ("", "a group cannot be empty"),
        ("a\0", "a group cannot hold"),
        ("\ud800", "a group cannot hold a lone surrogate"),
        ("é" * 257, "a group of 514 bytes is too long; at most 512"),
        (7.5, "a group is text, not float"),
        ([], "a group is text, not list"),
    ],
)
def test_a_group_is_checked_as_a_key_is(labels: Dataset, group: object, reason: str) -> None:
    with pytest.raises(InvalidSampleError, match=f"row 1, key 'b': {reason}"):
        labels.insert({"label": [1, 1]}, keys=["a", "b"], groups=[None, group])  # type: ignore[arg-type]
    (error,) = labels.apply([[Change("a", {"label": 1}, group=group)]])  # type: ignore[arg-type]
    assert isinstance(error, InvalidSampleError)
    assert error.reason.startswith(reason[:14])
    with pytest.raises(InvalidSampleError, match="1 groups were given for 2 samples"):
        labels.insert({"label": [1, 1]}, groups=["a"])
    with pytest.raises(
        InvalidSampleError, match="no column is named 'ab' for the groups; there are 'label'"
    ):
        labels.insert({"label": [1, 1]}, groups="ab")
    assert labels.head.position == 0


def test_samples_without_keys_have_groups_too(labels: Dataset) -> None:
    labels.insert({"label": [1, 2, 3]}, groups=np.array(["p1", "p1", "p2"]))
    groups = {entry.key: entry.group for entry in labels.entries()}
    assert [*groups.values()] == ["p1", "p1", "p2"]
    check(labels, groups)
    assert labels.split_of("unknown") == labels.split_of(group="unknown")
    assert labels.split_of("unknown", group="p1") == labels.split_of(group="p1")
    with pytest.raises(InvalidSampleError, match="give one of them"):
        labels.split_of()


def test_a_group_is_compared_under_the_lock_on_the_head(reg: Registry, labels: Dataset) -> None:
    """Each of eight writers names its own group for the same keys: one writer has each key."""
    barrier = threading.Barrier(8)
    stored: list[tuple[str, str]] = []

    def write(number: int) -> None:
        dataset = reg.open("labels")
        barrier.wait()
        for key in KEYS:
            try:
                dataset.insert([{"label": number}], keys=[key], groups=[f"w{number}"])
                stored.append((key, f"w{number}"))
            except InvalidSampleError:
                pass

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key for key, _ in stored) == KEYS
    check(labels, dict(stored))


def test_a_wrong_group_in_a_later_chunk_is_named_by_its_row_of_the_batch(
    labels: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append, "CHUNK_ROWS", 3)
    keys = ["a", "b", "c", "d", "a"]
    with pytest.raises(InvalidSampleError, match="row 4, key 'a'") as caught:
        labels.insert({"label": [1] * 5}, keys=keys, groups=["p1", None, "p1", "p2", "p2"])
    assert caught.value.__notes__ == ["the first chunks are stored, up to position 3"]
    check(labels, {"a": "p1", "b": None, "c": "p1"})
    records = labels._log.codec.encode({"label": [2] * 5})
    labels.append(Batch(keys, records, [None] * 5, default_groups=["p3", "p3", None, "p4", "p5"]))
    check(labels, {"a": "p1", "b": None, "c": "p1", "d": "p4"})


def test_rows_of_the_inbox_name_their_groups(reg: Registry, labels: Dataset) -> None:
    insert = text(
        "INSERT INTO inbox (dataset_id, key, fields, action, group_key)"
        " VALUES (1, :key, :fields, :action, :group)"
    )
    rows: list[tuple[str | None, str, str | None]] = [
        ("a", "insert", "p1"),
        (None, "insert", "p2"),
        ("a", "update", None),
        ("a", "update", "p1"),
        ("a", "retract", "p2"),
        ("b", "insert", ""),
        ("c", "insert", None),
    ]
    with reg.engine.begin() as connection:
        for key, action, group in rows:
            fields = None if action == "retract" else f'{{"label": {len(rows)}}}'
            values = {"key": key, "fields": fields, "action": action, "group": group}
            connection.execute(insert, values)
    drained = labels.inbox.drain()
    assert (drained.moved, drained.refused) == (5, 2)
    first, second = labels.inbox.refused()
    assert (first.group, first.error[:24]) == ("p2", "the key is in group 'p1'")
    assert (second.group, second.error) == ("", "a group cannot be empty")
    made = labels.entries()[1].key
    check(labels, {"a": "p1", made: "p2", "c": None})


@pytest.mark.parametrize("source", ["sqlite", "postgresql"])
def test_a_copy_has_the_groups(source: str, sqlite_url: str, postgresql_url: str) -> None:
    urls = [sqlite_url, postgresql_url]
    if source == "postgresql":
        urls.reverse()
    with registry.connect(urls[0]) as origin, registry.connect(urls[1]) as target:
        dataset = origin.create("labels", {"label": ClassLabel(10)}, splits=SPLITS)
        dataset.insert({"label": [1, 2, 3]}, keys=["a", "b", "c"], groups=["p1", None, "p1"])
        copy_dataset(origin, target, "labels")
        dataset.insert({"label": [4, 4]}, keys=["a", "d"], groups=[None, "p1"])
        dataset.erase("c")
        copy_dataset(origin, target, "labels")
        copy = target.open("labels")
        assert copy.entries() == dataset.entries()
        check(copy, {"a": "p1", "b": None, "c": "p1", "d": "p1"})
        with pytest.raises(InvalidSampleError, match="in group 'p1'"):
            copy.insert([{"label": 1}], keys=["a"], groups=["p2"])


def test_a_dataset_of_the_revision_before_continues_and_one_with_groups_cannot_go_back(
    reg: Registry, labels: Dataset
) -> None:
    labels.insert({"label": [1, 2]}, keys=["old", "older"])
    config = Config(attributes={"engine": reg.engine})
    config.set_main_option("script_location", str(schema.migrations()))
    command.downgrade(config, "0007")
    odd = "INSERT INTO inbox (dataset_id, key, action) VALUES (1, 'odd', 'delete')"
    with reg.engine.begin() as connection:
        connection.execute(text(odd))
    command.upgrade(config, "head")
    # A row with an unknown action may wait already: it is rejected, retried and discarded.
    assert labels.inbox.drain().refused == 1
    labels.inbox.prune()
    assert labels.inbox.retry() == 1
    assert labels.inbox.drain().refused == 1
    assert "unknown action 'delete'" in labels.inbox.refused()[0].error
    for action in ("INSERT", "", "delete"):
        with (
            pytest.raises(IntegrityError, match=r"inbox: (the actions are|unknown action)"),
            reg.engine.begin() as connection,
        ):
            connection.execute(text(odd.replace("delete", action)))
    with reg.engine.begin() as connection:
        connection.execute(text("UPDATE inbox SET action = 'retract', key = 'older'"))
    assert labels.inbox.retry() == 1
    assert labels.inbox.drain().moved == 1
    records = labels._log.codec.encode({"label": [3, 4]})
    labels.append(Batch(["old", "new"], records, [None] * 2, default_groups=["p1", "p1"]))
    check(labels, {"old": None, "older": None, "new": "p1"})
    with pytest.raises(CommandError, match="samples with groups"):
        command.downgrade(config, "0007")
    # PostgreSQL has gone back by the revisions above the one that refuses.
    command.upgrade(config, "head")
    check(labels, {"old": None, "older": None, "new": "p1"})


def test_a_column_of_a_table_may_name_the_groups(
    labels: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(insertions, "_FIRST_ROWS", 2)
    columns = {"label": [1, 2, 3], "patient": [7, None, 7], "scan": ["a", "b", "c"]}
    labels.insert(columns, keys="scan", groups="patient")
    columns["scan"] = ["d", "e", "f"]
    labels.insert(pa.table(columns), keys="scan", groups="patient")
    table = pa.table({"label": [1, 2, 3]})
    labels.insert(table, keys=["g", "h", "i"], groups=pa.array(["7", "8", None]))
    expected = {"a": "7", "c": "7", "d": "7", "f": "7", "g": "7", "h": "8"}
    check(labels, {**dict.fromkeys("abcdefghi"), **expected})
    for groups in (["7"], ["7"] * 4):
        with pytest.raises(InvalidSampleError, match="groups were given for"):
            labels.insert(table, groups=groups)
