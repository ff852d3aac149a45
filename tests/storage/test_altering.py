"""Datasets whose classes and features are added to while writers and readers have them open."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import insert, text

import registry
from registry import Bytes, ClassLabel, Dataset, Image, Ragged, Registry, Tensor, Text
from registry.errors import (
    ConflictError,
    DatasetExistsError,
    DivergenceError,
    FeatureError,
    InvalidSampleError,
    RegistryError,
    VersionError,
)
from registry.samples.features import Feature
from registry.storage.database.models import InboxRow
from registry.storage.database.transactions import writing
from registry.storage.log import records
from registry.storage.log.changes import Change
from registry.storage.log.page import Page
from tests.support.image_files import PNG

Sample = dict[str, Any]
WRITERS, CHANGES = 8, 20
BASE: dict[str, Feature] = {"serial": Tensor("int64"), "label": ClassLabel(["class 0"])}


def plain(sample: Sample) -> Sample:
    """Return a sample with values of Python, which can be compared."""
    return {
        name: value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        for name, value in sample.items()
    }


def rows_of(pages: Iterator[Page]) -> Iterator[tuple[int, Sample]]:
    """Yield each position with a record, and the sample there, with the features it has."""
    for page in pages:
        for row, position in enumerate(page.positions.tolist()):
            yield position, plain({name: column[row] for name, column in page.columns.items()})


class Growth:
    """The changes of a dataset's features, and what samples have of them."""

    def __init__(self) -> None:
        self.classes = 1
        self.defaults: Sample = {}

    def next(self, dataset: Dataset, number: int) -> None:
        """Change the dataset: a class, a number of fixed width, or a text of any length."""
        if number % 3 == 0:
            dataset.add_classes("label", [f"class {self.classes}"])
            self.classes += 1
        elif number % 3 == 1:
            dataset.add_feature(f"n{number}", Tensor("int32"), -number)
            self.defaults[f"n{number}"] = -number
        else:
            dataset.add_feature(f"t{number}", Text(), f"default {number}")
            self.defaults[f"t{number}"] = f"default {number}"

    def sample(self, serial: int) -> Sample:
        """Return a sample that leaves out every other one of the features that were added."""
        added = list(self.defaults)[serial % 2 :: 2]
        values = {name: serial if name[0] == "n" else f"{name} of {serial}" for name in added}
        return {"serial": serial, "label": serial % self.classes, **values}


class Writers:
    """Threads that write to a dataset, each through a registry that it opened at the beginning."""

    def __init__(self, url: str, growth: Growth) -> None:
        self.url, self.growth = url, growth
        self.expected: dict[str, Sample] = {}
        self.commits = threading.Semaphore(0)
        self.errors: list[Exception] = []
        self._done = threading.Event()
        self._ready = threading.Barrier(WRITERS + 1)
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in range(WRITERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        self._ready.wait(60)

    def stop(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(60)

    def _write(self, writer: int) -> None:
        try:
            with registry.connect(self.url) as opened:
                dataset = opened.open("shared")
                assert len(dataset.features) == len(BASE)
                self._ready.wait(60)
                for serial in count(writer, WRITERS):
                    if self._done.is_set():
                        return
                    self._commit(dataset, serial)
                    self.commits.release()
        except Exception as error:  # noqa: BLE001  # for the test to report
            self.errors.append(error)
            self.commits.release(CHANGES * WRITERS)

    def _commit(self, dataset: Dataset, serial: int) -> None:
        sample, key = self.growth.sample(serial), f"k{serial}"
        if serial % 5:
            assert dataset.insert([sample, sample], keys=[key, f"{key}b"]).inserted == 2
            self.expected |= {key: sample, f"{key}b": sample}
        else:
            (outcome,) = dataset.apply([[Change(key, sample)]])
            assert not isinstance(outcome, RegistryError), outcome
            self.expected[key] = sample
        # A revision of a row that may be of an older schema.
        old = f"k{max(serial - 5 * WRITERS, serial % WRITERS)}"
        values = self.growth.sample(serial)
        dataset.update(old, values)
        self.expected[old] = {**self.expected[old], **values}


def test_writers_lose_and_garble_nothing_while_the_schema_changes(reg: Registry, url: str) -> None:
    shared, growth = reg.create("shared", BASE), Growth()
    reader = registry.connect(url)
    followed = rows_of(reader.open("shared").follow())
    writers = Writers(url, growth)
    writers.start()
    try:
        for number in range(CHANGES):
            # Each change comes while all writers are encoding or waiting for the lock.
            for _ in range(WRITERS):
                assert writers.commits.acquire(timeout=60)
            growth.next(shared, number)
        for _ in range(WRITERS):
            assert writers.commits.acquire(timeout=60)
    finally:
        writers.stop()
    assert writers.errors == []
    head = shared.head
    assert head.schema == CHANGES
    assert head.live == len(writers.expected)
    samples = dict(rows_of(shared.pages()))
    for position, sample in followed:
        assert sample == samples[position]
        if position == head.position - 1:
            break
    reader.close()
    latest = {entry.key: entry.position for entry in shared.entries()}
    assert latest.keys() == writers.expected.keys()
    for key, position in latest.items():
        sample = {**growth.defaults, **writers.expected[key]}
        # What was added after the row is not in it.
        assert samples[position] == {name: sample[name] for name in samples[position]}
        assert plain(shared.get(key)) == sample
    assert shared.verify()[0].differs is None


@pytest.fixture
def labels(reg: Registry) -> Dataset:
    dataset = reg.create("labels", {"label": ClassLabel(["cat", "dog"]), "blob": Bytes()})
    rows = [{"label": "cat", "blob": b"1"}, {"label": "dog", "blob": b"2"}]
    dataset.insert(rows, keys=["a", "b"])
    return dataset


def test_a_reader_of_any_age_decodes_each_row_by_the_schema_in_force(
    url: str, labels: Dataset
) -> None:
    old, older = registry.connect(url).open("labels"), registry.connect(url).open("labels")
    pickled = pickle.dumps(older)
    stale = registry.connect(url).open("labels")
    assert list(stale.features) == ["label", "blob"]
    before = labels.version
    labels.add_feature("pose", Tensor("int8", (2,)), 7)
    labels.insert([{"label": "dog", "blob": b"3"}], keys=["c"])
    labels.add_classes("label", ["lynx"])
    labels.add_feature("note", Text(), "none")
    row = {"label": "lynx", "blob": b"4", "pose": [1, 2], "note": "4"}
    labels.insert([row], keys=["d"])
    samples = [
        {"label": 0, "blob": b"1"},
        {"label": 1, "blob": b"2"},
        {"label": 1, "blob": b"3", "pose": [7, 7]},
        {"label": 2, "blob": b"4", "pose": [1, 2], "note": "4"},
    ]
    assert [stale.schemas.before(watermark).number for watermark in (4, 3, 2, 0)] == [3, 1, 0, 0]
    with pytest.raises(DivergenceError, match="it ends at position 4"):
        stale.schemas.at(4)
    # A page at a time, so that no read is of a head.
    assert [sample for _, sample in rows_of(old.pages(0, 4))] == samples
    assert [page.schema.number for page in old.pages()] == [0, 1, 3]
    assert [sample for _, sample in rows_of(iter([next(older.follow(3))]))] == samples[3:]
    unpickled: Dataset = pickle.loads(pickled)
    assert [sample for _, sample in rows_of(unpickled.pages(2, 4))] == samples[2:]
    defaults = {"pose": [7, 7], "note": "none"}
    assert plain(old.get("a")) == {**samples[0], **defaults}
    (revision,) = old.history("c")
    assert revision.sample is not None
    assert plain(revision.sample) == {**defaults, **samples[2]}
    # A version never changes: neither what it holds nor its features.
    with registry.connect(url) as reg:
        for position, names in ((0, 2), (1, 2), (2, 2), (3, 3), (4, 4)):
            version = reg.open(f"labels@{position}")
            assert list(version.features) == ["label", "blob", "pose", "note"][:names]
            assert [sample for _, sample in rows_of(version.pages())] == samples[:position]
        assert plain(reg.open(str(before)).get("a")) == samples[0]
        assert list(labels.features) == list(old.features) == ["label", "blob", "pose", "note"]
        with pytest.raises(VersionError, match="never changes"):
            reg.open(str(before)).add_classes("label", ["puma"])
    for opened in (old, older, unpickled, stale):
        opened._log.engine.dispose()


@pytest.mark.parametrize("size", [1, 5000, records.LONG + 1])
def test_older_records_are_compared_and_revised_as_those_of_the_present_schema(
    labels: Dataset, size: int
) -> None:
    """Short records are read, longer ones compared at the server, and the longest by a hash."""
    old = {"label": "cat", "blob": b"x" * size}
    labels.insert([old], keys=["c"])
    stored = labels.head.position
    labels.add_feature("score", Tensor("float32"), 0.5)
    labels.add_feature("note", Text(), "none")
    for row in (old, {**old, "score": 0.5}, {**old, "note": "none", "score": 0.5}):
        assert labels.insert([row], keys=["c"]).unchanged == 1
    assert labels.update("c", note="none").unchanged == 1
    assert labels.update("c", {"label": "cat"}, score=0.5).unchanged == 1
    assert labels.head.position == stored
    for row in ({**old, "note": "nine"}, old, {**old, "score": 1.5}, old):
        assert labels.insert([row], keys=["c"]).revised == 1
    labels.retract("a")
    labels.erase("b")
    assert labels.insert([{"label": "cat", "blob": b"1"}], keys=["a"]).inserted == 1
    assert labels.insert([{"label": "dog", "blob": b"2"}], keys=["b"]).inserted == 1
    expected = {"label": 0, "blob": b"x" * size, "score": 0.5, "note": "none"}
    assert plain(labels.get("c")) == expected
    labels.update("c", note="ten")
    assert plain(labels.get("c")) == {**expected, "note": "ten"}
    assert labels.verify()[0].differs is None


WRITES: dict[str, Callable[[Dataset, str], Any]] = {
    "rows": lambda dataset, name: dataset.insert([{"label": name, "blob": b""}], keys=["new"]),
    "columns": lambda dataset, name: dataset.insert({"label": [name], "blob": [b""]}, keys=["new"]),
    "table": lambda dataset, name: dataset.insert(
        pa.table({"label": [*["cat"] * 99, name], "blob": pa.array([b""] * 100, pa.binary())}),
        keys=[*map(str, range(99)), "new"],
    ),
    "change": lambda dataset, name: dataset.apply([[Change("new", {"label": name, "blob": ""})]]),
    "update": lambda dataset, name: dataset.update("new", label=name),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_dataset_that_was_opened_before_takes_what_was_just_added(
    url: str, labels: Dataset, write: Callable[[Dataset, str], Any]
) -> None:
    labels.insert([{"label": "cat", "blob": b""}], keys=["new"])
    with registry.connect(url) as other:
        old = other.open("labels")
        assert len(old.features) == 2
        with pytest.raises(InvalidSampleError, match="unknown class 'lynx'"):
            old.insert([{"label": "lynx", "blob": b""}])
        labels.add_classes("label", ["lynx"])
        labels.add_feature("note", Text(), "none")
        write(old, "lynx")
    assert plain(labels.get("new")) == {"label": 2, "blob": b"", "note": "none"}


def test_an_update_by_json_converts_a_feature_that_was_added_after_it_was_made(
    url: str, labels: Dataset
) -> None:
    with registry.connect(url) as other:
        old = other.open("labels")
        assert len(old.features) == 2
        labels.add_feature("raw", Bytes(), b"")
        (outcome,) = old.apply([[Change("a", {"raw": "AAE="}, "update")]])
    assert not isinstance(outcome, RegistryError)
    assert labels.get("a")["raw"] == b"\0\1"


def test_rows_of_the_inbox_are_moved_in_the_schema_in_force(url: str, labels: Dataset) -> None:
    old = registry.connect(url).open("labels")
    assert len(old.features) == 2
    labels.add_feature("note", Text(), "none")
    with writing(labels._log.engine) as connection:
        for key, fields in (
            ("new", {"label": "dog", "blob": "", "note": "new"}),
            ("older", {"label": "dog", "blob": ""}),
            ("unfit", {"label": "dog", "blob": "", "notes": ""}),
        ):
            row = {"dataset_id": labels.id, "key": key, "fields": fields}
            connection.execute(insert(InboxRow), row)
    assert old.inbox.drain().refused == 1
    assert [plain(old.get(key))["note"] for key in ("new", "older")] == ["new", "none"]
    (refused,) = old.inbox.refused()
    assert "unknown 'notes'" in refused.error
    assert old.inbox.retry_now(refused.id, {"label": "dog", "blob": "", "note": "x"}).inserted == 1
    old._log.engine.dispose()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.add_classes("label", ["lynx", "cat"]), "has the class 'cat' already"),
        (lambda d: d.add_classes("label", 1), "give a list of the names to add"),
        (lambda d: d.add_classes("blob", ["lynx"]), "'blob' is no ClassLabel"),
        (lambda d: d.add_classes("bloob", ["lynx"]), "'bloob' is no feature"),
        (lambda d: d.add_feature("blob", Bytes(), b""), "there is a feature 'blob' already"),
        (lambda d: d.add_feature("pose", Tensor("int8", (2,)), [1]), "new feature 'pose': shape"),
        (lambda d: d.add_feature("image", Image(), b"GIF"), "new feature 'image'"),
        (lambda d: d.add_feature("\n", Text(), ""), "printable"),
        (lambda d: d.add_feature("x", "float32", 0), "use Tensor"),
    ],
)
def test_a_change_that_is_refused_changes_nothing(
    labels: Dataset, change: Callable[[Dataset], None], message: str
) -> None:
    before = labels.head, labels.features
    with pytest.raises(FeatureError, match=message):
        change(labels)
    assert (labels.head, labels.features) == before


def test_a_default_may_be_of_any_feature(url: str, labels: Dataset) -> None:
    added: dict[str, tuple[Feature, Any, Any]] = {
        "mask": (Tensor("bool", (2, 2)), True, [[True, True], [True, True]]),
        "pose": (Tensor("float64", (2,)), [0.1, -0.0], [0.1, -0.0]),
        "far": (Tensor("float32"), 1e30, float(np.float32(1e30))),
        "kind": (ClassLabel(["a", "b"]), "b", 1),
        "boxes": (Ragged("float32", (4,)), [], []),
        "image": (Image(), PNG, PNG),
        "text": (Text(), "é\n", "é\n"),
        "bytes": (Bytes(), b"\0\xff", b"\0\xff"),
    }
    for name, (feature, default, _) in added.items():
        labels.add_feature(name, feature, default)
    expected = {"label": 0, "blob": b"1"} | {name: each[2] for name, each in added.items()}
    with registry.connect(url) as reg:
        assert repr(plain(reg.open("labels").get("a"))) == repr(expected)


def test_a_change_whose_answer_was_lost_is_made_once(
    labels: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialect = labels._log.engine.dialect
    commit, losses = dialect.do_commit, iter([True, True])

    def lose_the_answer(connection: Any) -> None:
        commit(connection)
        if next(losses, False):
            # As a connection does that breaks while the server commits.
            raise ConflictError("the answer is lost")

    monkeypatch.setattr(dialect, "do_commit", lose_the_answer)
    labels.add_classes("label", ["lynx"])
    labels.add_feature("note", Text(), "none")
    assert labels.head.schema == 2
    assert [schema.number for schema in labels.schemas] == [0, 1, 2]


def test_a_change_that_a_restored_database_has_lost_is_forgotten(url: str, labels: Dataset) -> None:
    opened = [registry.connect(url).open("labels") for _ in range(2)]
    labels.add_feature("note", Text(), "none")
    for each in opened:
        assert list(each.features) == ["label", "blob", "note"]
    writer, reader = opened
    # As a restored backup from before the change, which has the same rows.
    with writing(labels._log.engine) as connection:
        connection.execute(text("DELETE FROM schemas WHERE number = 1"))
        connection.execute(text("UPDATE heads SET schema = 0"))
    row = {"label": "cat", "blob": b"3"}
    with pytest.raises(DivergenceError, match="schema 1 of the dataset, which the database no lo"):
        writer.insert([{**row, "note": "x"}])
    assert list(writer.features) == ["label", "blob"]
    writer.insert([row], keys=["c"])
    assert reader.head.position == 3
    assert list(reader.features) == ["label", "blob"]
    assert [page.schema.number for page in reader.pages()] == [0]
    assert plain(reader.get("c")) == {"label": 0, "blob": b"3"}
    writer.add_feature("other", Text(), "else")
    writer.insert([row], keys=["d"])
    assert plain(reader.get("c")) == {"label": 0, "blob": b"3", "other": "else"}
    for each in opened:
        each._log.engine.dispose()


def test_other_features_of_a_dataset_that_exists_are_refused_with_the_way(
    reg: Registry, labels: Dataset
) -> None:
    for features, notes in ((labels.features, 0), ({"label": Text()}, 1)):
        with pytest.raises(DatasetExistsError) as caught:
            reg.create("labels", features)
        notes_of = getattr(caught.value, "__notes__", [])
        assert len(notes_of) == notes
    assert "registry copy --into" in notes_of[0]
