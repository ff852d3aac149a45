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
    """A project of two to four tasks, and all the events that it has ever sent.

    With ``silent``, people also do what Label Studio sends no event of: they edit tasks, and remove
    duplicates, which moves annotations to another task.
    """

    def __init__(
        self, number: int, random: Random, ids: Iterator[int], *, silent: bool = False
    ) -> None:
        self.number = number
        self.silent = silent
        self.random = random
        self.ids = ids
        self.time = BEGAN
        self.events: list[dict[str, Any]] = []
        self.tasks: dict[int, dict[str, Any]] = {
            number * 10 + n: {
                "id": number * 10 + n,
                "data": {"text": f"text {n}"},
                "updated_at": _text(BEGAN),
            }
            for n in range(random.randint(2, 4))
        }
        self.annotations: dict[int, dict[str, Any]] = {}
        self.tasks_of: dict[int, set[int]] = {}
        """The tasks that each annotation was of, also of deleted ones."""

    def live(self, actions: int) -> Project:
        """Make random changes, as people would."""
        for _ in range(actions):
            self.time += timedelta(microseconds=self.random.choice([1, 1500, 86_400_000_000]))
            doing = [self._create, self._create, self._predict, self._delete_task]
            if self.annotations:
                doing += [self._update, self._update, self._skip, self._clear, self._delete]
            if self.silent:
                doing += [self._edit, self._edit, self._remove_duplicate]
            self.random.choice(doing)()
        if self.silent:
            # Otherwise the deletion of a task might be the last change: no export would say it.
            self.time += timedelta(microseconds=1)
            self._edit()
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
        self._send("CREATED", self._add(self.random.choice(list(self.tasks))))

    def _predict(self) -> None:
        """Make annotations of predictions, which one event has together."""
        numbers = [self._add(task) for task in self.tasks]
        for number in numbers:
            self._touch(number)
        annotations = [self.annotations[number] for number in numbers]
        event = {
            "action": "ANNOTATIONS_CREATED",
            "annotation": annotations,
            "task": [self.tasks[each["task"]] for each in annotations],
            "project": {"id": self.number},
        }
        self.events.append(deepcopy(event))

    def _add(self, task: int) -> int:
        number = next(self.ids)
        self.annotations[number] = {
            "id": number,
            "task": task,
            "project": self.number,
            "was_cancelled": self.random.random() < 0.2,
            "completed_by": self.random.randint(1, 5),
            "result": self._result(),
        }
        self.tasks_of[number] = {task}
        return number

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
        self.tasks[self.annotations.pop(number)["task"]]["updated_at"] = _text(self.time)
        self.events.append(self._event("DELETED", [{"id": number}]))

    def _delete_task(self) -> None:
        if len(self.tasks) > 1:
            task = self.random.choice(list(self.tasks))
            self.annotations = {
                n: each for n, each in self.annotations.items() if each["task"] != task
            }
            self._send_deleted(task)

    def _send_deleted(self, task: int) -> None:
        del self.tasks[task]
        event: dict[str, Any] = {"action": "TASKS_DELETED", "tasks": [{"id": task}]}
        # Without the project where all of its tasks are deleted.
        if self.random.random() < 0.5:
            event["project"] = {"id": self.number}
        self.events.append(event)

    def _edit(self) -> None:
        task = self.random.choice(list(self.tasks.values()))
        task |= {"data": {"text": f"edited at {self.time}"}, "updated_at": _text(self.time)}

    def _remove_duplicate(self) -> None:
        if len(self.tasks) > 1:
            kept, removed = self.random.sample(list(self.tasks), 2)
            for number, each in self.annotations.items():
                if each["task"] == removed:
                    each["task"] = kept
                    self.tasks_of[number].add(kept)
            self._send_deleted(removed)

    def _any(self) -> int:
        return self.random.choice(list(self.annotations))

    def _result(self) -> list[dict[str, Any]]:
        sides = [self.random.randint(0, 50) for _ in range(4)]
        drawn = [rectangle(*sides)] if self.random.random() < 0.5 else []
        return [choice(self.random.choice(MOODS)), *drawn]

    def _send(self, change: str, number: int) -> None:
        self._touch(number)
        self.events.append(self._event(change, [self.annotations[number]]))

    def _touch(self, number: int) -> None:
        annotation = self.annotations[number]
        annotation["updated_at"] = _text(self.time)
        self.tasks[annotation["task"]]["updated_at"] = _text(self.time)

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


def _text(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


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
