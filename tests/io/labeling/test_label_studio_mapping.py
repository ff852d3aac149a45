"""Mappings of Label Studio: the values that paths select, and what they cannot select."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import registry
from registry import ClassLabel, Dataset, Image, Ragged, Registry, Tensor, Text
from registry.errors import FeatureError
from registry.io.labeling.apply import Outcome
from registry.io.labeling.label_studio.export import insert_export
from registry.io.labeling.label_studio.mapping import check_mapping
from registry.io.labeling.label_studio.webhook import apply_event
from registry.io.media import MediaReader
from registry.samples.features import Features
from tests.support.image_files import PNG
from tests.support.label_studio_project import (
    FEATURES,
    MAPPING,
    choice,
    rectangle,
    samples,
    write_export,
)
from tests.support.labeling_events import KEY, TASK, annotation, event, rejected_rows


def result(name: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"from_name": name, "type": kind, "value": value}


RESULTS = [
    choice("good"),
    choice("7", name="digit"),
    result("stars", "rating", {"rating": 4}),
    result("size", "number", {"number": 2.5}),
    result("said", "textarea", {"text": ["one\ntwo"]}),
    result("topics", "choices", {"choices": ["sport", "art"]}),
    result("who", "labels", {"start": 2, "end": 5, "text": "car", "labels": ["PER"]}),
    result("who", "labels", {"start": 7, "end": 9, "text": "bus", "labels": ["ORG"]}),
    {"type": "relation", "from_id": "a", "to_id": "b"},
    rectangle(0, 0, 100, 100, label="Bus"),
    rectangle(12.5, 50, 25, 10),
]


@pytest.mark.parametrize(
    ("feature", "path", "value"),
    [
        (Text(), "data.text", "a car"),
        (Tensor("int8"), "data.meta.page", 4),
        (Text(), "data.images.0.url", "a.png"),
        (Tensor("int64"), "task.id", 19),
        (Tensor("int64"), "annotation.id", 17),
        (Tensor("int64"), "annotation.completed_by", 1),
        (ClassLabel(["bad", "good"]), "result.mood", 1),
        (ClassLabel(10), "result.digit", 7),
        (Tensor("int8"), "result.stars", 4),
        (Tensor("float32"), "result.size", 2.5),
        (Text(), "result.said", "one\ntwo"),
        (Text(), "result.topics.json", '[{"choices": ["sport", "art"]}]'),
        (Text(), "result.mood.json", '["good"]'),
        (Text(), "result.nobody.json", "[]"),
        (Ragged("int8"), "result.topics.classes[art,science,sport]", [2, 0]),
        (Ragged("int32"), "result.who.spans", [2, 5, 7, 9]),
        (Ragged("uint8"), "result.who.classes[ORG,PER]", [1, 0]),
        (Ragged("float64"), "result.box.percent", [0, 0, 100, 100, 12.5, 50, 25, 10]),
        (Ragged("float32"), "result.box.pixels", [0, 0, 200, 100, 25, 50, 50, 10]),
        (Ragged("int16"), "result.box.classes[Car,Bus]", [1, 0]),
        (Ragged("float32"), "result.nobody.pixels", []),
    ],
)
def test_a_path_selects_a_value(sqlite_url: str, feature: Any, path: str, value: Any) -> None:
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("d", {"x": feature})
        assert apply_event(dataset, {"x": path}, event(1, *RESULTS)) == Outcome(inserted=1)
        assert samples(dataset) == {KEY: {"x": value}}


@pytest.mark.parametrize(
    ("feature", "path", "results", "reason"),
    [
        (Text(), "data.title", [], "the task's data has no 'title'"),
        (Text(), "data.images.1.url", [], "the task's data has no 'images.1.url'"),
        (Text(), "result.topics", [], "2 values, where one is needed; take all with .json"),
        (Text(), "result.who", [], "2 answers, where one is needed; take all with .json"),
        (Text(), "result.nobody", [], "nothing answers 'nobody'; it answers 'box', 'digit', "),
        (Tensor("int8"), "result.size", [], "float64 does not fit int8"),
        (Ragged("int8"), "result.topics.classes[art]", [], "unknown class 'sport'; the mapping"),
        (Ragged("int8"), "result.topics.spans", [], "no span with a start and an end"),
        (Ragged("float32"), "result.topics.percent", [], "no rectangle with x, y, width and"),
        (Ragged("float32"), "result.b.percent", [(90, 0, 11, 5)], "x 90, y 0, width 11, height 5"),
        (Ragged("float32"), "result.b.pixels", [(-1, 0, 11, 5)], "stands out of the picture"),
        (Ragged("float32"), "result.b.percent", [(1, 1, -11, 5)], "stands out of the picture"),
        (Ragged("float32"), "result.b.percent", [(1, 1, 1e300, 5)], "no rectangle with"),
        (Image(), "data.text", [], "a file is read only from below a --root"),
    ],
)
def test_a_value_that_does_not_fit_is_quarantined_with_the_reason(
    sqlite_url: str, feature: Any, path: str, results: list[Any], reason: str
) -> None:
    drawn = [rectangle(*sides, name="b") for sides in results]
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("d", {"x": feature})
        outcome = apply_event(dataset, {"x": path}, event(1, *RESULTS, *drawn))
        assert outcome == Outcome(quarantined=1)
        (row,) = rejected_rows(dataset, reg)
    assert row.error.startswith("feature 'x': task 19, annotation 17: ")
    assert reason in row.error


def test_a_rotated_rectangle_is_quarantined(reg: Registry) -> None:
    dataset = reg.create("d", {"x": Ragged("float32")})
    rotated = rectangle(1, 2, 3, 4)
    rotated["value"]["rotation"] = 30
    apply_event(dataset, {"x": "result.box.pixels"}, event(1, rotated))
    error = rejected_rows(dataset, reg)[0].error
    assert "a rectangle is rotated by 30 degrees, which four numbers cannot say" in error
    assert "--rotated hull" in error


def test_a_rotated_rectangle_is_taken_as_its_hull_on_request(reg: Registry) -> None:
    dataset = reg.create("d", {"x": Ragged("float32"), "y": Ragged("float32")})
    rotated = rectangle(50, 20, 10, 40)  # 100, 20, 20, 40 in pixels
    rotated["value"]["rotation"] = 90
    mapping = {"x": "result.box.xyxy", "y": "result.box.percent"}
    assert apply_event(dataset, mapping, event(1, rotated), hull=True) == Outcome(inserted=1)
    # Clockwise around the upper left corner: 40 wide, 20 high, and left of it.
    (sample,) = samples(dataset).values()
    assert sample["x"] == pytest.approx([60, 20, 100, 40])
    assert sample["y"] == pytest.approx([30, 20, 20, 20])


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("rel_xyxy", [[0.1, 0.2, 0.4, 0.6], [0, 0, 1, 1]]),
        ("rel_yxyx", [[0.2, 0.1, 0.6, 0.4], [0, 0, 1, 1]]),
        ("xyxy", [[20, 20, 80, 60], [0, 0, 200, 100]]),
        ("xywh", [[20, 20, 60, 40], [0, 0, 200, 100]]),
        ("center_xywh", [[50, 40, 60, 40], [100, 50, 200, 100]]),
    ],
)
def test_rectangles_are_boxes_of_a_named_format(
    reg: Registry, part: str, expected: list[list[float]]
) -> None:
    dataset = reg.create(
        "d", {"boxes": Ragged("float32", (4,)), "flat": Ragged("float32"), "n": Ragged("int32")}
    )
    path = f"result.box.{part}"
    mapping = {"boxes": path, "flat": path, "n": "result.box.classes[Car]"}
    drawn = [rectangle(10, 20, 30, 40), rectangle(0, 0, 100, 100)]
    assert apply_event(dataset, mapping, event(1, *drawn)) == Outcome(inserted=1)
    assert apply_event(dataset, mapping, event(2)) == Outcome(revised=1)
    apply_event(dataset, mapping, event(3, *drawn))
    sample = dataset.get(KEY)
    assert sample["boxes"] == pytest.approx(np.array(expected))
    assert sample["flat"] == pytest.approx(np.array(expected).reshape(-1))
    assert sample["n"].tolist() == [0, 0]
    flat = rectangle(10, 20, 30, 0)
    apply_event(dataset, mapping, event(4, flat))
    assert "the box (0.1, 0.2, 0.3, 0) has no area" in rejected_rows(dataset, reg)[0].error


def test_a_rectangle_without_sizes_has_percents_only(reg: Registry) -> None:
    dataset = reg.create("d", {"x": Ragged("float32")})
    unsized = rectangle(1, 2, 3, 4)
    del unsized["original_width"]
    apply_event(dataset, {"x": "result.box.pixels"}, event(1, unsized))
    assert "has no pixels" in rejected_rows(dataset, reg)[0].error
    apply_event(dataset, {"x": "result.box.percent"}, event(2, unsized))
    assert samples(dataset) == {KEY: {"x": [1, 2, 3, 4]}}


def test_a_feature_without_a_path_has_the_name_of_a_control_or_data(reg: Registry) -> None:
    dataset = reg.create("d", {"mood": ClassLabel(["good", "bad"]), "text": Text()})
    assert apply_event(dataset, None, event(1)) == Outcome(inserted=1)
    assert samples(dataset) == {KEY: {"mood": 1, "text": "a car"}}
    other = event(2, choice("good", name="other"))
    assert apply_event(dataset, None, other) == Outcome(quarantined=1)
    assert "nothing answers 'mood'" in rejected_rows(dataset, reg)[0].error


def test_an_event_without_the_tasks_data_is_completed_by_an_export(
    reg: Registry, tmp_path: Path
) -> None:
    cars: Dataset = reg.create("cars", FEATURES)
    bare = event(1)
    del bare["task"]
    assert apply_event(cars, MAPPING, bare) == Outcome(quarantined=1)
    assert "the task's data is not there" in rejected_rows(cars, reg)[0].error
    tasks = [{**TASK, "annotations": [annotation(1)]}]
    report = insert_export(cars, write_export(tmp_path / "e.json", tasks), MAPPING)
    assert (report.inserted, rejected_rows(cars, reg)) == (1, [])


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        ({"nothing": "data.x"}, "the mapping names 'nothing'; the features are 'text', 'n', 'f'"),
        ({"text": 3}, "feature 'text': a path is text, not int"),
        ({"text": "text"}, "'text' is no path; write data.NAME, result.NAME"),
        ({"text": "result."}, "'result.' is no path"),
        ({"text": "project.token"}, "'project.token' is no path"),
        ({"text": "result.x.pixels"}, "makes a Ragged of floats"),
        ({"n": "result.x.pixels"}, "makes a Ragged of floats"),
        ({"f": "result.x.spans"}, "makes a Ragged of whole numbers"),
        ({"n": "result.x.json"}, "makes Text"),
        ({"n": "result.x.classes"}, "write .classes\\[a,b\\], and no other list"),
        ({"n": "result.x.spans[a]"}, "write .classes\\[a,b\\], and no other list"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(mapping: dict[str, Any], reason: str) -> None:
    features = Features({"text": Text(), "n": Ragged("int8"), "f": Ragged("float32")})
    with pytest.raises(FeatureError, match=reason):
        check_mapping(features, mapping)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """The folder that is allowed, with a picture, links out of it, and a pipe."""
    folder = tmp_path / "media"
    (folder / "upload" / "2").mkdir(parents=True)
    (folder / "upload" / "2" / "a b.png").write_bytes(PNG)
    (tmp_path / "secret.png").write_bytes(PNG)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "up").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.png")
    return folder


PICTURE = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    "value",
    [
        PICTURE,
        f"data:image/png;base64,{PICTURE}",
        "/data/upload/2/a%20b.png",
        "upload/2/a b.png",
        "/data/local-files/?d=upload/2/a%20b.png",
        "{media}/upload/2/a b.png",
        "file://{media}/upload/2/a%20b.png",
    ],
)
def test_a_picture_is_read_from_bytes_or_an_allowed_folder(
    reg: Registry, tmp_path: Path, media: Path, value: str
) -> None:
    dataset = reg.create("d", {"picture": Image()})
    assert _send_picture(dataset, value.format(media=media), tmp_path, media) == Outcome(inserted=1)
    assert [sample["picture"] for sample in samples(dataset).values()] == [PNG]


@pytest.mark.parametrize(
    "value",
    [
        "file://{outside}/secret.png",
        "file://elsewhere{media}/upload/2/a%20b.png",
        "{outside}/secret.png",
        "../secret.png",
        "/data/../secret.png",
        "/data/%2e%2e/secret.png",
        "/data/local-files/?d=../secret.png",
        "link.png",
        "up/secret.png",
        "pipe.png",
        "upload",
        "a\0b.png",
        "n" * 5000 + ".png",
        "http://user:s3cret@127.0.0.1:1/a.png?token=s3cret",
        "s3://bucket/a.png",
        "gs://bucket/a.png",
        "ftp://h/a.png",
    ],
    ids=range(17),
)
def test_a_picture_elsewhere_is_neither_read_nor_fetched(
    reg: Registry, tmp_path: Path, media: Path, value: str
) -> None:
    dataset = reg.create("d", {"picture": Image()})
    path = value.format(media=media, outside=tmp_path)
    assert _send_picture(dataset, path, tmp_path, media) == Outcome(quarantined=1)
    (row,) = rejected_rows(dataset, reg)
    assert "s3cret" not in repr((row.fields, row.error))


def _send_picture(dataset: Dataset, value: str, tmp_path: Path, media: Path) -> Outcome:
    sent = event(1) | {"task": {"id": 19, "data": {"image": value}}}
    roots = [tmp_path / "none", media]
    return apply_event(dataset, {"picture": "data.image"}, sent, media=MediaReader(roots))
