"""Copies of datasets in other databases, which are exact or rejected."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update

import registry
from registry import Bytes, Dataset, Registry, Replay, Tensor, Text
from registry.catalog.copy import rows
from registry.catalog.copy.dataset import Copied, copy_dataset
from registry.errors import DatabaseError, DatasetNotFoundError, DivergenceError
from registry.io.labeling.mapping_store import set_mapping
from registry.server.deliveries import record_in
from registry.storage.database import models
from registry.storage.database.transactions import reading, writing
from tests.support.commands import run
from tests.support.datasets import FIXED, digit
from tests.support.growing_datasets import KINDS, Kind, due, yielded

LOCAL = {"id", "dataset_id", "run_id", "updated_at"}
"""Columns whose values differ between databases."""
RELATED = [
    *(models.WebhookRow, models.ToolAnnotationRow, models.DeliveryRow, models.InboxRow),
    *(models.RemovedRunRow, models.SchemaRow),
]


@pytest.fixture(
    params=[
        "sqlite to postgresql",
        "postgresql to sqlite",
        pytest.param("sqlite to sqlite", marks=pytest.mark.slow),
    ]
)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Registry, Registry]]:
    """Two registries, of which the second is empty."""
    source, _, target = request.param.split(" ")
    urls = [request.getfixturevalue(f"{source}_url"), f"sqlite:///{tmp_path / 'other.db'}"]
    if target == "postgresql":
        urls[1] = request.getfixturevalue("postgresql_url")
    with registry.connect(urls[0]) as one, registry.connect(urls[1]) as other:
        yield one, other


@pytest.fixture(params=["fixed", "variable"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def origin(pair: tuple[Registry, Registry]) -> Dataset:
    """A dataset of 46 rows in the first registry."""
    dataset = KINDS["fixed"].create(pair[0])
    for _ in range(2):
        KINDS["fixed"].grow(dataset, 20)
    return dataset


def contents(reg: Registry) -> dict[str, list[dict[str, Any]]]:
    """Return all rows of a registry, without the columns that differ between databases."""

    def rows_of(row_class: Any, **names: Any) -> list[dict[str, Any]]:
        table = row_class.__table__
        columns = [c for c in table.columns if c.name not in LOCAL]
        query = select(*columns, *(c.label(n) for n, c in names.items()))
        if names:
            query = query.select_from(table.join(names["of"].table))
        with reading(reg.engine) as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        return sorted(rows, key=repr)

    name = models.DatasetRow.name
    tables = {"datasets": rows_of(models.DatasetRow), "samples": rows_of(models.SampleRow)}
    of_datasets = [models.HeadRow, models.RunRow, models.ErasureRow, *RELATED]
    tables |= {each.__tablename__: rows_of(each, of=name) for each in of_datasets}
    return tables | {"epochs": rows_of(models.EpochRow, of=models.RunRow.name)}


def fill_related(dataset: Dataset, engine: Any, number: int) -> None:
    """Insert rows into every table that is related to a dataset."""
    dataset.run(f"removed {number}")
    dataset.remove_run(f"removed {number}")
    set_mapping(engine, dataset.id, "label-studio", {"text": f"data.{number}"})
    owner: dict[str, Any] = {"dataset_id": dataset.id}
    moment = datetime(2024, 5, number + 1, 12, 30, 15, 250, tzinfo=UTC)
    annotation_values = {**owner, "tool": "label-studio", "updated_at": moment}
    rejected = {"action": "insert", "source": "é", "fields": {"x": [number]}, "error": "no"}
    with writing(engine) as connection:
        record_in(connection, dataset.id, "label-studio", "created", bytes([number]) * 32)
        for annotation in ("1/2", f"1/{number + 7}"):
            values = {**annotation_values, "annotation": annotation, "key": f"k{number}"}
            connection.execute(
                text("DELETE FROM tool_annotations WHERE annotation = :a"), {"a": annotation}
            )
            connection.execute(insert(models.ToolAnnotationRow).values(values))
        for key in ("a", None, "a"):
            connection.execute(insert(models.InboxRow).values(**owner, **rejected, key=key))


def test_a_copy_has_all_rows_of_the_source_and_those_added_later(
    pair: tuple[Registry, Registry], kind: Kind
) -> None:
    source, target = pair
    dataset = kind.create(source)
    target.create("before", FIXED)  # so that the primary keys differ
    for number in range(3):
        kind.grow(dataset, 20)
        fill_related(dataset, source.engine, number)
        dataset.run("r", seed=4, split="train").epoch(number)
        dataset.run("r").record(20 * number)
        dataset.tag("newest", note=str(number), move=True)
        dataset.tag(f"v{number}", at=number)
        source.open(f"growing@v{number}").run(f"r{number}").epoch(0) if number else None
        copied = copy_dataset(source, target, "growing")
        assert copied.version == dataset.version
        assert copied.rows == 23
        assert (copied.related.runs, copied.related.refused, copied.related.left) == (
            1 + number,
            3 * number + 3,
            0,
        )
        assert copy_dataset(source, target, "growing").rows == 0
        target.drop("before") if "before" in target.names() else None
        assert contents(target) == contents(source)
    copy = target.open("growing")
    assert copy.verify()[0].differs is None
    assert copy.created_at == dataset.created_at
    # The copy uses the mirror that the source's run has created, and its run continues.
    for number in range(4):
        epoch = copy.run("r").epoch(number)
        assert yielded(epoch) == due(dataset, epoch)


@pytest.mark.usefixtures("origin")
def test_an_interrupted_copy_continues_and_is_exact_at_every_block(
    pair: tuple[Registry, Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = pair
    monkeypatch.setattr(rows, "BLOCK_ROWS", 5)
    ends = []

    def interrupt(copied: int, position: int) -> None:
        ends.append(position)
        assert copied == 5 if position < 46 else 1
        raise KeyboardInterrupt

    while len(ends) < 10:
        with pytest.raises(KeyboardInterrupt):
            copy_dataset(source, target, "growing", interrupt)
        copy = target.open("growing")
        origin = source.open(f"growing@{ends[-1]}:{copy.head.chain.hex()}")
        assert copy.head == origin.head
        assert copy.entries() == origin.entries()
    assert ends == [*range(5, 46, 5), 46]
    assert copy_dataset(source, target, "growing").rows == 0
    assert contents(target) == contents(source)


def test_a_copy_has_each_schema_from_the_same_position_on(
    pair: tuple[Registry, Registry], origin: Dataset
) -> None:
    source, target = pair
    copy_dataset(source, target, "growing")
    origin.add_feature("score", Tensor("float64"), 0.1)
    KINDS["fixed"].grow(origin, 5, 500)
    origin.add_feature("note", Text(), "none")
    origin.add_feature("pose", Tensor("float32", (2,)), float("nan"))
    KINDS["fixed"].grow(origin, 5, 600)
    origin.add_feature("last", Bytes(), b"")

    def interrupt(_: int, position: int) -> None:
        # What is copied so far is decoded as in the source.
        first, second = (
            [(page.schema, repr(page.columns)) for page in opened.pages(0, position)]
            for opened in (origin, target.open("growing"))
        )
        assert first == second
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            copy_dataset(source, target, "growing", interrupt)
    copied = copy_dataset(source, target, "growing")
    copy = target.open("growing")
    assert copied.version == copy.version == origin.version
    assert [*copy.schemas] == [*origin.schemas]
    assert repr(copy.history("3")) == repr(origin.history("3"))
    assert contents(target) == contents(source)
    copy.add_feature("own", Bytes(), b"")
    with pytest.raises(DivergenceError, match=f"changed at position {copy.head.position}, other"):
        copy_dataset(source, target, "growing")


def test_blocks_end_where_they_are_full(
    pair: tuple[Registry, Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = pair
    dataset = source.create("blobs", {"blob": registry.Bytes()})
    dataset.insert([{"blob": b"x" * 100 * (n % 5)} for n in range(40)])
    monkeypatch.setattr(rows, "BLOCK_BYTES", 300)
    ends: list[int] = []
    copy_dataset(source, target, "blobs", lambda _, position: ends.append(position))
    assert len(ends) > 10
    assert contents(target) == contents(source)


def test_a_source_that_grows_meanwhile_is_copied_up_to_one_moment(
    pair: tuple[Registry, Registry], origin: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = pair
    monkeypatch.setattr(rows, "BLOCK_ROWS", 16)
    done = threading.Event()
    run = origin.run("r")  # before the first copy, which would otherwise get another run

    def write() -> None:
        number = 1000
        while not done.is_set():
            KINDS["fixed"].grow(origin, 5, number)
            run.epoch(number // 5 - 200)
            number += 5

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(4):
            copied = copy_dataset(source, target, "growing")
            copy = target.open("growing")
            assert copy.version == copied.version
            assert source.open(str(copied.version)).entries() == copy.entries()
            last = copy.run("r").last
            assert last is None or last.watermark <= copy.head.position
    finally:
        done.set()
        writer.join()
    copy_dataset(source, target, "growing")
    assert contents(target) == contents(source)


def test_concurrent_copies_result_in_one(pair: tuple[Registry, Registry], origin: Dataset) -> None:
    source, target = pair
    copies: list[Copied] = []
    threads = [
        threading.Thread(target=lambda: copies.append(copy_dataset(source, target, "growing")))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(copies) == 3
    assert {copied.version for copied in copies} == {origin.version}
    assert contents(target) == contents(source)


def test_a_copy_that_has_diverged_is_rejected_with_the_position(
    pair: tuple[Registry, Registry], origin: Dataset
) -> None:
    source, target = pair
    copy_dataset(source, target, "growing")
    copy = target.open("growing")
    copy.update("3", label=1)
    ahead = r"has 47 rows of 'growing', which agree with the source only up to position 46, where"
    with pytest.raises(DivergenceError, match=f"{ahead} that ends there"):
        copy_dataset(source, target, "growing")
    KINDS["fixed"].grow(origin, 9, 600)
    with pytest.raises(DivergenceError, match=f"{ahead} that differs"):
        copy_dataset(source, target, "growing")
    assert copy.head.position == 47


@pytest.mark.usefixtures("origin")
def test_another_dataset_of_that_name_is_left_unchanged(pair: tuple[Registry, Registry]) -> None:
    source, target = pair
    other = target.create("growing", FIXED)
    other.insert([digit(1)])
    with pytest.raises(DivergenceError, match=r"another dataset named 'growing'.*position 0 on"):
        copy_dataset(source, target, "growing")
    assert len(other) == 1
    with pytest.raises(DatasetNotFoundError, match="did you mean 'growing'"):
        copy_dataset(source, target, "grown")


@pytest.mark.usefixtures("origin")
def test_a_renamed_dataset_is_copied_once_its_copy_is_renamed_too(
    pair: tuple[Registry, Registry],
) -> None:
    source, target = pair
    copy_dataset(source, target, "growing")
    source.rename("growing", "grown")
    with pytest.raises(DivergenceError, match="`registry rename growing grown`"):
        copy_dataset(source, target, "grown")
    target.rename("growing", "grown")
    copy_dataset(source, target, "grown")
    assert target.names() == ["grown"]


def test_a_run_that_was_trained_on_the_copy_is_not_mixed_with_the_sources(
    pair: tuple[Registry, Registry],
    origin: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, target = pair
    origin.run("r").epoch(0)
    copy_dataset(source, target, "growing")
    target.open("growing").run("r").epoch(1)
    with pytest.raises(
        DivergenceError, match="pinned epoch 1 of run 'r' by itself, at position 46"
    ):
        copy_dataset(source, target, "growing")
    KINDS["fixed"].grow(origin, 5, 600)
    monkeypatch.setenv("REGISTRY_CACHE", str(tmp_path / "another machine's"))
    origin.run("r").epoch(1)
    with pytest.raises(
        DivergenceError, match="pinned epoch 1 of run 'r' by itself, at position 46"
    ):
        copy_dataset(source, target, "growing")


def test_a_run_with_conditions_is_copied_and_replays_in_the_copy(
    pair: tuple[Registry, Registry],
) -> None:
    source, target = pair
    origin = source.create("numbers", {"n": Tensor("int64"), "x": Tensor("float64")})
    where = {"n": (5, None), "x": [1e16, 1e23]}
    run = origin.run("r", where=where, policy=Replay(0.5))
    for number in range(2):
        samples = [{"n": n, "x": 1e23 if n % 3 else 0} for n in range(9)]
        origin.insert(samples, keys=[f"{number}-{n}" for n in range(9)])
        run.epoch(number)
    for _ in range(2):
        copy_dataset(source, target, "numbers")
        copied = target.open("numbers").run("r", where=where)
        assert copied.where == run.where
        assert copied.pin(1) == run.pin(1)
        assert copied.last is not None
        assert copied.last.older == 3
        batches = [next(each.epoch(1).batches(9)) for each in (run, copied)]
        assert batches[0]["n"].tolist() == batches[1]["n"].tolist()
    # Two runs of one name, which began in each database.
    origin.run("s", where=where)
    target.open("numbers").run("s", where={"n": (5, None)})
    with pytest.raises(DivergenceError, match=r"a run 's' with another .* or conditions"):
        copy_dataset(source, target, "numbers")


def test_a_tag_that_was_moved_in_the_copy_is_not_overwritten(
    pair: tuple[Registry, Registry], origin: Dataset
) -> None:
    source, target = pair
    origin.tag("gold", at=3)
    copy_dataset(source, target, "growing")
    assert copy_dataset(source, target, "growing").rows == 0
    copy = target.open("growing")
    copy.tag("ours", at=4)
    with writing(target.engine) as connection:
        later = datetime.now(UTC) + timedelta(seconds=2)
        moved = {"position": 5, "created_at": later}
        connection.execute(update(models.TagRow).values(moved).where(models.TagRow.name == "gold"))
    with pytest.raises(DivergenceError, match="tag 'gold' at position 5, which was set after the "):
        copy_dataset(source, target, "growing")
    copy.untag("gold")
    copy_dataset(source, target, "growing")
    assert [(tag.name, tag.position) for tag in copy.tags()] == [("gold", 3), ("ours", 4)]


@contextmanager
def unguarded(reg: Registry) -> Iterator[Any]:
    """Yield a connection that may change rows of the log, as a broken disk does."""
    triggers = {
        "postgresql": ["samples_append_only ON samples"],
        "sqlite": ["samples_never_change", "samples_never_leave"],
    }
    with writing(reg.engine) as connection:
        for trigger in triggers[reg.engine.dialect.name]:
            connection.exec_driver_sql(f"DROP TRIGGER {trigger}")
        yield connection


@pytest.mark.parametrize("damage", ["record = chain", "bucket = 65535 - bucket", "key = 'x'"])
@pytest.mark.usefixtures("origin")
def test_damage_in_the_source_is_reported_and_not_copied(
    pair: tuple[Registry, Registry],
    damage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, target = pair
    monkeypatch.setattr(rows, "BLOCK_ROWS", 10)
    with unguarded(source) as connection:
        connection.exec_driver_sql(f"UPDATE samples SET {damage} WHERE position = 33")
    with pytest.raises(DatabaseError, match="the chain differs from position 33 on"):
        copy_dataset(source, target, "growing")
    assert target.open("growing").head.position == 30


def test_waiting_rows_are_moved_first_and_rejected_ones_copied_once(
    pair: tuple[Registry, Registry], origin: Dataset
) -> None:
    source, target = pair
    values = {"dataset_id": origin.id, "key": "tool"}
    for fields in (digit(5), {"image": "nonsense"}):
        with writing(source.engine) as connection:
            connection.execute(insert(models.InboxRow).values(**values, fields=fields))
    for _ in range(2):
        copied = copy_dataset(source, target, "growing")
        assert (copied.version.watermark, copied.related.refused, copied.related.left) == (47, 1, 0)
    copy = target.open("growing")
    assert copy.get("tool")["label"] == 5
    (rejected,) = copy.inbox.refused()
    assert rejected.error == origin.inbox.refused()[0].error
    # Named by its id: the accepted row of its key was moved to the log after this one was inserted.
    assert copy.inbox.retry([rejected.id]) == 1
    assert copy.inbox.drain().refused == 1


def test_rows_that_the_source_has_erased_are_erased_in_the_copy(
    pair: tuple[Registry, Registry], kind: Kind
) -> None:
    source, target = pair
    dataset = kind.create(source)
    kind.grow(dataset, 20)
    dataset.erase("5")
    assert copy_dataset(source, target, "growing").related.erased == 0
    with writing(target.engine) as connection:
        values = {"dataset_id": target.open("growing").id, "key": "0", "error": "no"}
        connection.execute(insert(models.InboxRow).values(values))
    for key, rows_held in [("0", 3), ("7", 1)]:
        dataset.erase(key)
        kind.grow(dataset, 3)
        assert copy_dataset(source, target, "growing").related.erased == rows_held
        assert contents(target) == contents(source)
    copy = target.open("growing")
    assert copy.verify()[0].differs is None
    assert copy.head == dataset.head
    copy.erase("9")
    with pytest.raises(DivergenceError, match="only up to position"):
        copy_dataset(source, target, "growing")


def test_rows_are_erased_also_in_a_copy_whose_runs_have_diverged(
    pair: tuple[Registry, Registry], origin: Dataset
) -> None:
    source, target = pair
    copy_dataset(source, target, "growing")
    origin.run("r", seed=1)
    target.open("growing").run("r", seed=2)
    origin.erase("0")
    with pytest.raises(DivergenceError, match="another seed, split, policy"):
        copy_dataset(source, target, "growing")
    assert target.open("growing").head == origin.head


def test_the_command_copies_all_or_some_datasets_and_prints_them(
    pair: tuple[Registry, Registry], origin: Dataset, tmp_path: Path
) -> None:
    source, target = pair
    source.create("empty", FIXED)
    origin.run("r")
    urls = [reg.engine.url.render_as_string(hide_password=False) for reg in pair]
    (line,) = run("copy", *urls, "empty").stdout.splitlines()
    assert line == f"empty: 0 rows copied; empty@0:{'0' * 32}"
    assert target.names() == ["empty"]
    line = run("copy", *urls).stdout.splitlines()[1]
    assert line == f"growing: 46 rows copied, 1 run; {origin.version}"
    (_, repeated) = run("copy", *urls, "--json").stdout.splitlines()
    counts = {"rows": 0, "runs": 1, "refused": 0, "left": 0, "erased": 0}
    assert json.loads(repeated) == {"version": str(origin.version), **counts}
    target.open("growing").retract("0")
    failed = run("copy", *urls, code=1)
    assert "only up to position 46" in failed.stderr
    missing = tmp_path / "missing.db"
    assert "is not there" in run("copy", f"sqlite:///{missing}", urls[1], code=2).stderr
    assert not missing.exists()
