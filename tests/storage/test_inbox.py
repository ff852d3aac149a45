"""The inbox: rows that tools insert by plain SQL reach the log once, or are rejected."""

from __future__ import annotations

import base64
import json
import threading
import time
import tracemalloc
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, case, func, select, text, update
from sqlalchemy.exc import IntegrityError
from typer.testing import CliRunner, Result

import registry
from registry import Dataset, Registry
from registry.cli.base import app
from registry.errors import (
    ConflictError,
    DiskFullError,
    InvalidSampleError,
    PermissionDeniedError,
    ReadOnlyError,
    RegistryError,
)
from registry.io.labeling.annotation import AnnotationId
from registry.io.labeling.annotation_state import AnnotationState
from registry.io.labeling.apply import Outcome, apply_states
from registry.storage.database import models
from registry.storage.log import inbox, inbox_rejected, inbox_waiting
from registry.storage.log.inbox import Inbox
from registry.storage.log.inbox_waiting import RowSize
from tests.support.datasets import digit

MIB = 1 << 20
INSERT = text(
    "INSERT INTO inbox (dataset_id, key, fields, action, source) "
    "VALUES (:dataset, :key, :fields, :action, :source)"
)


def put(
    connection: Connection,
    dataset: Dataset,
    key: str | None,
    fields: object = None,
    action: str | bytes = "insert",
    source: str | bytes | None = None,
) -> None:
    """Insert a row as a tool in another language does."""
    row = {"key": key, "action": action, "source": source, "dataset": dataset.id}
    connection.execute(INSERT, {**row, "fields": None if fields is None else json.dumps(fields)})


def test_reading_the_head_moves_rows_of_plain_sql_to_the_log(
    reg: Registry, digits: Dataset
) -> None:
    image = base64.b64encode(bytes([1, 2, 3, 4])).decode()
    with reg.engine.begin() as connection:
        put(connection, digits, "a", digit(3), source="tool")
        put(connection, digits, "b", {"image": image, "label": 4})
        put(connection, digits, "a", {"label": 5}, "update")
        put(connection, digits, "b", action="retract")
        put(connection, digits, None, digit(9))
    assert digits.head.position == 5
    assert len(digits) == 2
    assert digits.get("a")["label"] == 5
    np.testing.assert_array_equal(digits.history("b")[0].sample["image"], [[1, 2], [3, 4]])  # type: ignore[index]
    assert [entry.source for entry in digits.entries()] == ["tool", *["inbox"] * 4]
    assert digits.inbox.drain().moved == 0


@pytest.mark.parametrize(
    "error", [PermissionDeniedError, ReadOnlyError, DiskFullError, ConflictError]
)
def test_the_head_is_read_though_waiting_rows_cannot_be_moved(
    reg: Registry, digits: Dataset, error: type[RegistryError], monkeypatch: pytest.MonkeyPatch
) -> None:
    digits.insert([digit(0)])
    with reg.engine.begin() as connection:
        put(connection, digits, "a", digit(1))

    def refuse(*_: object, **__: object) -> None:
        raise error("the rows cannot be moved")

    monkeypatch.setattr(Inbox, "drain", refuse)
    assert digits.head.position == 1


def test_each_kind_of_feature_can_be_written_as_json(reg: Registry, notes: Dataset) -> None:
    with reg.engine.begin() as connection:
        tokens = base64.b64encode(np.array([7, 8], "<i4").tobytes()).decode()
        fields = {"text": "é", "label": "dog", "blob": "data:;base64,AAE=", "tokens": [1, -2]}
        put(connection, notes, "names", fields)
        put(connection, notes, "indexes", {**fields, "label": 0, "blob": "AAE=", "tokens": tokens})
    assert len(notes) == 2
    by_name, by_index = notes.get("names"), notes.get("indexes")
    assert (by_name["text"], by_name["label"], by_name["blob"]) == ("é", 1, b"\0\1")
    assert (by_index["label"], by_index["blob"]) == (0, b"\0\1")
    assert by_name["tokens"].tolist() == [1, -2]
    assert by_index["tokens"].tolist() == [7, 8]


def test_a_rejected_row_stays_with_the_reason_and_stops_no_other(
    reg: Registry, digits: Dataset
) -> None:
    with reg.engine.begin() as connection:
        put(connection, digits, "a", digit(1))
        put(connection, digits, "bad", {**digit(1), "label": 10})
        put(connection, digits, "unknown", action="retract")
        put(connection, digits, "list", [1])
        put(connection, digits, "b", digit(2))
    assert digits.head.position == 2
    errors = {row.key: row.error for row in digits.inbox.refused()}
    assert errors.keys() == {"bad", "unknown", "list"}
    assert "feature 'label': class index 10 is not in [0, 10)" in errors["bad"]
    assert "no sample has this key" in errors["unknown"]
    assert "not [1]" in errors["list"]


def test_rejected_rows_can_be_retried_or_discarded(reg: Registry, digits: Dataset) -> None:
    with reg.engine.begin() as connection:
        for key in ("early", "never"):
            put(connection, digits, key, {"label": 5}, "update")
    assert digits.head.position == 0
    first, second = (row.id for row in digits.inbox.refused())
    digits.insert([digit(1)], keys=["early"])
    assert digits.inbox.retry([first]) == 1
    assert digits.inbox.drain().moved == 1
    assert digits.get("early")["label"] == 5
    for number in (-1 << 63, 1 << 63, 1 << 64):  # no bigint, or no row's id
        assert (digits.inbox.retry([number]), digits.inbox.discard([number])) == (0, 0)
    assert [row.id for row in digits.inbox.refused()] == [second]
    assert digits.inbox.discard() == 1
    assert digits.inbox.refused() == []


def test_an_open_transaction_delays_nobody(
    postgresql_url: str,
) -> None:
    with registry.connect(postgresql_url) as reg:
        digits = reg.create("digits", {"label": registry.ClassLabel(10)})
        with reg.engine.begin() as slow:
            put(slow, digits, "slow", {"label": 1})
            with reg.engine.begin() as quick:
                put(quick, digits, "quick", {"label": 2})
            digits.insert([{"label": 3}], keys=["direct"])
            assert [entry.key for entry in digits.entries()] == ["direct", "quick"]
        assert [entry.key for entry in digits.entries()] == ["direct", "quick", "slow"]


def test_concurrent_drains_move_each_row_once(reg: Registry, digits: Dataset) -> None:
    count = 300
    with reg.engine.begin() as connection:
        for number in range(count):
            put(connection, digits, None, digit(number))
    start = threading.Barrier(5)

    def work(number: int) -> None:
        start.wait()
        for turn in range(10):
            digits.insert([digit(turn)], keys=[f"direct-{number}-{turn}"])
            digits.inbox.drain()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digits) == digits.head.position == count + 50


def test_a_reader_without_the_right_to_drain_reads_the_log(postgresql_url: str) -> None:
    with registry.connect(postgresql_url) as owner:
        digits = owner.create("digits", {"label": registry.ClassLabel(10)})
        digits.insert([{"label": 3}])
        role = f"reader_{digits._log.uid}"
        with owner.engine.begin() as connection:
            connection.execute(text(f"CREATE ROLE {role} LOGIN"))
            connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"))
            put(connection, digits, "waiting", {"label": 1})
        url = owner.engine.url.set(username=role)
        try:
            with registry.connect(url.render_as_string(hide_password=False)) as reader:
                opened = reader.open("digits")
                assert opened.head.position == 1
                with pytest.raises(registry.RegistryError, match="permission denied"):
                    opened.inbox.drain()
        finally:
            with owner.engine.begin() as connection:
                connection.execute(text(f"DROP OWNED BY {role}"))
                connection.execute(text(f"DROP ROLE {role}"))
        assert digits.head.position == 2


def test_a_reader_does_not_wait_for_a_writer_that_stopped(postgresql_url: str) -> None:
    with registry.connect(postgresql_url) as reg:
        digits = reg.create("digits", {"label": registry.ClassLabel(10)})
        with reg.engine.begin() as connection:
            put(connection, digits, "waiting", {"label": 1})
        with reg.engine.begin() as stopped:
            stopped.execute(text("SELECT * FROM heads FOR UPDATE"))
            assert digits.head.position == 0
        assert digits.head.position == 1


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
samples = st.fixed_dictionaries({"image": values, "label": values | st.integers(0, 9)})
rows = st.tuples(
    st.sampled_from(["a", "b", "", "c\u0000", "é" * 300]) | st.none(),
    st.just(digit(3)) | samples | values,
    st.sampled_from(["insert", "insert", "update", "retract"]),
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(batch=st.lists(rows, max_size=8))
def test_any_inserted_row_is_moved_or_rejected(
    reg: Registry, digits: Dataset, batch: list[tuple[Any, Any, str]]
) -> None:
    before = len(digits.inbox.refused())
    with reg.engine.begin() as connection:
        stored = 0
        for key, fields, action in batch:
            if reg.engine.dialect.name == "postgresql" and "\0" in f"{key}{fields!r}".replace(
                r"\x00", "\0"
            ):
                continue  # PostgreSQL itself refuses it
            put(connection, digits, key, fields, action)
            stored += 1
    drained = digits.inbox.drain()
    assert drained.moved + drained.refused == stored
    assert len(digits.inbox.refused()) == before + drained.refused - drained.corrected
    assert all(row.error for row in digits.inbox.refused())


def test_values_that_sqlite_stores_as_text_or_json_are_checked(sqlite_url: str) -> None:
    with registry.connect(sqlite_url) as reg:
        notes = reg.create("notes", {"text": registry.Text()})
        with reg.engine.begin() as connection:
            for number, raw in enumerate(
                [b"\xff", b"{", b'{"text": "a", "text": "b"}', b'{"text": NaN}', b'{"text": "ok"}']
            ):
                connection.execute(
                    INSERT,
                    {
                        "dataset": notes.id,
                        "key": f"k{number}",
                        "fields": raw,
                        "action": "insert",
                        "source": None,
                    },
                )
            connection.execute(
                text("INSERT INTO inbox (dataset_id, key, fields) VALUES (:id, :key, :fields)"),
                {"id": notes.id, "key": b"\xfe", "fields": '{"text": "ok"}'},
            )
            put(connection, notes, "k6", {"text": "ok"}, source=b"\xfd")
            with pytest.raises(IntegrityError, match="the actions are insert, update and retract"):
                put(connection, notes, "k7", {"text": "ok"}, action=b"\xfc")
        assert len(notes) == 1
        assert [row.error for row in notes.inbox.refused()] == [
            "fields is not UTF-8 text",
            "not JSON: Expecting property name enclosed in double quotes at column 2",
            "'text' is there twice",
            "NaN is not JSON",
            "key is not UTF-8 text",
            "source is not UTF-8 text",
        ]


def test_the_commands_drain_list_retry_and_discard(
    url: str, reg: Registry, digits: Dataset
) -> None:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments, "--url", url])
        assert result.exit_code == 0, result.output
        return result.output

    with reg.engine.begin() as connection:
        put(connection, digits, "a", digit(1))
        put(connection, digits, "bad", {"label": 1})
    assert run("drain") == "digits: 1 moved; 1 did not fit: registry inbox ls digits\n"
    (row,) = json.loads(run("inbox", "ls", "digits", "--json"))
    assert (row["key"], row["action"]) == ("bad", "insert")
    assert "missing 'image'" in run("inbox", "ls", "digits")
    assert run("inbox", "retry", "digits", str(row["id"])).startswith("1 tried again: ")
    with reg.engine.begin() as connection:
        put(connection, digits, "empty", {})
        put(connection, digits, "outdated", {"label": 1})
        connection.execute(update(models.InboxRow).values(created_at=datetime.now(UTC) - MONTH))
    digits.inbox.drain()
    digits.insert([digit(2)], keys=["outdated"])
    said = run("inbox", "retry", "digits")
    assert said.startswith("1 tried again: ")
    assert "note: 1 without fields not tried" in said
    assert "note: 1 not tried, as the sample was changed after the row was rejected" in said
    assert run("inbox", "discard", "digits") == "3 removed\n"
    assert run("drain", "digits") == "digits: 0 moved\n"


def test_rows_of_one_dataset_never_reach_another(reg: Registry, digits: Dataset) -> None:
    other = reg.create("other", digits.features)
    with reg.engine.begin() as connection:
        for dataset in (other, digits):
            put(connection, dataset, dataset.name, digit(1))
            put(connection, dataset, f"unfit of {dataset.name}", {"label": 1})
    drained = digits.inbox.drain()
    assert (drained.moved, drained.refused) == (1, 1)
    assert [entry.key for entry in digits.entries()] == ["digits"]
    assert [row.key for row in digits.inbox.refused()] == ["unfit of digits"]
    assert [entry.key for entry in other.entries()] == ["other"]
    (unfit,) = other.inbox.refused()
    assert digits.inbox.retry([unfit.id]) == digits.inbox.discard([unfit.id]) == 0
    assert (digits.inbox.retry(), digits.inbox.drain().refused) == (1, 1)
    assert (digits.inbox.discard(), other.inbox.refused()) == (1, [unfit])


def test_any_number_of_waiting_rows_is_drained_in_order(reg: Registry, digits: Dataset) -> None:
    with reg.engine.begin() as connection:
        rows = [
            {
                "dataset": digits.id,
                "key": f"k{number % 2990}",
                "fields": json.dumps(digit(number) if number % 1000 else {}),
                "action": "insert",
                "source": None,
            }
            for number in range(3000)
        ]
        connection.execute(INSERT, rows)
    drained = digits.inbox.drain()
    assert (drained.moved, drained.refused) == (2997, 3)
    keys = [f"k{number % 2990}" for number in range(3000) if number % 1000]
    assert [entry.key for entry in digits.entries()] == keys
    assert digits.get("k1")["label"] == 2991 % 10


@pytest.mark.parametrize(
    "limit",
    [(inbox_waiting, "_STORED"), (inbox, "_BYTES"), None],
    ids=["stored", "measured", "together"],
)
def test_rows_are_drained_in_the_order_of_their_ids_wherever_they_are_stored(
    postgresql_url: str, limit: tuple[ModuleType, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL stores an updated row at another place, and without an order returns it last."""
    if limit:
        monkeypatch.setattr(*limit, 1)  # a row at a time
    with registry.connect(postgresql_url) as reg:
        digits = reg.create("digits", {"label": registry.ClassLabel(10)})
        with reg.engine.begin() as tool:
            for label in range(10):
                put(tool, digits, "revised", {"label": label})
            for ids in ("id % 3 = 0", "id % 3 = 1"):
                tool.execute(text(f"UPDATE inbox SET source = 'tool' WHERE {ids}"))
            # The planner could use these, and their order is that of the ids.
            tool.execute(text("DROP INDEX ix_inbox_waiting"))
            tool.execute(text("ALTER TABLE inbox DROP CONSTRAINT pk_inbox"))
            assert tool.scalars(text("SELECT id % 3 FROM inbox")).first() == 2
        assert digits.inbox.drain().moved == 10
        labels = [revision.sample["label"] for revision in digits.history("revised")]  # type: ignore[index]
        assert labels == list(range(10))


def test_a_row_locked_by_a_tool_delays_neither_drains_nor_writers(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_rejected, "_EVERY", 0.0)
    with registry.connect(postgresql_url) as reg:
        digits = reg.create("digits", {"label": registry.ClassLabel(10)})
        with reg.engine.begin() as connection:
            for key, label in (("locked", 1), ("free", 2), ("unfit", 10), ("also unfit", 11)):
                put(connection, digits, key, {"label": label})
        with reg.engine.begin() as tool:
            for key in ("locked", "unfit"):
                tool.execute(text("SELECT * FROM inbox WHERE key = :key FOR UPDATE"), {"key": key})
            # A lock that is waited for ends this as an error.
            drained = digits.inbox.drain(wait=1)
            assert (drained.moved, drained.refused) == (1, 1)
            digits.insert([{"label": 3}], keys=["direct"])
        drained = digits.inbox.drain()
        assert (drained.moved, drained.refused) == (1, 1)
        digits.inbox.set_limits(quota=0)
        with reg.engine.begin() as tool:
            tool.execute(text("SELECT * FROM inbox WHERE key = 'unfit' FOR UPDATE"))
            with reg.engine.begin() as other:
                other.execute(text("SET LOCAL lock_timeout = 1000"))
                assert inbox_rejected._remove(other, digits.id) == 1
        assert [row.key for row in digits.inbox.refused()] == ["unfit"]
        assert digits.inbox.drain().removed == 1


@pytest.mark.parametrize("action", ["insert", "update"])
def test_a_drain_takes_memory_for_only_some_of_the_waiting_bytes(
    reg: Registry, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    monkeypatch.setattr("registry.storage.log.inbox._BYTES", MIB)
    blobs = reg.create("blobs", {"blob": registry.Bytes(), "label": registry.ClassLabel(10)})
    blob = base64.b64encode(bytes(2 * MIB)).decode()
    keys = [f"k{number}" for number in range(12)]
    for key in keys if action == "update" else ():
        blobs.insert([{"blob": bytes(2 * MIB), "label": 0}], keys=[key])
    with reg.engine.begin() as connection:
        for number, key in enumerate(keys):
            fields = {"label": 1 + number % 9} | ({"blob": blob} if action == "insert" else {})
            put(connection, blobs, key, fields, action)
    tracemalloc.start()
    drained = blobs.inbox.drain()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (drained.moved, drained.refused) == (12, 0)
    assert [entry.key for entry in blobs.entries()][-12:] == keys
    assert [blobs.get(key)["label"] for key in keys] == [1 + n % 9 for n in range(12)]
    assert peak < 16 * MIB, f"{peak / MIB:.0f} MiB"


def test_few_rows_are_measured_at_a_time_and_moved_in_order(
    reg: Registry, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_waiting, "_STORED", 1)
    measured: list[int] = []

    def remember(connection: Connection, ids: Sequence[int]) -> dict[int, inbox_waiting.RowSize]:
        measured.append(len(ids))
        return inbox_waiting.measure(connection, ids)

    with reg.engine.begin() as connection:
        put(connection, digits, "a", {"label": 5}, "update")
    digits.inbox.drain()
    monkeypatch.setattr("registry.storage.log.inbox.measure", remember)
    with reg.engine.begin() as connection:
        for number in range(3):
            put(connection, digits, "a", digit(number))
        connection.execute(update(models.InboxRow).values(error=None))  # its row moves to the end
    drained = digits.inbox.drain()
    assert (drained.moved, drained.refused) == (3, 1), "the update came after the inserts"
    assert digits.get("a")["label"] == 2
    assert measured == [1, 1, 1, 1]


def test_a_row_larger_than_any_record_is_rejected_unread(
    reg: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("inbox", "inbox_changes"):
        monkeypatch.setattr(f"registry.storage.log.{module}.LARGEST_RECORD", MIB)
    notes = reg.create("notes", {"text": registry.Text()})
    with reg.engine.begin() as connection:
        put(connection, notes, "large", {"text": "x" * 8 * MIB})
        put(connection, notes, "k" * 2 * MIB, {"text": "y"})
        put(connection, notes, "fits", {"text": "x" * 1_000_000})
    tracemalloc.start()
    drained = notes.inbox.drain()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (drained.moved, drained.refused) == (1, 2)
    first, second = notes.inbox.refused()
    size = 8 * MIB + len('{"text": ""}' + "largeinsert")
    assert first.error == f"the row has {size:,} bytes; at most 1,048,576 are read"
    assert second.error.startswith("the row has 2,097,")
    assert peak < 7 * MIB, f"{peak / MIB:.0f} MiB"


@pytest.mark.parametrize(("limit", "moved"), [(0, 1), (-1, 0)])
def test_a_row_as_large_as_any_record_is_moved(
    reg: Registry, monkeypatch: pytest.MonkeyPatch, limit: int, moved: int
) -> None:
    notes = reg.create("notes", {"text": registry.Text()})
    with reg.engine.begin() as connection:
        put(connection, notes, "é", {"text": "x"})
    size = len('éinsert{"text": "x"}'.encode())
    monkeypatch.setattr("registry.storage.log.inbox.LARGEST_RECORD", size + limit)
    assert notes.inbox.drain().moved == moved


def test_rows_are_locked_up_to_the_limit_of_stored_bytes(
    reg: Registry, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reg.engine.begin() as connection:
        for key in ("a", "b", "c"):
            put(connection, digits, key, digit(1))
        stored = inbox_waiting._stored(connection.dialect.name)
        ids, sizes = zip(*connection.execute(stored, {"dataset": digits.id}), strict=True)
        for limit, count in ((3, 3), (2, 2), (1, 1), (0, 1)):
            monkeypatch.setattr(inbox_waiting, "_STORED", limit * sizes[0])
            locked = inbox_waiting.lock_waiting(connection, digits.id)
            assert locked == (list(ids[:count]), count < len(ids))


STORED, LONG = 7, 100_000
"""Bytes of the records that the next test updates: 4 for the length of its value, and the value.
A long one is not read to be measured."""


@pytest.mark.parametrize(
    ("rows", "limit"),
    [
        pytest.param([("a", 4, False), ("b", 6, False)], 10, id="inserts"),
        pytest.param([("a", 4, False), ("stored", 1, False)], 5, id="inserted again"),
        pytest.param([("a", 4, False), ("stored", 1, True)], 5 + STORED, id="updated"),
        pytest.param([("a", 4, False), ("long", 1, True)], 5 + LONG, id="updated, not read"),
        pytest.param([("a", 4, False), ("unknown", 1, True)], 5, id="an update without a record"),
        pytest.param([("a", 4, False), (None, 1, True)], 5, id="an update without a key"),
        pytest.param([("a", 4, False), ("a", 1, True)], 9, id="updated after its insert"),
        pytest.param([("stored", 4, False), ("stored", 1, True)], 9, id="updated after another"),
        pytest.param([("a", 4, False), ("a", 1, False)], 5, id="inserted twice"),
        pytest.param([("a", 1, False), ("b", 1, False), ("c", 1, False)], 3, id="three"),
    ],
)
def test_rows_are_read_up_to_the_limit_of_bytes(
    reg: Registry,
    monkeypatch: pytest.MonkeyPatch,
    rows: list[tuple[str | None, int, bool]],
    limit: int,
) -> None:
    blobs = reg.create("blobs", {"blob": registry.Bytes()})
    for key, size in (("stored", STORED), ("long", LONG)):
        blobs.insert([{"blob": bytes(size - 4)}], keys=[key])
    sizes = {number: RowSize(size, key, amends) for number, (key, size, amends) in enumerate(rows)}
    with reg.engine.connect() as connection:
        for limited, taken in ((limit, len(rows)), (limit - 1, len(rows) - 1), (0, 1)):
            monkeypatch.setattr(inbox, "_BYTES", limited)
            ids = inbox._first_within_limit(connection, blobs.id, sizes)
            assert ids == list(range(taken))


def test_a_row_too_long_to_be_measured_is_rejected_and_stops_no_other(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL returns no text over 1 GiB; [1e131071, …] of some KiB would be that long."""
    size = inbox_waiting._size

    def measured(dialect: str) -> Any:
        too_long = func.length(func.repeat(models.InboxRow.key, 1 << 30))
        return case((models.InboxRow.key == "long", too_long), else_=size(dialect))

    monkeypatch.setattr(inbox_waiting, "_size", measured)
    monkeypatch.setattr(inbox_waiting, "_measures", inbox_waiting._measures.__wrapped__)
    with registry.connect(postgresql_url) as reg:
        digits = reg.create("digits", {"label": registry.ClassLabel(10)})
        with reg.engine.begin() as connection:
            for key in ("before", "long", "after"):
                put(connection, digits, key, {"label": 1})
        drained = digits.inbox.drain()
        assert [entry.key for entry in digits.entries()] == ["before", "after"]
        assert (drained.moved, drained.refused) == (2, 1)
        (unread,) = digits.inbox.refused()
        assert "over 1,073,741,824 bytes; at most 268,435,456 are read" in unread.error


MONTH = timedelta(days=31)
"""Longer than rejected rows are kept, unless the limits say otherwise."""


@pytest.fixture
def rejecting(reg: Registry, digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> Inbox:
    """An inbox with six rejected rows that waited for long before they were rejected.

    The dataset "other" has such rows, too. Limits are applied at every drain.
    """
    monkeypatch.setattr(inbox_rejected, "_EVERY", 0.0)
    other = reg.create("other", digits.features)
    with reg.engine.begin() as connection:
        for number in range(6):
            for dataset in (digits, other):
                put(connection, dataset, f"k{number}", {"label": number})
        connection.execute(update(models.InboxRow).values(created_at=datetime.now(UTC) - MONTH))
    assert (digits.inbox.drain().removed, other.inbox.drain().removed) == (0, 0)
    return digits.inbox


def reject_a_month_ago(reg: Registry, ids: Sequence[int]) -> None:
    """Set back the time at which rows were rejected."""
    rows = update(models.InboxRow).where(models.InboxRow.id.in_(ids))
    with reg.engine.begin() as connection:
        connection.execute(rows.values(rejected_at=datetime.now(UTC) - MONTH))


def test_rejected_rows_are_kept_for_a_time(
    reg: Registry, rejecting: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    assert rejecting.limits == inbox_rejected.Limits(timedelta(days=30), 100_000)
    untimed = select(func.count()).where(models.InboxRow.rejected_at.is_(None))
    with reg.engine.connect() as connection:
        assert connection.execute(untimed).scalar_one() == 0
    reject_a_month_ago(reg, [row.id for row in rejecting.refused()[:2]])
    assert rejecting.drain().removed == 2
    assert "removed 2 rejected rows" in caplog.text
    assert len(reg.open("other").inbox.refused()) == 6


def test_rejected_rows_are_kept_up_to_a_number(reg: Registry, rejecting: Inbox) -> None:
    assert rejecting.set_limits(quota=3) == inbox_rejected.Limits(timedelta(days=30), 3)
    assert rejecting.drain().removed == 3
    assert [row.key for row in rejecting.refused()] == ["k3", "k4", "k5"]
    assert len(reg.open("other").inbox.refused()) == 6


def test_waiting_rows_are_neither_retried_nor_removed_with_the_rejected_ones(
    reg: Registry, digits: Dataset, rejecting: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_rejected, "_BATCH", 1)
    with reg.engine.begin() as connection:
        for key in ("first", "second"):
            put(connection, digits, key, digit(1))
    rejecting.set_limits(quota=3)
    assert rejecting.prune() == 3
    assert [row.key for row in rejecting.refused()] == ["k3", "k4", "k5"]
    assert rejecting.discard() == 3
    assert rejecting.retry() == 0
    assert rejecting.drain().moved == 2


def test_limits_are_applied_once_a_minute(
    rejecting: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(inbox_rejected, "_EVERY", 60.0)
    rejecting.set_limits(quota=0)
    assert rejecting.prune() == 0
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    assert rejecting.prune() == 6


def test_a_retried_row_that_is_rejected_again_counts_as_new(
    reg: Registry, rejecting: Inbox
) -> None:
    reject_a_month_ago(reg, [row.id for row in rejecting.refused()])
    assert (rejecting.retry(), rejecting.drain().removed, len(rejecting.refused())) == (6, 0, 6)


@pytest.mark.parametrize("retention", [timedelta(seconds=1), timedelta(days=36500)])
@pytest.mark.parametrize("quota", [0, (1 << 63) - 1])
def test_limits_are_stored_at_both_ends_of_their_range(
    digits: Dataset, retention: timedelta, quota: int
) -> None:
    limits = inbox_rejected.Limits(retention, quota)
    assert digits.inbox.set_limits(retention=retention, quota=quota) == limits
    assert digits.inbox.limits == limits


@pytest.mark.parametrize(
    "limit",
    [
        {"retention": timedelta(seconds=0.999)},
        {"retention": timedelta(days=36500, seconds=1)},
        {"quota": -1},
        {"quota": 1 << 63},
    ],
)
def test_limits_out_of_range_are_refused(digits: Dataset, limit: dict[str, Any]) -> None:
    with pytest.raises(inbox_rejected.LimitsError, match="is not"):
        digits.inbox.set_limits(**limit)


def test_webhooks_apply_the_limits_of_rejected_rows(
    reg: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_rejected, "_EVERY", 0.0)
    dataset = reg.create("d", {"x": registry.Tensor("uint8")})
    dataset.inbox.set_limits(quota=2)
    at = datetime(2021, 1, 1, tzinfo=UTC)
    for number in range(4):
        annotation = AnnotationId("label-studio", "1", str(number))
        unfit = AnnotationState(annotation, at, {}, error=InvalidSampleError("unfit"))
        assert apply_states(dataset, "label-studio", [[unfit]]) == [Outcome(quarantined=1)]
    assert [row.key for row in dataset.inbox.refused()] == ["label-studio:1:2", "label-studio:1:3"]


def test_a_rejected_row_is_listed_as_the_tool_inserted_it(reg: Registry, digits: Dataset) -> None:
    before = datetime.now(UTC) - timedelta(hours=1)
    with reg.engine.begin() as connection:
        put(connection, digits, "k", {}, "update", source="tool")
        put(connection, digits, None, {})
    digits.inbox.drain()
    rows = digits.inbox.refused()
    assert [(row.key, row.action, row.source) for row in rows] == [
        ("k", "update", "tool"),
        (None, "insert", None),
    ]
    assert all(before < row.created_at < before + timedelta(hours=2) for row in rows)


def test_rejected_rows_are_listed_in_the_order_of_their_ids_wherever_they_are_stored(
    postgresql_url: str,
) -> None:
    """PostgreSQL stores an updated row at another place, and without an order returns it last."""
    with registry.connect(postgresql_url) as reg:
        digits = reg.create("digits", {"label": registry.ClassLabel(10)})
        with reg.engine.begin() as connection:
            for key in ("a", "b", "c"):
                put(connection, digits, key, {})
        digits.inbox.drain()
        with reg.engine.begin() as connection:
            connection.execute(text("UPDATE inbox SET source = 'tool' WHERE key = 'a'"))
            # The planner could use these, and their order is that of the ids.
            connection.execute(text("DROP INDEX ix_inbox_rejected, ix_inbox_rejected_at"))
            connection.execute(text("ALTER TABLE inbox DROP CONSTRAINT pk_inbox"))
            assert connection.scalars(text("SELECT key FROM inbox")).first() != "a"
        assert [row.key for row in digits.inbox.refused()] == ["a", "b", "c"]


def test_rejected_rows_are_listed_after_any_number(rejecting: Inbox) -> None:
    whole = rejecting.refused()
    first, last = whole[0].id, whole[-1].id
    for after, count in ((-1 << 64, 6), (0, 6), (first, 5), (last, 0), (1 << 63, 0), (1 << 64, 0)):
        assert rejecting.refused(after) == whole[6 - count :]


def test_rejected_rows_are_listed_page_by_page(
    url: str, reg: Registry, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_rejected, "_PAGE", 3)
    monkeypatch.setattr("registry.cli.inbox._TABLE_ROWS", 2)
    with reg.engine.begin() as connection:
        for number in range(7):
            put(connection, digits, f"k{number}", {})
    digits.inbox.drain()
    whole = digits.inbox.refused()
    assert [row.key for row in whole] == [f"k{number}" for number in range(7)]
    for size in range(1, 9):
        after, pages = 0, []
        while page := digits.inbox.refused(after, size):
            assert len(page) <= size
            pages += page
            after = page[-1].id
        assert pages == whole, size

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["inbox", "ls", "digits", *arguments, "--url", url])

    first = run("--limit", "4")
    assert [line.split()[1] for line in first.stdout.splitlines()] == [
        "key",
        "k0",
        "k1",
        "k2",
        "k3",
    ]
    assert first.stderr == f"there are more: --after {whole[3].id}\n"
    rest = run("--after", str(whole[3].id), "--limit", "3", "--json")
    assert [row["key"] for row in json.loads(rest.stdout)] == ["k4", "k5", "k6"]
    assert rest.stderr == ""
    assert "Traceback" not in run("--after", str(1 << 70)).output


def test_the_limits_are_shown_and_set_by_a_command(url: str, digits: Dataset) -> None:
    def run(*arguments: str) -> str:
        return (
            CliRunner().invoke(app, ["inbox", "limits", "digits", *arguments, "--url", url]).output
        )

    assert run().split() == ["retention", "30d", "quota", "100,000", "rows"]
    assert "90d" in run("--retention", "90d", "--quota", "5")
    assert digits.inbox.limits == inbox_rejected.Limits(timedelta(days=90), 5)
    assert "is no duration" in run("--retention", "soon")
