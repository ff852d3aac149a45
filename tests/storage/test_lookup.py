"""Latest revisions: compared byte by byte, amended, and replaced without being read."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest

from registry import Bytes, Dataset, Registry, Tensor
from registry.errors import RegistryError
from registry.storage.log import amended, lookup
from registry.storage.log.batch import Batch, Report
from registry.storage.log.changes import Change
from registry.storage.log.lookup import _SHORT
from registry.storage.log.records import LONG

MIB = 1 << 20
HEADER = 12
"""Bytes of a record of `blobs` that its blob does not take."""


@pytest.fixture
def blobs(reg: Registry) -> Dataset:
    return reg.create("blobs", {"blob": Bytes(), "number": Tensor("int64")})


def blob(size: int, number: int = 0) -> dict[str, object]:
    return {"blob": number.to_bytes(8, "big").rjust(size, b"x"), "number": 0}


def taken(work: Callable[[], object]) -> int:
    """Return the peak of the bytes that Python's objects take while a function runs."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def counts(outcome: Report | RegistryError) -> tuple[int, int, int]:
    assert isinstance(outcome, Report)
    return outcome.revised, outcome.retracted, outcome.unchanged


@pytest.mark.parametrize("size", [MIB, LONG - 2 * HEADER], ids=["hashed", "read in groups"])
def test_records_that_are_retracted_or_repeated_take_no_memory(
    blobs: Dataset, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(lookup, "_GROUP", MIB)
    keys = [f"k{number}" for number in range(24 * MIB // size)]
    rows = [blob(size, number) for number in range(len(keys))]
    for start in range(0, len(keys), 16):
        blobs.insert(rows[start : start + 16], keys=keys[start : start + 16])
    records = blobs._log.codec.encode({name: [row[name] for row in rows] for name in rows[0]})
    batch = Batch(keys, records, [None] * len(keys))
    assert blobs.append(batch).unchanged == len(keys)
    assert taken(lambda: blobs.append(batch)) < 8 * MIB
    changes = [Change(key, None, "retract") for key in keys]
    assert taken(lambda: blobs.apply([changes])) < 4 * MIB
    assert len(blobs) == 0


@pytest.mark.parametrize("group", [1, lookup._GROUP])
@pytest.mark.parametrize("limit", [_SHORT, LONG])
def test_records_of_any_length_are_compared_to_the_byte(
    blobs: Dataset, monkeypatch: pytest.MonkeyPatch, limit: int, group: int
) -> None:
    monkeypatch.setattr(lookup, "_GROUP", group)
    keys = ["shorter", "at", "longer"]
    sizes = [limit - HEADER - 1, limit - HEADER, limit - HEADER + 1]
    rows = [blob(size) for size in sizes]
    blobs.insert(rows, keys=keys)
    assert counts(blobs.insert(rows, keys=keys)) == (0, 0, 3)
    other = [blob(size, 1) for size in sizes]
    assert counts(blobs.insert([*rows, *other, *other], keys=keys * 3)) == (3, 0, 6)
    assert counts(blobs.insert([*rows, *other], keys=keys * 2)) == (6, 0, 0)
    assert counts(blobs.insert(rows, keys=keys)) == (3, 0, 0)
    failing = [Change("at", other[1]), Change("never", None, "retract")]
    outcomes = blobs.apply([failing, [Change("at", rows[1])]])
    assert (isinstance(outcomes[0], RegistryError), counts(outcomes[1])) == (True, (0, 0, 1))
    assert [blobs.retract(key).retracted for key in keys] == [1, 1, 1]
    assert counts(blobs.insert(rows, keys=keys)) == (0, 0, 0)


def test_updates_of_long_records_take_memory_for_some_of_them(
    blobs: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "_GROUP", MIB)
    monkeypatch.setattr(amended, "AMENDED_BYTES", 2 * MIB)
    keys = [f"k{number}" for number in range(24)]
    blobs.insert([blob(MIB, number) for number in range(24)], keys=keys)
    requests = [[Change(key, {"number": 7}, "update")] for key in keys]
    assert taken(lambda: blobs.apply(requests)) < 16 * MIB
    assert [blobs.get(key) for key in keys] == [
        {**blob(MIB, number), "number": 7} for number in range(24)
    ]


@pytest.mark.parametrize("together", [1, amended.AMENDED_BYTES])
def test_updates_keep_other_features_in_any_order_and_after_failures(
    blobs: Dataset, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(lookup, "_GROUP", 3 * _SHORT)
    monkeypatch.setattr(amended, "AMENDED_BYTES", together)
    sizes = {"a": 9, "b": 2 * _SHORT, "c": 2 * _SHORT, "d": 4 * _SHORT, "e": _SHORT}
    blobs.insert([blob(size) for size in sizes.values()], keys=list(sizes))
    numbers = [("e", 1), ("d", 2), ("b", 3), ("b", 4), ("a", 5), ("c", 6)]
    changes = [Change(key, {"number": number}, "update") for key, number in numbers]
    failing = [*changes, Change("never", {"number": 1}, "update")]
    repeated = [Change("d", {"number": 2}, "update")]
    outcomes = blobs.apply([failing, changes, failing, repeated])
    assert [isinstance(each, RegistryError) for each in outcomes] == [True, False, True, False]
    assert (counts(outcomes[1]), counts(outcomes[3])) == ((6, 0, 0), (0, 0, 1))
    assert {each.head for each in outcomes if isinstance(each, Report)} == {blobs.head}
    for key, number in dict(numbers).items():
        assert blobs.get(key) == {**blob(sizes[key]), "number": number}
