"""A real Label Studio, its webhooks and its exports: the dataset has what Label Studio has.

It runs only when asked for: `docs/tools/label-studio.md` has the commands.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from registry import ClassLabel, Dataset, Image, Ragged, Registry, Text
from registry.errors import SampleNotFoundError
from registry.samples.features import Feature
from registry.server import tokens
from tests.support.commands import run
from tests.support.label_studio import TOKEN, LabelStudio, Project, label_studio
from tests.support.servers import Served, eventually

pytestmark = [pytest.mark.label_studio, pytest.mark.timeout(900)]

CONFIG = """
<View>
  <{tag} name="thing" value="${tag_name}"/>
  <Choices name="mood" toName="thing"><Choice value="good"/><Choice value="bad"/></Choices>
</View>
"""
TEXTS = CONFIG.format(tag="Text", tag_name="text")
PICTURES = CONFIG.format(tag="Image", tag_name="image")
BOXES = """
<View>
  <Image name="thing" value="$image"/>
  <RectangleLabels name="box" toName="thing">
    <Label value="cat"/><Label value="dog"/>
  </RectangleLabels>
</View>
"""
MOOD = ClassLabel(["bad", "good"])
WIDTH, HEIGHT = 40, 20
SIDES = ("x", "y", "width", "height")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    with label_studio(tmp_path_factory.mktemp("label-studio")) as running:
        yield running


Export = Callable[[], None]
Open = Callable[
    [str, Mapping[str, Feature], str, Mapping[str, str]], tuple[Dataset, Project, Export]
]


@pytest.fixture
def opened(
    studio: LabelStudio, url: str, reg: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Open]:
    """Create a dataset, and a project whose events go to it through a real server."""
    monkeypatch.setenv("REGISTRY_LABEL_STUDIO_TOKEN", TOKEN)
    secret = tokens.create(reg.engine, "studio")
    options = ("--fetch", f"{studio.address}/")
    with Served(url, tmp_path / "server.log", options) as server:

        def create(
            name: str, features: Mapping[str, Feature], config: str, mapping: Mapping[str, str]
        ) -> tuple[Dataset, Project, Export]:
            dataset = reg.create(name, features, splits={"train": 0.5, "test": 0.5})
            pairs = [part for each in mapping.items() for part in ("--map", "=".join(each))]
            run("webhook", name, "label-studio", *pairs, url=url)
            hook = f"{server.at}/v1/datasets/{name}/webhooks/label-studio"
            project = studio.project(config, hook, f"Token {secret}")

            def export() -> None:
                path = project.export(tmp_path / "export.json")
                form = ("--format", "label-studio", "--fetch", f"{studio.address}/", "--yes")
                run("insert", name, path, *form, url=url)

            return dataset, project, export

        yield create


def mood(value: str) -> list[dict[str, Any]]:
    answer = {"choices": [value]}
    return [{"from_name": "mood", "to_name": "thing", "type": "choices", "value": answer}]


def boxes(*sides: tuple[str, float, float, float, float]) -> list[dict[str, Any]]:
    """Return rectangles of a label, with x, y, width and height in percent."""
    return [
        {
            "from_name": "box",
            "to_name": "thing",
            "type": "rectanglelabels",
            "original_width": WIDTH,
            "original_height": HEIGHT,
            "image_rotation": 0,
            "value": {
                **dict(zip(SIDES, rectangle, strict=True)),
                "rotation": 0,
                "rectanglelabels": [label],
            },
        }
        for label, *rectangle in sides
    ]


def picture(shade: int, encoding: str) -> bytes:
    file = io.BytesIO()
    Picture.new("RGB", (WIDTH, HEIGHT), (shade, 0, 0)).save(file, encoding)
    return file.getvalue()


def result_values(result: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the features that an annotation's result makes."""
    values = [item["value"] for item in result]
    if "choices" in values[0]:
        return {"mood": MOOD.names.index(values[0]["choices"][0])}  # type: ignore[union-attr]
    return {
        "boxes": [
            [x / 100, y / 100, (x + width) / 100, (y + height) / 100]
            for x, y, width, height in ([v[side] for side in SIDES] for v in values)
        ],
        "classes": [["cat", "dog"].index(value["rectanglelabels"][0]) for value in values],
    }


Data = Callable[[dict[str, Any]], dict[str, Any]]


def expected_samples(project: Project, data: Data) -> dict[str, Any]:
    """Return what the dataset should have: a sample for each annotation in Label Studio."""
    return {
        f"label-studio:{project.id}:{annotation['id']}": {
            **data(task),
            **result_values(annotation["result"]),
        }
        for task in project.tasks()
        for annotation in task["annotations"]
    }


def live_samples(dataset: Dataset) -> dict[str, Any]:
    samples = {}
    for key in {entry.key for entry in dataset.entries()}:
        with suppress(SampleNotFoundError):
            samples[key] = {name: _plain(value) for name, value in dataset.get(key).items()}
    return samples


def _plain(value: Any) -> Any:
    """Return an array as a list, with the digits that float32 has."""
    if isinstance(value, np.ndarray):
        return [[round(float(side), 6) for side in box] if box.shape else int(box) for box in value]
    return int(value) if isinstance(value, np.integer) else value


def work_and_compare(
    dataset: Dataset,
    project: Project,
    results: Sequence[Any],
    data: Data,
    export: Callable[[], Any],
) -> None:
    """Annotate, correct and delete; compare after the events, and after an export."""
    first, second = results
    tasks = [task["id"] for task in project.tasks()]
    annotations = [project.annotate(task, first) for task in tasks]
    project.annotate(tasks[0], second)
    project.correct(annotations[1], second)
    project.delete_annotation(annotations[2])
    project.delete_task(tasks[3])
    eventually(lambda: live_samples(dataset) == expected_samples(project, data), seconds=60)
    assert len(dataset) == len(tasks) - 1
    position = dataset.head.position
    export()
    assert dataset.head.position == position  # the events had said all of it
    check_splits(dataset)
    # Label Studio sends no event for either of these.
    project.import_tasks([{"data": project.tasks()[0]["data"], "annotations": [{"result": first}]}])
    assert len(dataset) == len(tasks) - 1
    export()
    assert live_samples(dataset) == expected_samples(project, data)
    assert len(dataset) == len(tasks)
    check_splits(dataset)


def check_splits(dataset: Dataset) -> None:
    """Check that all samples of a task are in one split."""
    splits: dict[str | None, set[str | None]] = {}
    for entry in dataset.entries():
        splits.setdefault(entry.group, set()).add(dataset.split_of(entry.key))
    assert None not in splits
    assert all(len(names) == 1 for names in splits.values())


def test_texts_are_what_label_studio_has(opened: Open) -> None:
    features: dict[str, Feature] = {"text": Text(), "mood": MOOD}
    mapping = {"text": "data.text", "mood": "result.mood"}
    dataset, project, export = opened("texts", features, TEXTS, mapping)
    project.import_tasks([{"data": {"text": f"text {number}"}} for number in range(6)])
    results = mood("good"), mood("bad")
    work_and_compare(dataset, project, results, lambda task: {"text": task["data"]["text"]}, export)
    # Nor for an edit of a task's data.
    task = project.tasks()[0]
    project.edit_data(task["id"], {"text": "edited"})
    export()
    assert "edited" in {sample["text"] for sample in live_samples(dataset).values()}


def test_predictions_that_become_annotations_are_samples(opened: Open) -> None:
    features: dict[str, Feature] = {"text": Text(), "mood": MOOD}
    mapping = {"text": "data.text", "mood": "result.mood"}
    dataset, project, export = opened("texts", features, TEXTS, mapping)
    predictions = [{"result": mood("good"), "score": 0.5}]
    tasks = [{"data": {"text": f"text {n}"}, "predictions": predictions} for n in range(3)]
    project.import_tasks(tasks)
    project.annotate_by_predictions()
    eventually(lambda: len(dataset) == 3, seconds=60)
    position = dataset.head.position
    export()
    assert dataset.head.position == position


@pytest.mark.parametrize("config", ["classification", "boxes"])
def test_images_are_what_label_studio_has(opened: Open, config: str) -> None:
    features: dict[str, Feature] = {"image": Image()}
    mapping = {"image": "data.image"}
    if config == "boxes":
        features |= {"boxes": Ragged("float32", (4,)), "classes": Ragged("int64")}
        mapping |= {"boxes": "result.box.rel_xyxy", "classes": "result.box.classes[cat,dog]"}
        results = [
            boxes(("cat", 10, 20, 30, 40)),
            boxes(("dog", 0, 0, 50, 25), ("cat", 5, 5, 5, 5)),
        ]
    else:
        features["mood"] = MOOD
        mapping["mood"] = "result.mood"
        results = [mood("good"), mood("bad")]
    form = BOXES if config == "boxes" else PICTURES
    dataset, project, export = opened("pictures", features, form, mapping)
    pictures = {}
    for number, encoding in enumerate(["png", "jpeg", "gif", "bmp", "webp", "png"]):
        content = picture(number, encoding)
        project.upload(f"p{number}.{encoding}", content)
        pictures[f"p{number}.{encoding}"] = content
    work_and_compare(
        dataset,
        project,
        results,
        # Label Studio puts eight random characters before the name.
        lambda task: {"image": pictures[task["data"]["image"].rpartition("-")[2]]},
        export,
    )
