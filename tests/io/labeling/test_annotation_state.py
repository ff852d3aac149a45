"""States of annotations: which one wins, and that each tool, group and dataset has its own."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert

from registry import Dataset, Registry, Tensor
from registry.errors import InvalidSampleError
from registry.io.labeling import stored_states
from registry.io.labeling.annotation import AnnotationId
from registry.io.labeling.annotation_state import (
    AnnotationState,
    Removal,
    StoredState,
    supersedes,
)
from registry.io.labeling.apply import Outcome, apply_states
from registry.io.labeling.state_table import StateTable, has_greater_record
from registry.io.labeling.stored_states import states_of_parent
from registry.storage.database.models import InboxRow
from registry.storage.log.lookup import Latest

TOOL = "label-studio"
ID = AnnotationId(TOOL, "1", "7")


def at(second: int) -> datetime:
    return datetime(2021, 1, 1, tzinfo=UTC) + timedelta(seconds=second)


MOMENTS = [at(1), at(2), at(3)]
TIMES = [None, *MOMENTS]


def state(
    dataset: Dataset, second: int | None, value: int | None = None, identity: AnnotationId = ID
) -> AnnotationState:
    """Return a deletion, a state without a sample, or one with a sample of this value."""
    if second is None or value is None:
        return AnnotationState(identity, None if second is None else at(second))
    (record,) = dataset._log.codec.encode({"x": [value]})
    return AnnotationState(identity, at(second), {"x": value}, record)


@pytest.fixture
def dataset(reg: Registry) -> Dataset:
    return reg.create("samples", {"x": Tensor("uint8")})


def apply(dataset: Dataset, state: AnnotationState) -> list[Outcome]:
    return apply_states(dataset, TOOL, [[state]])


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("new", TIMES)
def test_a_deleted_annotation_never_returns(new: datetime | None, final: bool) -> None:
    for old, key in itertools.product(TIMES, (None, "k")):
        stored = StoredState(old, deleted=True, key=key)
        assert not supersedes(AnnotationState(ID, new), stored, None, lambda: True, final=final)


@pytest.mark.parametrize("final", [False, True])
def test_a_deletion_applies_to_every_state(final: bool) -> None:
    stored_states = [None, *(StoredState(old, key=k) for old in TIMES for k in (None, "k"))]
    for stored, exported in itertools.product(stored_states, TIMES):
        deletion = AnnotationState(ID, None)
        assert supersedes(deletion, stored, exported, lambda: False, final=final)


def test_a_state_of_an_export_wins_unless_it_is_older() -> None:
    for new, old, exported in itertools.product(MOMENTS, MOMENTS, TIMES):
        for stored in (StoredState(old), StoredState(old, key="k")):
            won = supersedes(AnnotationState(ID, new), stored, exported, lambda: False, final=True)
            assert won == (new >= old)
        assert supersedes(AnnotationState(ID, new), None, exported, lambda: False, final=True)
        undated = StoredState(None, key="k")
        assert supersedes(AnnotationState(ID, new), undated, exported, lambda: False, final=True)


@pytest.mark.parametrize("greater", [False, True])
def test_a_state_of_an_event_wins_if_it_is_newer_or_of_one_time_and_greater(greater: bool) -> None:
    for new, old, key, exported in itertools.product(MOMENTS, TIMES, (None, "k"), TIMES):
        calls: list[bool] = []

        def is_greater(calls: list[bool] = calls) -> bool:
            calls.append(greater)
            return greater

        stored = None if old is None and key is None else StoredState(old, key=key)
        won = supersedes(AnnotationState(ID, new), stored, exported, is_greater, final=False)
        if key is None and exported is not None and new <= exported:
            assert not won, "the export had it without a sample"
        elif old is None or new != old:
            assert won == (old is None or new > old)
        elif exported is not None and new <= exported:
            assert not won, "the export had it, with the task's data of then"
        else:
            assert won == (key is not None and greater)
        # It may read a record, so it is called only where the times decide nothing.
        late = exported is not None and new <= exported
        assert bool(calls) == (key is not None and new == old and not late)


def test_of_two_records_of_one_time_the_greater_bytes_win(reg: Registry, dataset: Dataset) -> None:
    with reg.engine.connect() as connection:
        for present, new, greater in [
            (b"b", b"a", False),
            (b"b", b"b", False),
            (b"b", b"c", True),
            (b"b", b"ba", True),
            (b"b", None, True),
            (None, b"c", False),
            (None, None, False),
        ]:
            latest = Latest(0, present)
            assert has_greater_record(connection, dataset.id, new, latest) == greater


def test_a_state_that_changes_no_sample_still_moves_the_time(dataset: Dataset) -> None:
    assert apply(dataset, state(dataset, 1, 5)) == [Outcome(inserted=1)]
    assert apply(dataset, state(dataset, 3, 5)) == [Outcome(unchanged=1)]
    assert apply(dataset, state(dataset, 2, 6)) == [Outcome(unchanged=1)]
    assert dataset.get(ID.key) == {"x": 5}
    assert apply(dataset, state(dataset, 4)) == [Outcome(retracted=1)]
    assert apply(dataset, state(dataset, 6)) == [Outcome(unchanged=1)]
    assert apply(dataset, state(dataset, 5, 6)) == [Outcome(unchanged=1)]
    assert apply(dataset, state(dataset, 7, 6)) == [Outcome(inserted=1)]
    assert [entry.action for entry in dataset.entries()] == ["insert", "retract", "revise"]


def test_the_states_of_one_transaction_are_counted_in_turn(dataset: Dataset) -> None:
    unfit = AnnotationState(ID, at(6), {"x": 300}, error=InvalidSampleError("unfit"))
    states = [state(dataset, 1, 5), state(dataset, 2, 6), state(dataset, 3), state(dataset, 4, 6)]
    groups = [[*states, state(dataset, 2, 9), unfit], states]
    outcomes = [
        Outcome(inserted=2, revised=1, retracted=1, unchanged=1, quarantined=1),
        Outcome(unchanged=4),
    ]
    assert apply_states(dataset, TOOL, groups, dry=True) == outcomes
    assert (dataset.head.position, dataset.inbox.refused()) == (0, [])
    assert apply_states(dataset, TOOL, groups) == outcomes
    assert len(dataset) == 0
    assert [row.key for row in dataset.inbox.refused()] == [ID.key]
    assert apply(dataset, state(dataset, None)) == [Outcome(unchanged=1)]
    assert dataset.inbox.refused() == []
    assert apply(dataset, state(dataset, 9, 5)) == [Outcome(unchanged=1)]


def untimed(states: dict[AnnotationId, StoredState]) -> dict[AnnotationId, StoredState]:
    """Return states without the times of deletions, which are those of the test."""
    return {
        name: replace(stored, updated_at=None) if stored.deleted else stored
        for name, stored in states.items()
    }


def test_each_tool_group_and_dataset_has_its_own_states(
    reg: Registry, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_states, "_TOGETHER", 2)
    other = reg.create("other", {"x": Tensor("uint8")})
    stored: dict[tuple[int, str, str], dict[AnnotationId, StoredState]] = {}
    seconds = itertools.count(1)
    for each, tool, group in itertools.product(
        (dataset, other), (TOOL, "argilla"), ("1", "10", "0", "2")
    ):
        ids = [AnnotationId(tool, group, name) for name in ("1", "0", "10", "7")]
        times = [next(seconds) for _ in ids]
        with_samples = [state(each, n, 5, name) for n, name in zip(times, ids, strict=True)]
        outcomes = apply_states(each, tool, [with_samples])
        assert outcomes == [Outcome(inserted=4)]
        assert apply_states(each, tool, [[state(each, None, None, ids[1])]])[0].retracted == 1
        assert apply_states(each, tool, [with_samples]) == [Outcome(unchanged=4)]
        stored[each.id, tool, group] = {
            name: StoredState(None, deleted=True)
            if name == ids[1]
            else StoredState(at(n), key=name.key)
            for n, name in zip(times, ids, strict=True)
        }
    with reg.engine.begin() as connection:
        for (dataset_id, tool, group), states in stored.items():
            assert untimed(states_of_parent(connection, dataset_id, tool, group)) == states
            table = StateTable(connection, dataset_id, tool).load([], others=[group])
            for second, expected in ((5, 5), (9, 9), (9, 9), (3, 9)):
                table.set_exported_at(group, at(second))
                table.write()
                table = StateTable(connection, dataset_id, tool).load([], others=[group])
                assert table._stored == {group: StoredState(at(expected))}
            assert not table.is_deleted(group)
            assert table.apply_removal(Removal(group)) == []
            table.write()
            table = StateTable(connection, dataset_id, tool).load([], others=[group, "3"])
            assert (table.is_deleted(group), table.is_deleted("3")) == (True, False)
            assert untimed(states_of_parent(connection, dataset_id, tool, group)) == states
        # Again, with the groups' own rows: that of group 10 is next to the annotations of group 1.
        for (dataset_id, tool, group), states in stored.items():
            assert untimed(states_of_parent(connection, dataset_id, tool, group)) == states


def test_rejected_states_are_removed_with_their_annotations_in_one_dataset_alone(
    reg: Registry, dataset: Dataset
) -> None:
    other = reg.create("other", {"x": Tensor("uint8")})
    unfit = [
        AnnotationState(
            AnnotationId(TOOL, "1", name), at(1), error=InvalidSampleError("unfit"), annotator=name
        )
        for name in ("7", "8")
    ]
    for each in (dataset, other):
        assert apply_states(each, TOOL, [unfit]) == [Outcome(quarantined=2)]
    assert apply_states(dataset, TOOL, [[Removal("1")]]) == [Outcome(unchanged=2)]
    assert (len(dataset.inbox.refused()), len(other.inbox.refused())) == (0, 2)
    # A person's row of the same key is not the tool's.
    with reg.engine.begin() as connection:
        row = {"dataset_id": other.id, "key": ID.key, "source": f"{TOOL}7", "error": "by hand"}
        connection.execute(insert(InboxRow).values(row))
    assert apply(other, state(other, 2, 5)) == [Outcome(inserted=1)]
    left = {(row.key, row.source) for row in other.inbox.refused()}
    assert left == {(unfit[1].id.key, f"{TOOL}/8"), (ID.key, f"{TOOL}7")}


def test_a_sample_and_its_retraction_name_the_annotator(dataset: Dataset) -> None:
    for annotator, value in (("3", 5), ("4", None)):
        apply(dataset, replace(state(dataset, int(annotator), value), annotator=annotator))
    assert [entry.source for entry in dataset.entries()] == [f"{TOOL}/3", f"{TOOL}/4"]
