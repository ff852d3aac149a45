"""The behaviour of a dataset on both databases."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

import registry
from registry import ClassLabel, Dataset, Registry, Tensor
from registry.errors import (
    DatasetDroppedError,
    DatasetExistsError,
    DatasetNotFoundError,
    FeatureError,
    InvalidSampleError,
    LogGapError,
    ReadOnlyError,
    SampleNotFoundError,
    VersionError,
)
from registry.samples.features import Feature
from registry.storage.log import page_queries
from registry.storage.log.append import CHUNK_ROWS
from tests.support.datasets import FIXED, digit

numbers = itertools.count()


def test_inserted_samples_are_read_back_in_order(digits: Dataset) -> None:
    report = digits.insert([digit(n) for n in range(5)], source="a tool")
    assert (report.inserted, report.revised, report.unchanged) == (5, 0, 0)
    assert report.head == digits.head
    assert len(digits) == 5
    (page,) = digits.pages()
    assert (page.start, page.stop) == (0, 5)
    np.testing.assert_array_equal(page["label"], [0, 1, 2, 3, 4])
    assert page["image"].shape == (5, 2, 2)
    assert page["image"].dtype == np.uint8


def test_columns_and_rows_make_the_same_log(reg: Registry) -> None:
    features: dict[str, Feature] = {"x": Tensor("float32", (3,)), "y": ClassLabel(["cat", "dog"])}
    x = np.linspace(0, 1, 30, dtype=np.float32).reshape(10, 3)
    names = np.array(["cat", "dog"] * 5)
    keys = [f"k{n}" for n in range(10)]
    rows = reg.create("rows", features)
    rows.insert([{"x": a, "y": b} for a, b in zip(x, names, strict=True)], keys=keys)
    columns = reg.create("columns", features)
    columns.insert({"x": x, "y": names}, keys=np.array(keys))
    assert rows.head.chain == columns.head.chain


def test_repeating_an_insert_changes_nothing(digits: Dataset) -> None:
    batch, keys = [digit(n) for n in range(3)], ["a", "b", "c"]
    first = digits.insert(batch, keys=keys)
    again = digits.insert(batch, keys=keys)
    assert (again.inserted, again.revised, again.unchanged) == (0, 0, 3)
    assert again.head == first.head


def test_a_key_twice_in_a_batch_is_inserted_and_then_revised(digits: Dataset) -> None:
    report = digits.insert([digit(1), digit(2), digit(2)], keys=["a", "a", "a"])
    assert (report.inserted, report.revised, report.unchanged) == (1, 1, 1)
    assert len(digits) == 1
    assert digits.get("a")["label"] == 2


def test_an_update_changes_the_named_features_alone(digits: Dataset) -> None:
    digits.insert([digit(7)], keys=["a"])
    report = digits.update("a", label=9, source="review")
    assert report.revised == 1
    assert digits.get("a")["label"] == 9
    np.testing.assert_array_equal(digits.get("a")["image"], digit(7)["image"])
    (first, second) = digits.history("a")
    assert first.sample is not None
    assert first.sample["label"] == 7
    assert (second.entry.action, second.entry.supersedes) == ("revise", first.entry.position)
    assert second.entry.source == "review"


def test_a_retracted_sample_is_absent(digits: Dataset) -> None:
    digits.insert([digit(1), digit(2)], keys=["a", "b"])
    assert digits.retract("a").retracted == 1
    assert len(digits) == 1
    with pytest.raises(SampleNotFoundError, match="'a': it was retracted at position 2"):
        digits.get("a")
    with pytest.raises(SampleNotFoundError, match="it was retracted; insert it again"):
        digits.update("a", label=1)
    digits.update("b", label=3)
    digits.retract("b")
    with pytest.raises(SampleNotFoundError, match="'b': it was retracted at position 4"):
        digits.get("b")


def test_retracting_a_sample_again_changes_nothing(digits: Dataset) -> None:
    digits.insert([digit(1), digit(2)], keys=["a", "b"])
    digits.retract("a")
    assert digits.retract("a").unchanged == 1
    assert (len(digits), digits.head.position) == (1, 3)


def test_a_retracted_sample_can_be_inserted_again(digits: Dataset) -> None:
    digits.insert([digit(1), digit(2)], keys=["a", "b"])
    digits.retract("a")
    assert digits.insert([digit(3)], keys=["a"]).inserted == 1
    assert len(digits) == 2
    assert [r.entry.action for r in digits.history("a")] == ["insert", "retract", "revise"]
    (page,) = digits.pages()
    assert page.retracted.tolist() == [2]
    assert page.positions.tolist() == [0, 1, 3]
    assert page.superseding.tolist() == [2, 3]
    assert page.supersedes.tolist() == [0, 2]
    assert page["label"].tolist() == [1, 2, 3]


def test_an_unknown_key_cannot_be_changed(digits: Dataset) -> None:
    for change in (digits.get, digits.retract, digits.update):
        with pytest.raises(SampleNotFoundError, match="key 'nobody': no sample has this key"):
            change("nobody")
    assert digits.history("nobody") == []


def test_an_insert_larger_than_a_chunk_is_one_gapless_log(digits: Dataset) -> None:
    count = CHUNK_ROWS + 10
    images = np.zeros((count, 2, 2), np.uint8)
    labels = np.arange(count) % 10
    keys = [f"k{n}" for n in range(count)]
    report = digits.insert({"image": images, "label": labels}, keys=keys)
    assert report.inserted == report.head.position == count
    read = np.concatenate([page["label"] for page in digits.pages()])
    np.testing.assert_array_equal(read, labels)
    assert digits.insert({"image": images, "label": labels}, keys=keys).unchanged == count


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
def test_pages_of_any_size_concatenate_to_the_log(
    notes: Dataset, digits: Dataset, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits.insert([digit(n) for n in range(20)], keys=[f"k{n}" for n in range(20)])
    digits.retract("k3")
    digits.update("k5", label=0)
    text_rows = [
        {"text": "x" * n, "label": n % 2, "blob": b"", "tokens": range(n)} for n in range(20)
    ]
    notes.insert(text_rows, keys=[f"k{n}" for n in range(20)])
    notes.retract("k0")
    monkeypatch.setattr("registry.storage.log.page_queries.PAGE_BYTES", rows * 8)
    monkeypatch.setattr("registry.storage.log.page_queries.FIRST_ROWS", 5)
    for dataset, name in ((digits, "label"), (notes, "text")):
        for after, until in ((0, None), (4, 17), (5, 5)):
            pages = list(dataset.pages(after, until))
            stop = dataset.head.position if until is None else until
            assert [p.start for p in pages] == [after, *(p.stop for p in pages[:-1])][: len(pages)]
            assert (pages[-1].stop if pages else after) == stop
            whole = dataset.entries(after, stop)
            read = [n for p in pages for n in p.positions.tolist()]
            assert read == [e.position for e in whole if e.action != "retract"]
            assert sum(len(p[name]) for p in pages) == len(read)
            for page in pages:
                lists = (page.superseding, page.supersedes, page.retracted, page.erased)
                assert {each.dtype for each in lists} == {np.dtype(np.int64)}
                assert page.buckets.dtype == np.uint16
                # A page of records that differ in length ends at the record that fills it.
                assert page.sizes is None or page.sizes[:-1].sum() < rows * 8


def test_a_page_without_erased_rows_is_read_once(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_queries, "GROUP_BYTES", 1)
    monkeypatch.setattr(page_queries, "_row_by_row", None)
    with registry.connect(postgresql_url) as reg:
        digits = reg.create("digits", FIXED)
        digits.insert([digit(n) for n in range(9)], keys=[f"k{n}" for n in range(9)])
        digits.retract("k3")
        assert [len(page["label"]) for page in digits.pages()] == [9]


@pytest.mark.parametrize("gap", [4, 8])
def test_a_gap_in_the_log_is_an_error_and_never_a_short_page(
    reg: Registry, digits: Dataset, notes: Dataset, gap: int
) -> None:
    digits.insert([digit(n) for n in range(9)])
    notes.insert([{"text": "x", "label": 0, "blob": b"", "tokens": []}] * 9)
    with reg.engine.begin() as connection:
        if reg.engine.dialect.name == "postgresql":
            connection.execute(text("ALTER TABLE samples DISABLE TRIGGER ALL"))
        else:
            connection.execute(text("DROP TRIGGER samples_never_leave"))
        connection.execute(text(f"DELETE FROM samples WHERE position = {gap}"))
    for dataset in (digits, notes):
        with pytest.raises(
            LogGapError, match=r"positions \[0, 9\) of the log hold 8 rows instead of 9"
        ):
            list(dataset.pages())
        assert sum(len(page) for page in dataset.pages(gap + 1)) == 8 - gap


@pytest.mark.parametrize("statement", ["UPDATE samples SET source = 'x'", "DELETE FROM samples"])
def test_the_database_rejects_changes_to_the_log(
    reg: Registry, digits: Dataset, statement: str
) -> None:
    digits.insert([digit(1)])
    with pytest.raises(Exception, match="samples are append-only"), reg.engine.begin() as c:
        c.execute(text(statement))
    assert len(list(digits.pages())) == 1


def test_a_dropped_dataset_leaves_no_rows_and_its_name_is_free(
    reg: Registry, digits: Dataset, notes: Dataset
) -> None:
    digits.insert([digit(1)])
    digits.run("r").epoch(0)
    notes.insert([{"text": "", "label": 0, "blob": b"", "tokens": []}])
    reg.drop("digits")
    assert reg.names() == ["notes"]
    with reg.engine.connect() as connection:
        left = connection.execute(text("SELECT count(*) FROM samples")).scalar()
        runs = connection.execute(text("SELECT count(*) FROM runs")).scalar()
    assert (left, runs) == (1, 0)
    reg.create("digits", {"x": Tensor("uint8")})


def test_using_a_dropped_dataset_raises_and_never_uses_another(
    reg: Registry, digits: Dataset
) -> None:
    digits.insert([digit(1)])
    reg.drop("digits")
    reg.create("digits", {"x": Tensor("uint8")}).insert([{"x": 1}])
    for use in (lambda: digits.insert([digit(2)]), lambda: len(digits), lambda: digits.get("a")):
        with pytest.raises(DatasetDroppedError, match="open the one that you want by name again"):
            use()
    assert len(reg.open("digits")) == 1


def test_positions_outside_the_log_are_rejected(digits: Dataset) -> None:
    digits.insert([digit(n) for n in range(3)])
    for after, until in ((-1, None), (0, 4), (4, None), (2, 1)):
        with pytest.raises(VersionError, match=r"'digits' has positions \[0, 3\), not \["):
            digits.pages(after, until)
    assert [page.start for page in digits.pages(np.int64(1))] == [1]


def test_invalid_settings_of_runs_are_rejected(digits: Dataset) -> None:
    digits.insert([digit(n) for n in range(3)])
    epoch = digits.run("r", seed=np.int64(3)).epoch(0)
    assert digits.run("r", seed=3).seed == 3
    with pytest.raises(FeatureError, match="batch_size 0 is not a whole number from 1 to"):
        epoch.batches(0)
    for bad_settings in ({"policy": "weird"}, {"seed": -1}, {"seed": 2**63}, {"split": "nowhere"}):
        with pytest.raises(FeatureError):
            digits.run("s", **bad_settings)


@pytest.mark.parametrize("key", ["", "a\0b", "\ud800", 5], ids=repr)
def test_invalid_keys_and_sources_are_rejected(digits: Dataset, key: str) -> None:
    for use in (digits.get, digits.retract, digits.history, digits.split_of):
        with pytest.raises(InvalidSampleError, match="a key"):
            use(key)
    with pytest.raises(InvalidSampleError, match="a source"):
        digits.insert([digit(9)], source=key)


def test_more_followers_than_pooled_connections_do_not_block_writers(
    digits: Dataset,
) -> None:
    received = threading.Barrier(31)

    def follow() -> None:
        next(digits.follow())
        received.wait(60)

    followers = [threading.Thread(target=follow) for _ in range(30)]
    for thread in followers:
        thread.start()
    time.sleep(0.3)
    digits.insert([digit(1)])
    received.wait(60)
    for thread in followers:
        thread.join()


def test_a_version_is_the_dataset_as_it_was(reg: Registry, digits: Dataset) -> None:
    digits.insert([digit(1), digit(2)], keys=["a", "b"])
    digits.retract("b")
    version = str(digits.version)
    digits.update("a", label=5)
    digits.insert([digit(3)])
    old = reg.open(version)
    assert str(old.version) == version
    assert (len(old), old.head.position) == (1, 3)
    assert old.get("a")["label"] == 1
    assert [page.stop for page in old.pages()] == [3]
    assert str(reg.open(version[: version.index(":") + 9]).version) == version
    with pytest.raises(VersionError, match="never changes; open 'digits' instead"):
        old.insert([digit(4)])


def test_a_version_of_another_history_is_rejected(reg: Registry, digits: Dataset) -> None:
    digits.insert([digit(1)])
    with pytest.raises(VersionError, match=r"has [0-9a-f]{32} there, another history"):
        reg.open("digits@1:00000000")
    with pytest.raises(VersionError, match="'digits' ends at position 1"):
        reg.open("digits@7:00000000")
    with pytest.raises(VersionError, match="is not a dataset version"):
        reg.open("digits@1:0000")


def test_a_sample_never_changes_its_split(digits: Dataset) -> None:
    keys = [f"k{n}" for n in range(200)]
    digits.insert([digit(n) for n in range(200)], keys=keys)
    before = {key: digits.split_of(key) for key in keys}
    for key in keys[::3]:
        digits.update(key, label=0)
    sizes = {split: digits.run(split, split=split).epoch(0).size for split in ("train", "test")}
    assert sizes == {s: sum(v == s for v in before.values()) for s in ("train", "test")}
    assert 20 < sizes["test"] < 60


def test_an_unknown_dataset_raises_with_the_closest_name(reg: Registry, digits: Dataset) -> None:
    with pytest.raises(
        DatasetNotFoundError, match="no dataset named 'digit'; did you mean 'digits"
    ):
        reg.open("digit")
    with pytest.raises(DatasetExistsError, match="'digits' exists already"):
        reg.create("digits", digits.features)


def test_every_form_of_postgresql_url_opens_the_same_database(postgresql_url: str) -> None:
    rest = postgresql_url.partition("://")[2]
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        with registry.connect(f"{scheme}://{rest}") as opened:
            assert opened.names() == []


def test_writing_to_a_read_only_postgresql_raises(postgresql_url: str) -> None:
    with registry.connect(postgresql_url) as opened:
        opened.create("d", {"x": Tensor("uint8")})
        with opened.engine.begin() as connection:
            name = opened.engine.url.database
            connection.exec_driver_sql(
                f"ALTER DATABASE {name} SET default_transaction_read_only = on"
            )
    with registry.connect(postgresql_url) as opened:
        dataset = opened.open("d")
        with pytest.raises(ReadOnlyError, match="connect to the primary server to write"):
            dataset.insert([{"x": 1}])
        assert list(dataset.pages()) == []


def test_writing_to_a_read_only_file_raises(sqlite_url: str) -> None:
    with registry.connect(sqlite_url) as opened:
        opened.create("d", {"x": Tensor("uint8")})
    with registry.connect(f"{sqlite_url}?mode=ro&uri=true".replace("///", "///file:")) as opened:
        dataset = opened.open("d")
        assert list(dataset.pages()) == []
        with pytest.raises(ReadOnlyError, match="check the rights of the file and folder"):
            dataset.insert([{"x": 1}])


KEYS = st.sampled_from(["a", "b", "c", "d"])
LABELS = st.integers(0, 3)
CHANGES = st.one_of(
    st.lists(st.tuples(KEYS, LABELS), min_size=1, max_size=6),
    st.tuples(KEYS, LABELS),
    KEYS,
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(changes=st.lists(CHANGES, max_size=12))
def test_any_sequence_of_changes_has_the_result_of_a_simple_model(
    reg: Registry, changes: list[object]
) -> None:
    """The model is a list of (key, label or None), the log, and a dict of the latest labels."""
    dataset = reg.create(f"d{next(numbers)}", {"label": ClassLabel(4)})
    log: list[tuple[str, int | None]] = []
    latest: dict[str, int | None] = {}

    def apply(key: str, label: int | None) -> None:
        if key not in latest or latest[key] != label:
            log.append((key, label))
            latest[key] = label

    for change in changes:
        if isinstance(change, list):
            dataset.insert([{"label": n} for _, n in change], keys=[key for key, _ in change])
            for key, label in change:
                apply(key, label)
        elif isinstance(change, tuple):
            key, label = change
            if latest.get(key) is None:
                with pytest.raises(SampleNotFoundError):
                    dataset.update(key, label=label)
            else:
                dataset.update(key, label=label)
                apply(key, label)
        elif isinstance(change, str) and change in latest:
            dataset.retract(change)
            apply(change, None)
    alive = {key: label for key, label in latest.items() if label is not None}
    assert len(dataset) == len(alive)
    assert [entry.key for entry in dataset.entries()] == [key for key, _ in log]
    read = [label for page in dataset.pages() for label in page["label"].tolist()]
    assert read == [label for _, label in log if label is not None]
    if alive:
        epoch = dataset.run("r").epoch(0)
        (batch,) = epoch.batches(100)
        last = {key: number for number, (key, _) in enumerate(log)}
        by_rank = [alive[key] for key in sorted(alive, key=last.__getitem__)]
        assert batch["label"].tolist() == [by_rank[n] for n in epoch.order(range(len(alive)))]
