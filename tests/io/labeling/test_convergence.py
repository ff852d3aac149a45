"""However events come, and an export among them, the dataset ends where the final export does.

A project is one history of annotations, delivered in its own order. All projects of a test
feed one dataset, so that each is also the other's disturbance.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from registry import Dataset, Registry
from registry.io.labeling.apply import Outcome
from registry.io.labeling.consensus import ConsensusRule
from registry.io.labeling.label_studio.export import insert_export
from registry.io.labeling.label_studio.webhook import apply_event, apply_events
from tests.support.label_studio_project import (
    FEATURES,
    MAPPING,
    Project,
    samples,
    write_export,
    yes,
)

PERMUTATIONS = 500
Events = list[dict[str, Any]]
Delivery = Callable[[Events, Random], tuple[Events, Events, bool]]
"""Which events come before the export, which after it, and whether it is needed."""


def in_order(events: Events, _: Random) -> tuple[Events, Events, bool]:
    return events, [], False


def shuffled(events: Events, random: Random) -> tuple[Events, Events, bool]:
    return random.sample(events, len(events)), [], False


def doubled(events: Events, random: Random) -> tuple[Events, Events, bool]:
    again = random.choices(events, k=len(events))
    return shuffled(events + again, random)


def days_late(events: Events, random: Random) -> tuple[Events, Events, bool]:
    """Some events come only once the export has been imported, in any order, some of them again."""
    mixed, _, _ = doubled(events, random)
    at = random.randint(0, len(mixed))
    return mixed[:at], mixed[at:], True


def some_lost(events: Events, random: Random) -> tuple[Events, Events, bool]:
    """Label Studio never sends an event again: what was not answered is lost."""
    came = random.sample(events, random.randint(0, len(events)))
    return came, random.choices(came, k=len(came) // 2), True


DELIVERIES: list[Delivery] = [in_order, shuffled, doubled, days_late, some_lost]


def _needs_export(number: int) -> bool:
    """Return whether a project's events alone do not say how it ended."""
    return DELIVERIES[number % len(DELIVERIES)]([], Random())[2]


@pytest.fixture(scope="module")
def projects() -> list[Project]:
    random, ids = Random(4), itertools.count(1)
    return [
        Project(number + 1, random, ids, silent=_needs_export(number)).live(random.randint(1, 24))
        for number in range(PERMUTATIONS)
    ]


CONSENSUS = [
    None,
    ConsensusRule("majority"),
    ConsensusRule("unanimous", 2),
    ConsensusRule("latest", 2),
]


@pytest.mark.parametrize("rule", CONSENSUS, ids=lambda rule: rule.method if rule else "none")
def test_events_in_any_order_and_the_final_export_make_the_same_dataset(
    reg: Registry, projects: list[Project], tmp_path: Path, rule: ConsensusRule | None
) -> None:
    random = Random(5)
    projects = projects[: None if rule is None else PERMUTATIONS // 5]
    splits = {"train": 0.5, "test": 0.5}
    dataset, expected = (reg.create(name, FEATURES, splits=splits) for name in ("live", "expected"))
    tasks = [task for project in projects for task in project.export()]
    import_into = partial(insert_export, mapping=MAPPING, consensus=rule, confirm=yes)
    import_into(expected, write_export(tmp_path / "all.json", tasks))
    before, after, imported = [], [], []
    for number, project in enumerate(projects):
        first, then, needed = DELIVERIES[number % len(DELIVERIES)](project.events, random)
        before.append(first)
        after.append(then)
        imported += project.export() if needed else []
    deliver(dataset, before, random, rule)
    import_into(dataset, write_export(tmp_path / "some.json", imported))
    deliver(dataset, after, random, rule)
    assert samples(dataset) == samples(expected)
    assert len(dataset) == len(expected) > len(projects) / 5
    assert rejected(dataset) == rejected(expected)
    assert (rejected(dataset) == {}) == (rule is None or rule.method == "latest")
    report = import_into(dataset, tmp_path / "all.json")
    assert (report.inserted, report.revised, report.retracted) == (0, 0, 0)
    # However they came, all annotations of a task are in one split.
    if rule is not None:
        assert all(entry.group == entry.key for entry in dataset.entries())
        return
    tasks_of = {
        f"label-studio:{project.number}:{number}": {
            f"label-studio:{project.number}:task:{task}" for task in tasks
        }
        for project in projects
        for number, tasks in project.tasks_of.items()
    }
    entries = dataset.entries()
    assert all(entry.group in tasks_of[entry.key] for entry in entries)
    homes = {(entry.group, dataset.split_of(entry.key)) for entry in entries[::10]}
    assert len(homes) == len({group for group, _ in homes})


def test_events_one_by_one_make_the_same_dataset_as_many_together(
    reg: Registry, projects: list[Project]
) -> None:
    singly, together = (reg.create(name, FEATURES) for name in ("singly", "together"))
    for project in projects[:10]:
        for event in project.events:
            apply_event(singly, MAPPING, event)
    deliver(together, [project.events for project in projects[:10]], Random(6))
    assert samples(singly) == samples(together) != {}


def rejected(dataset: Dataset) -> dict[str | None, str]:
    return {row.key: row.error for row in dataset.inbox.refused(limit=10_000)}


def deliver(
    dataset: Dataset, streams: list[Events], random: Random, rule: ConsensusRule | None = None
) -> None:
    """Deliver each project's events in their order, mixed with those of the others."""
    order = [number for number, events in enumerate(streams) for _ in events]
    random.shuffle(order)
    left = [iter(events) for events in streams]
    events = [next(left[number]) for number in order]
    for start in range(0, len(events), 1000):
        outcomes = apply_events(dataset, MAPPING, events[start : start + 1000], consensus=rule)
        assert all(isinstance(each, Outcome) for each in outcomes)
