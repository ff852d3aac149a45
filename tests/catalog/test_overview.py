"""All datasets at a glance."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, event

from registry import Dataset, Registry
from registry.catalog import overview as module
from registry.catalog.overview import overview
from tests.storage.test_inbox import put
from tests.support.datasets import FIXED, digit
from tests.support.page_clients import reject


def test_the_overview_has_each_dataset_with_its_inbox_and_last_row(
    reg: Registry, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_COUNTED", 2)
    other = reg.create("a-first", FIXED, description="none")
    reg.create("dropped", FIXED)
    reg.drop("dropped")
    digits.insert([digit(1), digit(2)], keys=["a", "b"], source="scanner")
    digits.retract("a", source="person")
    reject(digits, "x", "y", "z", label=99)
    with reg.engine.begin() as connection:
        put(connection, digits, "w", digit(3))
        put(connection, other, "w", digit(3))
    statements: list[str] = []
    record = lambda *arguments: statements.append(arguments[2])  # noqa: E731
    event.listen(Engine, "before_cursor_execute", record)
    first, second = overview(reg)
    event.remove(Engine, "before_cursor_execute", record)
    assert len([each for each in statements if "SELECT" in each]) == 1
    assert (first.name, first.description, first.live, first.position) == ("a-first", "none", 0, 0)
    assert (first.last_at, first.last_source) == (None, None)
    assert (first.waiting, first.rejected) == (1, 0)
    assert (second.name, second.live, second.position) == ("digits", 1, 3)
    assert second.last_source == "person"
    assert second.last_at is not None
    assert second.last_at.tzinfo is not None
    # Counted up to the limit, and what waits still waits.
    assert (second.waiting, second.rejected) == (1, 2)
