"""Label Studio's exports, held against what Label Studio's own SDK makes of them."""

from __future__ import annotations

import csv
import itertools
import json
from contextlib import suppress
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import registry
from registry import ClassLabel, Dataset, Ragged, Registry, Tensor, Text
from registry.errors import DatasetExistsError, ImportFileError
from registry.io.labeling import coco
from registry.io.labeling.label_studio.export import insert_export
from registry.io.labeling.label_studio.webhook import apply_events
from registry.samples.features import Feature, Features
from tests.support.label_studio_project import (
    FEATURES,
    MAPPING,
    MOODS,
    Project,
    choice,
    rectangle,
    samples,
)
from tests.support.label_studio_project import write_export as write

CONFIG = """
<View>
  <Text name="body" value="$text"/> <Image name="image" value="$image"/>
  <Choices name="mood" toName="body"><Choice value="good"/><Choice value="bad"/></Choices>
  <Choices name="topics" toName="body" choice="multiple">
    <Choice value="art"/><Choice value="sport"/>
  </Choices>
  <Rating name="stars" toName="body"/> <Number name="size" toName="body"/>
  <TextArea name="said" toName="body"/>
  <Labels name="who" toName="body"><Label value="PER"/><Label value="ORG"/></Labels>
  <RectangleLabels name="box" toName="image"><Label value="Car"/></RectangleLabels>
</View>
"""
# With more than one of the task's data, the SDK takes any for the picture.
BOXES = """
<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="box" toName="image"><Label value="Car"/></RectangleLabels>
</View>
"""
EVERYTHING: dict[str, Feature] = {
    "text": Text(),
    "mood": ClassLabel(MOODS),
    "topics": Ragged("int8"),
    "stars": Tensor("int8"),
    "size": Tensor("float64"),
    "said": Text(),
    "who": Ragged("int32"),
    "kinds": Ragged("int8"),
    "boxes": Ragged("float64"),
    "drawn": Text(),
    "seconds": Tensor("float64"),
    "annotation": Tensor("int64"),
    "annotator": Tensor("int32"),
}
PATHS = {
    "topics": "result.topics.classes[art,sport]",
    "who": "result.who.spans",
    "kinds": "result.who.classes[PER,ORG]",
    "boxes": "result.box.pixels",
    "drawn": "result.box.json",
    "seconds": "annotation.lead_time",
    "annotation": "annotation.id",
    "annotator": "annotation.completed_by",
}


def answers(random: Random) -> list[dict[str, Any]]:
    def result(name: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
        return {"from_name": name, "to_name": "body", "type": kind, "value": value, "id": name}

    topics = random.choice([["art"], ["sport"], ["art", "sport"]])
    sides = [round(random.uniform(0, 50), random.randint(0, 6)) for _ in range(4)]
    span = {"start": 1, "end": 4, "text": "ext"}
    return [
        choice(random.choice(MOODS)),
        result("topics", "choices", {"choices": topics}),
        result("stars", "rating", {"rating": random.randint(1, 5)}),
        result("size", "number", {"number": random.choice([7, 0.25, 1e-3])}),
        result("said", "textarea", {"text": [random.choice(["é\n\u2028", "plain", '"{,}"'])]}),
        *[
            result("who", "labels", {**span, "labels": [kind]})
            for kind in random.choices(["PER", "ORG"], k=random.randint(0, 3))
        ],
        *[rectangle(*sides) for _ in range(random.randint(0, 2))],
    ]


@pytest.fixture(scope="module")
def project() -> Project:
    found = Project(7, Random(1), itertools.count(100))
    found._result = lambda: answers(found.random)  # type: ignore[method-assign]
    for task in found.tasks.values():
        task["data"]["image"] = f"{task['id']}.png"
    found.live(60)
    for _ in range(30):
        found.time += timedelta(seconds=1)
        found._create()
    for annotation in found.annotations.values():
        annotation |= {"completed_by": 3, "lead_time": 1.5, "created_at": annotation["updated_at"]}
    return found


@pytest.fixture(scope="module")
def exports(project: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same export in the formats that the SDK converts it to."""
    folder = tmp_path_factory.mktemp("exports")
    whole = write(folder / "project-7-at-2021.json", project.export(), indent=1)
    # Imported here, since it takes seconds; by name, since it has no types.
    sdk = import_module("label_studio_sdk.converter")
    found = {"JSON": whole}
    for form, config, name in (
        ("JSON_MIN", CONFIG, "result.json"),
        ("CSV", CONFIG, "result.csv"),
        ("COCO", BOXES, "result.json"),
    ):
        converter = sdk.Converter(config, str(folder), download_resources=False)
        converter.convert(str(whole), str(folder / form), form, is_dir=False)
        found[form] = folder / form / name
    return found


@pytest.fixture
def whole(reg: Registry, exports: dict[str, Path]) -> Dataset:
    """The export's samples."""
    dataset = reg.create("whole", EVERYTHING)
    insert_export(dataset, exports["JSON"], PATHS)
    return dataset


def test_the_sdks_minimal_export_makes_the_same_samples_as_the_whole_one(
    reg: Registry, whole: Dataset, exports: dict[str, Path]
) -> None:
    dataset = reg.create("minimal", EVERYTHING)
    report = insert_export(dataset, exports["JSON_MIN"], PATHS, project=7)
    assert report.inserted == len(dataset) > 10
    assert samples(dataset) == samples(whole)
    assert insert_export(whole, exports["JSON_MIN"], PATHS, project=7).unchanged == len(whole)
    assert insert_export(dataset, exports["JSON"], PATHS).revised == 0


def test_the_samples_say_what_the_sdks_csv_says(whole: Dataset, exports: dict[str, Path]) -> None:
    with exports["CSV"].open(encoding="utf-8", newline="") as file:
        rows = {int(float(row["annotation_id"])): row for row in csv.DictReader(file)}
    assert rows
    found = {sample["annotation"]: sample for sample in samples(whole).values()}
    answered = {number for number, row in rows.items() if row["mood"]}
    assert found.keys() == answered, "no sample of an annotation that was cleared, as of a skipped"
    for number, sample in found.items():
        row = rows[number]
        assert MOODS[sample["mood"]] == row["mood"]
        assert sample["said"] == row["said"]
        assert sample["text"] == row["text"]
        assert sample["stars"] == json.loads(row["stars"])[0]["rating"]
        assert sample["size"] == json.loads(row["size"])[0]["number"]
        assert json.loads(sample["drawn"]) == [
            {name: value for name, value in box.items() if name != "type"}
            for box in json.loads(row["box"] or "[]")
        ]


def test_the_boxes_are_those_of_the_sdks_coco(
    whole: Dataset, project: Project, exports: dict[str, Path]
) -> None:
    shapes = Features({"file_name": Text(), "boxes": Ragged("float64"), "names": Text()})
    by_picture: dict[str, list[list[float]]] = {}
    for row in coco.read(exports["COCO"], shapes, None, {}):
        name = Path(row.values["file_name"]).name.split("__")[-1]
        by_picture.setdefault(name, []).append(row.values["boxes"])
        assert json.loads(row.values["names"]) == ["Car"] * (len(row.values["boxes"]) // 4)
    of_task = {a["id"]: f"{a['task']}.png" for a in project.annotations.values()}
    ours: dict[str, list[list[float]]] = {}
    for sample in samples(whole).values():
        if sample["boxes"]:
            ours.setdefault(of_task[sample["annotation"]], []).append(sample["boxes"])
    assert len(ours) > 1
    for name, boxes in ours.items():
        theirs = [found for found in by_picture[name] if found]
        assert sorted(map(_rounded, theirs)) == sorted(map(_rounded, boxes))


def _rounded(sides: list[float]) -> list[float]:
    return [round(side, 9) for side in sides]


def test_the_sdks_model_of_an_annotation_says_the_same(project: Project) -> None:
    from label_studio_sdk.types.annotation import Annotation  # noqa: PLC0415  # as above

    from registry.io.labeling.annotation import full  # noqa: PLC0415

    for found in project.annotations.values():
        theirs, ours = Annotation(**found), full(found, None, None)
        assert (ours.id, ours.task, ours.project) == (theirs.id, theirs.task, theirs.project)
        assert (ours.updated_at, ours.cancelled) == (theirs.updated_at, theirs.was_cancelled)
        assert ours.lead_time == theirs.lead_time
        assert sum(map(len, ours.answers.values())) == len(theirs.result or [])


def test_a_minimal_export_needs_to_know_its_project(
    reg: Registry, exports: dict[str, Path], tmp_path: Path
) -> None:
    dataset = reg.create("d", EVERYTHING)
    with pytest.raises(ImportFileError, match="JSON_MIN does not say which project this is"):
        insert_export(dataset, exports["JSON_MIN"], PATHS)
    named = tmp_path / "project-12-at-2021-01-31-12-00-1a2b3c4d.json"
    named.write_bytes(exports["JSON_MIN"].read_bytes())
    insert_export(dataset, named, PATHS)
    assert all(key.startswith("label-studio:12:") for key in samples(dataset))


def test_an_export_is_taken_in_batches_and_repeated_without_change(
    reg: Registry,
    exports: dict[str, Path],
    whole: Dataset,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("registry.io.labeling.label_studio.export.BATCH_ROWS", 3)
    dataset = reg.create("d", EVERYTHING)
    seen: list[tuple[int, int]] = []
    rehearsed = insert_export(dataset, exports["JSON"], PATHS, dry=True)
    assert (rehearsed.inserted, dataset.head.position) == (len(whole), 0)
    report = insert_export(
        dataset, exports["JSON"], PATHS, progress=lambda *done: seen.append(done)
    )
    assert (report.inserted, report.head) == (len(whole), dataset.head)
    assert seen[-1][0] == len(project.annotations)
    assert 0 < seen[-1][1] <= exports["JSON"].stat().st_size
    assert samples(dataset) == samples(whole)
    again = insert_export(dataset, exports["JSON"], PATHS)
    assert (again.inserted, again.revised, again.retracted) == (0, 0, 0)


def test_an_export_undoes_what_was_done_to_samples_by_hand(
    whole: Dataset, exports: dict[str, Path]
) -> None:
    before = samples(whole)
    first, second, *_ = before
    whole.update(first, said="by hand")
    whole.retract(second)
    report = insert_export(whole, exports["JSON"], PATHS)
    assert (report.inserted, report.revised, report.retracted) == (1, 1, 0)
    assert samples(whole) == before


def test_a_bad_annotation_is_named_and_the_mended_export_completes_the_import(
    reg: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.io.labeling.label_studio.export.BATCH_ROWS", 1)
    dataset = reg.create("cars", FEATURES)
    facts = {"project": 2, "updated_at": "2021-01-31T12:00:00Z"}
    tasks: list[dict[str, Any]] = [
        {"id": n, "data": {"text": ""}, "annotations": [{"id": n + 10, **facts, "result": [mood]}]}
        for n, mood in enumerate([choice("good"), choice("awful"), choice("bad")])
    ]
    old = {"action": "ANNOTATION_CREATED", "task": tasks[0]}
    apply_events(dataset, MAPPING, [old | {"annotation": {**tasks[0]["annotations"][0], "id": 9}}])
    path = write(tmp_path / "e.json", tasks, indent=2)
    with pytest.raises(ImportFileError) as caught:
        insert_export(dataset, path, MAPPING)
    error = caught.value
    assert str(error) == (
        f"{path}, line {error.line}, key 'label-studio:2:11', feature 'mood': "
        "task 1, annotation 11: unknown class 'awful'; the classes are 'good', 'bad'"
    )
    assert path.read_text().splitlines()[(error.line or 0) - 1 :][:2] == ["  {", '    "id": 1,']
    assert error.stored == 1
    assert sorted(samples(dataset)) == ["label-studio:2:10", "label-studio:2:9"]
    tasks[1]["annotations"][0]["result"] = [choice("bad")]
    report = insert_export(dataset, write(path, tasks), MAPPING)
    assert (report.inserted, report.unchanged, report.retracted) == (2, 1, 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", ": the file is empty; an export is a JSON array"),
        (" \n ", "the file is empty"),
        ('"x"', ", line 1: an export is a JSON array, and does not begin with '\"'"),
        ("[1]", ", line 1: a task is an object, not a int"),
        ('[\n{"id": 1}]', ", line 2: neither a task with 'data' and 'annotations' nor a record"),
        ('[{"data": {}, "annotations": 1}]', "'annotations' is a list, not a int"),
        ('[{"data": {}, "annotations": [1]}]', "an annotation is an object, not 1"),
        ('[{"data": {}, "annotations": [{"id": 5}]}]', "annotation 5: nothing says which project"),
        ('[{"annotation_id": "5"}]', "JSON_MIN does not say which project"),
        ('[{"data": {}},\n{"data": {}}', ", line 2: the file ends within its array: was it cut"),
        ('[{"data": {}}\n{"data": {}}]', ", line 1: not JSON: Extra data"),
        ('[{"data": {}},]', ", line 1: not JSON: Expecting value"),
        ('[{"data": {}}] []', "there is more after the array's end"),
        ('[{"data": {"x": 1, "x": 2}}]', "'x' is there twice"),
        ('[{"data": NaN}]', "NaN is not JSON"),
        ('[{"data": ' + "[" * 10_000 + "]" * 10_000 + "}]", "the JSON is nested too deeply"),
        (b'[{"data": {"x": "\xff"}}]', "byte 0xff is not UTF-8"),
        ("[{]", "the file ends within its array"),
        ("[{]}]", "not JSON"),
    ],
)
def test_a_file_that_is_no_export_is_refused(
    sqlite_url: str, tmp_path: Path, content: str | bytes, reason: str
) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("cars", FEATURES)
        with pytest.raises(ImportFileError) as caught:
            insert_export(dataset, path, MAPPING)
        assert str(caught.value).startswith(str(path))
        assert reason in str(caught.value)
        with pytest.raises(ImportFileError, match=r"gone.json: No such file"):
            insert_export(dataset, tmp_path / "gone.json", MAPPING)


NAMES = st.sampled_from(
    ["id", "data", "annotations", "result", "updated_at", "annotation_id", "project", "value"]
)
NONSENSE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.just("2021-01-01T00:00:00Z"),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES | st.text(), inner),
    max_leaves=20,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(tasks=st.lists(NONSENSE, max_size=3), annotation=NONSENSE)
def test_no_export_whatsoever_crashes(
    reg: Registry, tmp_path: Path, tasks: list[Any], annotation: Any
) -> None:
    with suppress(DatasetExistsError):
        reg.create("cars", FEATURES)
    dataset = reg.open("cars")
    whole = {"id": 1, "data": {}, "project": 2, "annotations": [annotation]}
    for content in (tasks, [whole], [{"annotation_id": 1, "id": 1, **_object(annotation)}]):
        path = write(tmp_path / "project-3-at-e.json", content)
        with suppress(ImportFileError):
            insert_export(dataset, path, MAPPING)
    assert len(dataset) == 0


def _object(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {"updated_at": "2021-01-01T00:00:00Z", "x": found}
