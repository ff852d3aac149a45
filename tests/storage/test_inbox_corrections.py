"""A rejected row leaves the inbox when its own tool corrects it, and not before."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, text

import registry
from registry import ClassLabel, Dataset, Registry, Text
from registry.errors import InvalidSampleError, SampleNotFoundError
from registry.samples.features import Feature
from registry.storage.log import inbox_rows
from registry.storage.log.changes import Change
from registry.storage.log.inbox_retry import RejectedRowNotFoundError
from registry.storage.log.inbox_rows import InboxEntry
from tests.storage.test_inbox import put

numbers = itertools.count()
FEATURES: dict[str, Feature] = {"text": Text(), "label": ClassLabel(["cat", "dog"])}
GOOD = {"text": "it barks", "label": "dog"}
BAD = {"text": "it moos", "label": "cow"}


@dataclass(frozen=True)
class Sent:
    """A change that a tool sends: by SQL, or over HTTP, which applies it at once."""

    key: str
    source: str | None
    action: str
    fields: dict[str, str] | None
    by_sql: bool = True
    id: int = 0


def _sent(action: str, key: str, source: str | None, named: set[str], bad: bool, sql: bool) -> Sent:
    values = BAD if bad else GOOD
    names = {"text", "label"} if action == "insert" else named
    fields = None if action == "retract" else {name: values[name] for name in sorted(names)}
    return Sent(key, source, action, fields, sql)


changes = st.builds(
    _sent,
    st.sampled_from(["insert", "insert", "update", "update", "retract"]),
    st.sampled_from(["a", "b"]),
    st.sampled_from([None, "x", "x/1"]),
    st.sets(st.sampled_from(["text", "label"]), min_size=1),
    st.booleans(),
    st.booleans(),
)


@dataclass
class Model:
    """What has to be in the inbox, by the rule that its page gives."""

    live: dict[str, bool] = field(default_factory=dict)
    waiting: list[Sent] = field(default_factory=list)
    rejected: list[Sent] = field(default_factory=list)
    count: int = 0

    def send(self, change: Sent) -> None:
        if change.by_sql:
            self.count += 1
            self.waiting.append(replace(change, id=self.count))
        else:
            self._apply(replace(change, id=self.count + 1))

    def drain(self) -> None:
        for change in self.waiting:
            self._apply(change)
        self.waiting = []

    def _apply(self, change: Sent) -> None:
        known = change.key in self.live
        alive = self.live.get(change.key, False)
        ready = {"insert": True, "update": alive, "retract": known}[change.action]
        if not ready or (change.fields or {}).get("label") == "cow":
            self.rejected += [change] if change.by_sql else []
            return
        self.live[change.key] = change.action != "retract"
        self.rejected = [old for old in self.rejected if not self._corrects(change, old)]

    def _corrects(self, new: Sent, old: Sent) -> bool:
        same = (old.key, old.source) == (new.key, new.source) and old.id < new.id
        if new.action != "update":
            return same
        return same and bool(old.fields) and {*(old.fields or ())} <= {*(new.fields or ())}


# A rejected row that is newer than the accepted one, in one drain.
@example(
    [_sent("insert", "a", "x", set(), False, True), _sent("insert", "a", "x", set(), True, True)]
)
@given(st.lists(changes | st.just("drain"), max_size=12))
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_sequence_of_changes_leaves_the_rows_that_a_simple_model_leaves(
    reg: Registry, steps: list[Sent | str]
) -> None:
    notes = reg.create(f"notes-{next(numbers)}", FEATURES)
    model = Model()
    for step in [*steps, "drain"]:
        if isinstance(step, str):
            notes.inbox.drain()
            model.drain()
        elif step.by_sql:
            with reg.engine.begin() as connection:
                put(connection, notes, step.key, step.fields, step.action, step.source)
            model.send(step)
        else:
            notes.apply([[Change(step.key, step.fields, step.action, step.source)]])
            model.send(step)
    rows = notes.inbox.refused()
    left = [(row.key, row.source, row.action) for row in rows]
    assert left == [(row.key, row.source, row.action) for row in model.rejected]


@pytest.fixture
def animals(reg: Registry) -> Dataset:
    return reg.create("animals", FEATURES)


def test_a_row_that_another_transaction_holds_delays_no_correction(postgresql_url: str) -> None:
    with registry.connect(postgresql_url) as reg:
        animals = reg.create("animals", FEATURES)
        with reg.engine.begin() as connection:
            put(connection, animals, "a", BAD)
        assert animals.inbox.drain().refused == 1
        with reg.engine.begin() as person:
            number: int = person.execute(text("SELECT id FROM inbox FOR UPDATE")).scalar_one()
            animals.apply([[Change("a", GOOD)]])
            with pytest.raises(RejectedRowNotFoundError):
                animals.inbox.retry_now(number)
        assert len(animals.inbox.refused()) == 1


def test_fields_that_cannot_be_read_are_corrected_by_an_insert_alone(
    reg: Registry, animals: Dataset
) -> None:
    animals.insert([GOOD], keys=["a"])
    with reg.engine.begin() as connection:
        for fields in ([1], {}, {"label": "x" * (1 << 20)}):
            put(connection, animals, "a", fields, "update", "tool")
        if reg.engine.dialect.name == "sqlite":
            connection.execute(
                text(
                    "INSERT INTO inbox (dataset_id, key, fields, action, source) "
                    "VALUES (1, 'a', '{', 'update', 'tool'), (1, 'a', x'7bff', 'update', 'tool')"
                )
            )
    # An update without fields changes nothing, and is accepted.
    count = len(animals.inbox.refused()) or animals.inbox.drain().refused
    animals.apply([[Change("a", {"label": "cat", "text": "it purrs"}, "update", "tool")]])
    assert len(animals.inbox.refused()) == count > 1
    animals.apply([[Change("a", GOOD, source="tool")]])
    assert animals.inbox.refused() == []


def test_a_retried_row_moves_or_stays_with_the_reason(reg: Registry, animals: Dataset) -> None:
    with reg.engine.begin() as connection:
        put(connection, animals, "a", BAD, source="tool")
        put(connection, animals, "a", BAD, source="tool")
        put(connection, animals, "b", {"label": "dog"}, "update", "tool/7")
    _ = animals.head
    first, second, third = animals.inbox.refused()
    with pytest.raises(InvalidSampleError, match="'label': unknown class 'hen'"):
        animals.inbox.retry_now(second.id, {**BAD, "label": "hen"})
    with pytest.raises(SampleNotFoundError, match="'b': no sample has this key"):
        animals.inbox.retry_now(third.id)
    # As they were: the rejected fields are not those of the row.
    assert animals.inbox.refused() == [first, second, third]
    for number, source in ((99, None), (second.id, "too"), (third.id, "tool/70"), (-1, None)):
        with pytest.raises(RejectedRowNotFoundError, match="there is no rejected row"):
            animals.inbox.retry_now(number, source=source)
    animals.inbox.retry_now(second.id, GOOD, "tool")
    assert animals.get("a")["label"] == 1
    assert [entry.source for entry in animals.entries()] == ["tool"]
    # The first was an older one of this key and source.
    assert animals.inbox.refused() == [third]
    animals.insert([GOOD], keys=["b"])
    assert animals.inbox.retry_now(third.id, source="tool").unchanged == 1
    assert animals.inbox.rows() == []


def test_a_retried_row_has_the_reason_of_its_last_attempt(reg: Registry, animals: Dataset) -> None:
    with reg.engine.begin() as connection:
        put(connection, animals, "a", {"label": "cow"}, "update")
    _ = animals.head
    (row,) = animals.inbox.refused()
    assert row.error == "key 'a': no sample has this key"
    animals.insert([GOOD], keys=["a"])
    with pytest.raises(InvalidSampleError):
        animals.inbox.retry_now(row.id)
    (again,) = animals.inbox.refused()
    assert again.error == "feature 'label': unknown class 'cow'; the classes are 'cat', 'dog'"


def test_rows_are_listed_by_id_in_pages_that_are_bounded(
    reg: Registry, animals: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_rows, "_TOGETHER", 1000)
    sources = ["x", None, "x/1", "xy", "x%", "X/1", "x", "y", "x/", "x_1"]
    with reg.engine.begin() as connection:
        for number, source in enumerate(sources * 3):
            fields = {**BAD, "text": "z" * 300}
            put(connection, animals, f"k{number}", fields, source=source)
    _ = animals.head
    with reg.engine.begin() as connection:
        put(connection, animals, "new", {"text": "z" * (2 << 20), "label": "dog"}, source="x")
    rows: list[InboxEntry] = []
    while page := animals.inbox.rows(rows[-1].id if rows else 0, 7):
        assert len(page) <= 4
        rows += page
    assert [row.key for row in rows] == [*(f"k{number}" for number in range(30)), "new"]
    assert [row.error is None for row in rows] == [*[False] * 30, True]
    assert json.loads(rows[0].fields or "") == {**BAD, "text": "z" * 300}
    assert rows[0].size == len(rows[0].fields or "")
    assert rows[-1].fields is None
    monkeypatch.undo()
    own = {row.source for row in animals.inbox.rows(0, 100, "x")}
    assert own == {"x", "x/1", "x/"}
    assert [row.source for row in animals.inbox.rows(0, 100, "x%")] == ["x%"] * 3


def plans_of(reg: Registry, part: str) -> list[str]:
    """Return a list that takes the plan of the next statement that has this part."""
    plans: list[str] = []

    @event.listens_for(reg.engine, "before_cursor_execute", retval=True)
    def explain(_1: Any, cursor: Any, statement: str, parameters: Any, *_2: Any) -> tuple[Any, Any]:
        if part in statement and not plans:
            how = "EXPLAIN QUERY PLAN" if reg.engine.dialect.name == "sqlite" else "EXPLAIN"
            cursor.execute(f"{how} {statement}", parameters)
            plans.extend(map(str, cursor.fetchall()))
        return statement, parameters

    return plans


def test_the_rejected_rows_of_a_key_are_found_by_an_index(reg: Registry, animals: Dataset) -> None:
    columns = "(dataset_id, key, action, error)"
    values = [{"id": animals.id, "key": f"k{n}"} for n in range(2000)]
    # No index of PostgreSQL holds this one.
    values += [{"id": animals.id, "key": "".join(map(chr, range(1000, 9000)))}]
    plans = plans_of(reg, "length(inbox.key)")
    with reg.engine.begin() as connection:
        statement = f"INSERT INTO inbox {columns} VALUES (:id, :key, 'insert', 'a reason')"
        connection.execute(text(statement), values)
        connection.execute(text("ANALYZE inbox"))
    animals.apply([[Change("k7", GOOD)]])
    assert "ix_inbox_rejected_key" in "".join(plans)
    assert len(animals.inbox.refused()) == 2000


def test_a_retry_searches_newer_samples_by_an_index(reg: Registry, animals: Dataset) -> None:
    animals.insert([GOOD] * 2000, keys=[f"k{n}" for n in range(2000)])
    plans = plans_of(reg, "samples.created_at")
    with reg.engine.begin() as connection:
        put(connection, animals, "k7", BAD)
    animals.inbox.drain()
    with reg.engine.begin() as connection:
        connection.execute(text("ANALYZE samples"))
    animals.inbox.retry()
    assert "ix_samples_key" in "".join(plans)
