"""A simulation of Label Studio: people annotate, and a project sends events and is exported."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from registry import ClassLabel, Dataset, Ragged, Tensor, Text
from registry.samples.features import Feature

MOODS = ["good", "bad"]
FEATURES: dict[str, Feature] = {
    "id": Tensor("int64"),
    "text": Text(),
    "mood": ClassLabel(MOODS),
    "boxes": Ragged("float32"),
}
MAPPING = {"id": "annotation.id", "mood": "result.mood", "boxes": "result.box.pixels"}
BEGAN = datetime(2021, 1, 1, 12, tzinfo=UTC)


def choice(mood: str, name: str = "mood") -> dict[str, Any]:
    return {
        "id": "a",
        "from_name": name,
        "to_name": "text",
        "type": "choices",
        "value": {"choices": [mood]},
    }


def rectangle(*sides: float, label: str = "Car", name: str = "box") -> dict[str, Any]:
    x, y, width, height = sides
    box = {"x": x, "y": y, "width": width, "height": height, "rotation": 0}
    return {
        "id": "b",
        "from_name": name,
        "to_name": "image",
        "type": "rectanglelabels",
        "original_width": 200,
        "original_height": 100,
        "value": {**box, "rectanglelabels": [label]},
    }


def yes(_: str) -> bool:
    """Confirm every retraction."""
    return True


class Project:
    """A project of two to four tasks, and all the events that it has ever sent."""

    def __init__(self, number: int, random: Random, ids: Iterator[int]) -> None:
        self.number = number
        self.random = random
        self.ids = ids
        self.time = BEGAN
        self.events: list[dict[str, Any]] = []
        self.tasks: dict[int, dict[str, Any]] = {
            number * 10 + n: {"id": number * 10 + n, "data": {"text": f"text {n}"}}
            for n in range(random.randint(2, 4))
        }
        self.annotations: dict[int, dict[str, Any]] = {}
        self.tasks_of: dict[int, int] = {}
        """The task of each annotation, also of deleted ones."""

    def live(self, actions: int) -> Project:
        """Make random changes, as people would."""
        for _ in range(actions):
            self.time += timedelta(microseconds=self.random.choice([1, 1500, 86_400_000_000]))
            doing = [self._create]
            if self.annotations:
                doing += [self._update, self._update, self._skip, self._clear, self._delete]
            self.random.choice(doing)()
        return self

    def export(self) -> list[dict[str, Any]]:
        """Return the tasks with their annotations, as the JSON export has them."""
        return [
            {
                **task,
                "project": self.number,
                "annotations": [a for a in self.annotations.values() if a["task"] == number],
            }
            for number, task in self.tasks.items()
        ]

    def _create(self) -> None:
        number = next(self.ids)
        self.annotations[number] = {
            "id": number,
            "task": self.random.choice(list(self.tasks)),
            "project": self.number,
            "was_cancelled": self.random.random() < 0.2,
            "result": self._result(),
        }
        self.tasks_of[number] = self.annotations[number]["task"]
        self._send("CREATED", number)

    def _update(self) -> None:
        number = self._any()
        self.annotations[number] |= {"was_cancelled": False, "result": self._result()}
        self._send("UPDATED", number)

    def _skip(self) -> None:
        number = self._any()
        self.annotations[number]["was_cancelled"] = True
        self._send("UPDATED", number)

    def _clear(self) -> None:
        number = self._any()
        self.annotations[number] |= {"was_cancelled": False, "result": []}
        self._send("UPDATED", number)

    def _delete(self) -> None:
        number = self._any()
        del self.annotations[number]
        self.events.append(self._event("DELETED", [{"id": number}]))

    def _any(self) -> int:
        return self.random.choice(list(self.annotations))

    def _result(self) -> list[dict[str, Any]]:
        sides = [self.random.randint(0, 50) for _ in range(4)]
        drawn = [rectangle(*sides)] if self.random.random() < 0.5 else []
        return [choice(self.random.choice(MOODS)), *drawn]

    def _send(self, change: str, number: int) -> None:
        annotation = self.annotations[number]
        annotation["updated_at"] = self.time.isoformat().replace("+00:00", "Z")
        self.events.append(self._event(change, [annotation]))

    def _event(self, change: str, annotations: list[dict[str, Any]]) -> dict[str, Any]:
        """Return an event in one of the shapes that Label Studio has had."""
        plural = self.random.random() < 0.5
        tasks = [self.tasks[each["task"]] for each in annotations if "task" in each]
        key, event_tasks = self.random.choice(["annotation", "annotations"]), tasks or [{}]
        many = plural or self.random.random() < 0.3
        event = {
            "action": f"ANNOTATION{'S' if plural else ''}_{change}",
            key: annotations if many else annotations[0],
            "project": {"id": self.number, "title": "p", "token": "secret"},
            "task": event_tasks if many else event_tasks[0],
        }
        if tasks and not many and self.random.random() < 0.3:
            del event["task"]
            event[key] = {**annotations[0], "task": tasks[0]}
        return deepcopy(event)


def write_export(path: Path, tasks: Iterable[dict[str, Any]], indent: int | None = None) -> Path:
    path.write_text(json.dumps(list(tasks), indent=indent), encoding="utf-8")
    return path


def samples(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Return the live samples by key, as plain values."""
    by_position: dict[int, dict[str, Any]] = {}
    for page in dataset.pages():
        columns = {name: [_plain(value) for value in page[name]] for name in dataset.features}
        rows = zip(*columns.values(), strict=True)
        by_position |= zip(
            page.positions.tolist(),
            (dict(zip(columns, row, strict=True)) for row in rows),
            strict=True,
        )
    latest = {entry.key: entry for entry in dataset.entries()}
    return {key: by_position[e.position] for key, e in latest.items() if e.action != "retract"}


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value
