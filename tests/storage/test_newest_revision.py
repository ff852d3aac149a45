"""The newest revision of a key, which is read without the older ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event, text

from registry import Dataset, Registry
from registry.errors import SampleNotFoundError
from tests.support.datasets import FIXED, digit

numbers = count()
KEYS = st.sampled_from(["a", "a\U0010ffff", "b", "é"])
CHANGES = st.lists(
    st.tuples(st.sampled_from(["insert", "insert", "retract", "erase"]), KEYS), max_size=12
)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=CHANGES)
@example(changes=[(action, "a") for action in ("insert", "erase", "insert", "retract", "erase")])
def test_the_newest_revision_is_the_last_of_the_history(
    reg: Registry, changes: list[tuple[str, str]]
) -> None:
    # Two datasets share the keys, and only the other one has all of them.
    dataset, other = (reg.create(f"d{next(numbers)}", FIXED) for _ in range(2))
    other.insert([digit(n) for n in range(3)], keys=["a", "a", "b"])
    for action, key in changes:
        known = dataset.history(key)
        if action == "insert":
            dataset.insert([digit(next(numbers))], keys=[key])
        elif known:
            dataset.retract(key) if action == "retract" else dataset.erase(key)
    for position in range(dataset.head.position + 1):
        version = reg.open(f"{dataset.name}@{position}")
        for key in ("a", "a\U0010ffff", "b", "é"):
            history = version.history(key)
            latest = version.latest(key)
            assert (None if latest is None else latest.entry) == (
                history[-1].entry if history else None
            )
            if latest is not None and latest.sample is not None:
                assert repr(latest.sample) == repr(history[-1].sample) == repr(version.get(key))
                continue
            held = [each.entry for each in history if each.entry.action != "retract"]
            reason = "no sample has this key"
            if held:
                reason = f"it was retracted at position {history[-1].entry.position}"
                reason = "it was erased; insert it again" if held[-1].erased else reason
            with pytest.raises(SampleNotFoundError, match=re.escape(f"key {key!r}: {reason}")):
                version.get(key)


@contextmanager
def plans(engine: Engine) -> Iterator[list[str]]:
    """Collect the plans of the SELECTs of `samples` in the block."""
    collected: list[str] = []

    def explain(
        connection: Any, cursor: Any, sql: str, parameters: Any, context: Any, many: Any
    ) -> None:
        del connection, context, many
        if sql.lstrip().startswith("SELECT") and "FROM samples" in sql:
            prefix = (
                "EXPLAIN (COSTS OFF)"
                if engine.dialect.name == "postgresql"
                else "EXPLAIN QUERY PLAN"
            )
            asked = cursor.connection.cursor()
            collected.extend(
                str(row) for row in asked.execute(f"{prefix} {sql}", parameters).fetchall()
            )
            asked.close()

    event.listen(engine, "before_cursor_execute", explain)
    try:
        yield collected
    finally:
        event.remove(engine, "before_cursor_execute", explain)


def test_a_key_is_searched_in_its_index_whatever_the_statistics(
    reg: Registry, digits: Dataset
) -> None:
    digits.insert([digit(n) for n in range(50)], keys=[f"k{n}" for n in range(50)])
    with reg.engine.begin() as connection:
        connection.execute(text("ANALYZE"))
    revised = reg.create("revised", FIXED)
    revised.insert([digit(n) for n in range(300)], keys=["k"] * 300)
    version = reg.open("revised@100")
    with plans(reg.engine) as used:
        revised.latest("k")
        version.get("k")
        assert revised.split_of("k") is None
    assert any("ix_samples_key" in line for line in used)
    assert not any("Seq Scan" in line or "SCAN" in line for line in used), used
