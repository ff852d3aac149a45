"""Label Studio's exports: JSON, JSON_MIN and what the tool's other formats say of the same project.

`label_studio_export.json` has one project in the formats that Label Studio's SDK (2.1) writes:
``tasks`` (JSON), ``minimal`` (JSON_MIN), ``csv`` (a mapping per row) and ``coco``.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import registry
from registry import ClassLabel, Dataset, Ragged, Registry, Tensor, Text
from registry.errors import DatasetExistsError, ImportFileError
from registry.io.detection import coco
from registry.io.labeling.annotation import AnnotationId
from registry.io.labeling.label_studio.annotations import parse_full
from registry.io.labeling.label_studio.export import insert_export
from registry.io.labeling.label_studio.webhook import apply_events
from registry.samples.features import Feature, Features
from tests.support.label_studio_project import FEATURES, MAPPING, MOODS, choice, samples, yes
from tests.support.label_studio_project import write_export as write

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


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The project in every format, by the format's name."""
    path = Path(__file__).with_name("label_studio_export.json")
    formats: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return formats


@pytest.fixture(scope="module")
def exported(project: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for task in project["tasks"] for each in task["annotations"]]


@pytest.fixture
def full_export(project: dict[str, Any], tmp_path: Path) -> Path:
    return write(tmp_path / "full.json", project["tasks"], indent=1)


@pytest.fixture
def minimal_export(project: dict[str, Any], tmp_path: Path) -> Path:
    return write(tmp_path / "minimal.json", project["minimal"], indent=1)


@pytest.fixture
def imported(reg: Registry, full_export: Path) -> Dataset:
    """The samples of the full export."""
    dataset = reg.create("imported", EVERYTHING)
    insert_export(dataset, full_export, PATHS)
    return dataset


def test_a_minimal_export_makes_the_same_samples_as_the_full_one(
    reg: Registry,
    imported: Dataset,
    project: dict[str, Any],
    full_export: Path,
    minimal_export: Path,
) -> None:
    dataset = reg.create("minimal", EVERYTHING)
    report = insert_export(dataset, minimal_export, PATHS, project=7)
    assert report.inserted == len(dataset) > 10
    assert samples(dataset) == samples(imported)
    repeated = insert_export(imported, minimal_export, PATHS, project=7)
    assert repeated.unchanged == len(project["minimal"]), "those without a sample, too"
    assert repeated.head == imported.head
    assert insert_export(dataset, full_export, PATHS).revised == 0


def test_the_samples_have_the_values_of_the_csv_export(
    imported: Dataset, project: dict[str, Any]
) -> None:
    rows = {int(float(row["annotation_id"])): row for row in project["csv"]}
    by_annotation = {sample["annotation"]: sample for sample in samples(imported).values()}
    answered = {number for number, row in rows.items() if row["mood"]}
    assert by_annotation.keys() == answered, "neither a skipped annotation nor a cleared one"
    for number, sample in by_annotation.items():
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


def test_the_boxes_are_those_of_the_coco_export(
    imported: Dataset,
    project: dict[str, Any],
    exported: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(project["coco"]))
    features = Features({"file_name": Text(), "boxes": Ragged("float64"), "names": Text()})
    in_coco: dict[str, list[list[float]]] = {}
    for row in coco.read(path, features, None, {}, boxes="xywh"):
        # Label Studio writes a hash before the file's name.
        name = Path(row.values["file_name"]).name.split("__")[-1]
        in_coco.setdefault(name, []).append(row.values["boxes"].tolist())
        assert json.loads(row.values["names"]) == ["Car"] * (len(row.values["boxes"]) // 4)
    pictures = {each["id"]: f"{each['task']}.png" for each in exported}
    in_samples: dict[str, list[list[float]]] = {}
    for sample in samples(imported).values():
        if sample["boxes"]:
            in_samples.setdefault(pictures[sample["annotation"]], []).append(sample["boxes"])
    assert len(in_samples) > 1
    for name, boxes in in_samples.items():
        drawn = [sides for sides in in_coco[name] if sides]
        assert sorted(map(_rounded, drawn)) == sorted(map(_rounded, boxes))


def _rounded(sides: list[float]) -> list[float]:
    return [round(side, 9) for side in sides]


def test_an_annotation_is_parsed_with_all_its_fields(exported: list[dict[str, Any]]) -> None:
    for given_fields in exported:
        parsed = parse_full(given_fields, None, None)
        identity = AnnotationId("label-studio", "7", str(given_fields["id"]))
        assert parsed.id == identity
        assert parsed.objects["task"] == {"id": given_fields["task"]}
        assert parsed.updated_at == datetime.fromisoformat(given_fields["updated_at"])
        assert parsed.cancelled == given_fields["was_cancelled"]
        assert parsed.objects["annotation"] == {
            "id": given_fields["id"],
            "completed_by": 3,
            "lead_time": 1.5,
        }
        assert sum(map(len, parsed.answers.values())) == len(given_fields["result"])


def test_a_minimal_export_needs_its_project(
    reg: Registry, minimal_export: Path, tmp_path: Path
) -> None:
    dataset = reg.create("d", EVERYTHING)
    with pytest.raises(ImportFileError, match="JSON_MIN does not say which project this is"):
        insert_export(dataset, minimal_export, PATHS)
    named = tmp_path / "project-12-at-2021-01-31-12-00-1a2b3c4d.json"
    named.write_bytes(minimal_export.read_bytes())
    insert_export(dataset, named, PATHS)
    assert all(key.startswith("label-studio:12:") for key in samples(dataset))


def test_an_export_is_stored_in_batches_with_progress(
    reg: Registry,
    imported: Dataset,
    full_export: Path,
    exported: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("registry.io.labeling.label_studio.export_file.BATCH_ROWS", 3)
    dataset = reg.create("d", EVERYTHING)
    calls: list[tuple[int, int]] = []
    report = insert_export(dataset, full_export, PATHS, progress=lambda *done: calls.append(done))
    assert (report.inserted, report.head) == (len(imported), dataset.head)
    assert len(calls) > 1
    assert calls[-1][0] == len(exported)
    assert 0 < calls[-1][1] <= full_export.stat().st_size
    assert samples(dataset) == samples(imported)


def test_a_dry_run_of_an_export_reports_and_stores_nothing(
    reg: Registry, imported: Dataset, full_export: Path
) -> None:
    dataset = reg.create("d", EVERYTHING)
    report = insert_export(dataset, full_export, PATHS, dry=True)
    assert (report.inserted, dataset.head.position) == (len(imported), 0)


def test_an_export_that_is_repeated_changes_nothing(imported: Dataset, full_export: Path) -> None:
    again = insert_export(imported, full_export, PATHS)
    assert (again.inserted, again.revised, again.retracted) == (0, 0, 0)


def test_an_export_reverts_changes_by_hand(imported: Dataset, full_export: Path) -> None:
    before = samples(imported)
    first, second, *_ = before
    imported.update(first, said="by hand")
    imported.retract(second)
    report = insert_export(imported, full_export, PATHS)
    assert (report.inserted, report.revised, report.retracted) == (1, 1, 0)
    assert samples(imported) == before


def test_the_export_is_refused_at_a_bad_annotation_and_completed_when_corrected(
    reg: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.io.labeling.label_studio.export_file.BATCH_ROWS", 1)
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
        insert_export(dataset, path, MAPPING, confirm=yes)
    error = caught.value
    assert str(error) == (
        f"{path}, line {error.line}, key 'label-studio:2:11', feature 'mood': "
        "task 1, annotation 11: unknown class 'awful'; the classes are 'good', 'bad'"
    )
    assert path.read_text().splitlines()[(error.line or 0) - 1 :][:2] == ["  {", '    "id": 1,']
    assert error.stored == 1
    assert sorted(samples(dataset)) == ["label-studio:2:10", "label-studio:2:9"]
    tasks[1]["annotations"][0]["result"] = [choice("bad")]
    report = insert_export(dataset, write(path, tasks), MAPPING, confirm=yes)
    assert (report.inserted, report.unchanged, report.retracted) == (2, 1, 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", ": the file is empty; an export is a JSON array"),
        (" \n ", "the file is empty"),
        ('"x"', ", line 1: an export is a JSON array, and does not begin with '\"'"),
        ("[1]", ", line 1: a task is an object, not an int"),
        ('[\n{"id": 1}]', ", line 2: neither a task with 'data' and 'annotations' nor a record"),
        ('[{"data": {}, "annotations": 1}]', "'annotations' is a list, not an int"),
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
def test_no_export_causes_a_crash(
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


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {"updated_at": "2021-01-01T00:00:00Z", "x": value}
