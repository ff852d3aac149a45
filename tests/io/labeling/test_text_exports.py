"""Prodigy, doccano and Argilla: revisions, documents without labels, and their JSON arrays."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import ClassLabel, Dataset, Features, Image, Ragged, Registry, Text
from registry.errors import ImportFileError
from registry.io.formats import FORMATS, find_reader
from registry.io.import_file import insert_file
from registry.io.row import FileRow
from registry.samples.features import Feature
from tests.support.file_rows import fitting
from tests.support.image_files import png
from tests.support.label_studio_project import samples

ENTITIES: dict[str, Feature] = {"text": Text(), "label": Ragged("int32"), "kinds": Text()}


def lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def array(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text(json.dumps([*rows]), encoding="utf-8")
    return path


def task(number: int, text: str = "a car", **facts: Any) -> dict[str, Any]:
    return {"text": text, "_input_hash": 7, "_task_hash": number, "answer": "accept", **facts}


def read(
    form: str, path: Path, features: dict[str, Feature], mapping: dict[str, str] | None = None
) -> list[FileRow]:
    return fitting(FORMATS[form].load().read(path, Features(features), None, mapping or {}))


def test_a_prodigy_task_in_which_nothing_was_marked_has_no_spans(tmp_path: Path) -> None:
    car = {"start": 2, "end": 5, "label": "CAR"}
    rows = [task(1), task(2, spans=None), task(3, spans=[car])]
    spans: dict[str, Feature] = {"spans": Ragged("int32"), "kinds": Ragged("int8")}
    made = read(
        "prodigy", lines(tmp_path / "p.jsonl", rows), spans, {"kinds": "spans.classes[CAR]"}
    )
    assert [row.values["spans"] for row in made] == [[], [], [2, 5]]
    assert [row.values["kinds"] for row in made] == [[], [], [0]]


def test_the_last_answer_to_a_prodigy_task_counts(reg: Registry, tmp_path: Path) -> None:
    dataset = reg.create("d", {"text": Text(), "label": ClassLabel(["GOOD", "BAD"])})
    rows = [
        task(1, label="GOOD"),
        task(2, label="GOOD"),
        task(1, label="BAD"),
        task(2, label="GOOD", answer="reject"),
        task(3, label="GOOD", answer="ignore"),
        task(3, label="BAD"),
    ]
    path = lines(tmp_path / "p.jsonl", rows)
    assert insert_file(dataset, path, form="prodigy").inserted == 2
    assert samples(dataset) == {
        "prodigy:7:1": {"text": "a car", "label": 1},
        "prodigy:7:3": {"text": "a car", "label": 1},
    }
    assert insert_file(dataset, path, form="prodigy").unchanged == 2
    report = insert_file(dataset, lines(path, [*rows, task(1, label="GOOD")]), form="prodigy")
    assert (report.inserted, report.revised, report.unchanged) == (0, 1, 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(numbers=st.lists(st.integers(0, 3)), as_array=st.booleans())
def test_every_task_has_the_sample_of_its_last_line(
    tmp_path: Path, numbers: list[int], as_array: bool
) -> None:
    rows = [task(number, text=f"line {line}") for line, number in enumerate(numbers)]
    write = array if as_array else lines
    made = read("prodigy", write(tmp_path / "p.jsonl", rows), {"text": Text()})
    last = {f"prodigy:7:{number}": f"line {line}" for line, number in enumerate(numbers)}
    assert {row.key: row.values["text"] for row in made} == last
    assert len(made) == len(last)


DOCUMENTS: list[dict[str, Any]] = [
    {"id": 1, "text": "Ann left", "label": [[0, 3, "PER"]], "Comments": ["sure?"]},
    {"id": 2, "text": "it rains", "label": [], "Comments": []},
]


def test_doccanos_documents_without_labels_are_left_out_or_empty(
    reg: Registry, tmp_path: Path
) -> None:
    dataset = reg.create("d", {"text": Text(), "label": Ragged("int32")})
    path = lines(tmp_path / "all.jsonl", DOCUMENTS)
    assert insert_file(dataset, path, form="doccano").inserted == 1
    report = insert_file(dataset, path, form="doccano", options={"unlabelled": "empty"})
    assert (report.inserted, report.unchanged) == (1, 1)
    assert samples(dataset)["doccano:2"] == {"text": "it rains", "label": []}
    with pytest.raises(ImportFileError, match="unlabelled is skip or empty, not 'no'"):
        insert_file(dataset, path, form="doccano", options={"unlabelled": "no"})
    with pytest.raises(
        ImportFileError, match=r"jsonl has no option 'unlabelled'; formats .* doccano"
    ):
        insert_file(dataset, path, options={"unlabelled": "empty"})


def test_a_document_without_the_property_of_labels_is_an_error(tmp_path: Path) -> None:
    path = lines(tmp_path / "all.jsonl", [{"id": 1, "text": "Ann left"}])
    with pytest.raises(ImportFileError, match="feature 'label': there is no 'label'"):
        read("doccano", path, {"text": Text(), "label": Text()})


def test_documents_of_a_dataset_without_labels_need_none(tmp_path: Path) -> None:
    path = lines(tmp_path / "all.jsonl", DOCUMENTS)
    assert len(read("doccano", path, {"text": Text()})) == 2


@pytest.mark.parametrize(
    ("labels", "path", "value"),
    [
        ({"label": ["a"]}, "label", "a"),
        ({"label": ["b", "a"]}, "label", '["b", "a"]'),
        ({"label": ["b", "a"]}, "label.json", '["b", "a"]'),
        ({"label": ["Bonjour."]}, "label", "Bonjour."),
        ({"cats": ["flight"], "entities": [[0, 1, "City"]]}, "cats", "flight"),
        ({"entities": [], "relations": [], "label": ["x"]}, "relations.json", "[]"),
        ({"label": ["a"], "Comments": ["why?"]}, "Comments", '["why?"]'),
    ],
)
def test_labels_in_every_shape_make_text(
    tmp_path: Path, labels: dict[str, Any], path: str, value: str
) -> None:
    file = array(tmp_path / "all.json", [{"id": 5, "text": "t", **labels}])
    (row,) = read("doccano", file, {"note": Text()}, {"note": path})
    assert (row.key, row.values["note"]) == ("doccano:5", value)


def test_several_labels_are_no_class(tmp_path: Path) -> None:
    path = array(tmp_path / "all.json", [{"id": 5, "text": "t", "label": ["a", "b"]}])
    with pytest.raises(ImportFileError, match="key 'doccano:5', feature 'label': 2 answers, where"):
        read("doccano", path, {"label": ClassLabel(["a", "b"])})
    (row,) = read("doccano", path, {"kinds": Ragged("int8")}, {"kinds": "label.classes[b,a]"})
    assert row.values["kinds"] == [1, 0]


def test_a_span_behind_the_text_is_refused(tmp_path: Path) -> None:
    spans: dict[str, Feature] = {"text": Text(), "label": Ragged("int32")}
    path = lines(tmp_path / "a.jsonl", [{"id": 1, "text": "Ann", "label": [[0, 4, "PER"]]}])
    with pytest.raises(ImportFileError, match=r"line 1, .*'label': a span ends at 4, and .* 3 c"):
        read("doccano", path, spans)


def test_boxes_and_polygons_of_doccano_are_those_of_the_image(
    reg: Registry, tmp_path: Path
) -> None:
    (tmp_path / "cat.png").write_bytes(png(100, 50))
    box = {"uuid": "u", "x": 10, "y": 5, "width": 40, "height": 20, "label": "cat"}
    polygon = {"uuid": "u", "points": [0, 0, 9, 0, 9.5, 9], "label": "dog"}
    rows: list[dict[str, Any]] = [
        {"id": 5, "filename": "cat.png", "bbox": [box], "Comments": []},
        {"id": 6, "filename": "gone.png", "bbox": [], "Comments": []},
    ]
    path = lines(tmp_path / "all.jsonl", rows)
    features: dict[str, Feature] = {"image": Image(), "boxes": Ragged("float64", (4,))}
    dataset = reg.create("cats", {**features, "kinds": Ragged("int8")})
    mapping = {"kinds": "names.classes[dog,cat]"}
    for unchanged in (0, 1):
        report = insert_file(dataset, path, form="doccano", mapping=mapping)
        assert (report.inserted, report.unchanged) == (1 - unchanged, unchanged)
    assert samples(dataset) == {
        "doccano:5": {"image": png(100, 50), "boxes": [[0.1, 0.1, 0.5, 0.5]], "kinds": [1]}
    }
    options = {"unlabelled": "empty"}
    with pytest.raises(
        ImportFileError, match=r"key 'doccano:6': document 6: 'gone.png' is no file below"
    ):
        insert_file(dataset, path, form="doccano", mapping=mapping, options=options)
    lines(path, [{"id": 7, "filename": "cat.png", "segmentation": [polygon]}])
    (row,) = read("doccano", path, {"polygons": Text()})
    assert json.loads(row.values["polygons"]) == [
        {"labels": ["dog"], "points": [[0, 0], [9, 0], [9.5, 9]]}
    ]
    with pytest.raises(ImportFileError, match=r"image 1: shape 1 .segmentation. is a polygon, wh"):
        read("doccano", path, features)


RECORD = "3f6c1d2e-0000-4000-8000-000000000001"
ANN, BOB = (f"3f6c1d2e-0000-4000-8000-00000000000{number}" for number in (2, 3))


def record(responses: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "row-1",
        "fields": {"text": "Ann left"},
        "metadata": {"page": 3},
        "suggestions": {"mood": {"value": "bad", "score": None, "agent": None}},
        "responses": responses,
        "vectors": {},
        "status": "completed",
        "_server_id": RECORD,
    }


@pytest.fixture
def moods(reg: Registry) -> Dataset:
    return reg.create(
        "moods", {"text": Text(), "mood": ClassLabel(["good", "bad"]), "names": Ragged("int32")}
    )


def test_argillas_array_makes_a_sample_per_record_and_user(moods: Dataset, tmp_path: Path) -> None:
    answers = {
        "mood": [{"value": "good", "user_id": ANN}, {"value": "bad", "user_id": BOB}],
        "names": [{"value": [{"label": "PER", "start": 0, "end": 3}], "user_id": ANN}],
    }
    rows = [record(answers), {**record({}), "_server_id": BOB}]
    path = array(tmp_path / "records.json", rows)
    mapping = {"names": "values.names.spans"}
    assert insert_file(moods, path, mapping=mapping).inserted == 2
    assert samples(moods) == {
        f"argilla:{RECORD}:{ANN}": {"text": "Ann left", "mood": 0, "names": [0, 3]},
        f"argilla:{RECORD}:{BOB}": {"text": "Ann left", "mood": 1, "names": []},
    }
    assert insert_file(moods, path, mapping=mapping).unchanged == 2


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([record({"mood": [{"value": "glad", "user_id": ANN}]})], "feature 'mood': .*'glad'"),
        ([record({"mood": [{"value": "good"}]})], "line 1: .* a response has no 'user_id'"),
        ([record({"mood": {"value": "good"}})], "line 1: .* the responses to 'mood' are no list"),
        ([record({}), {"fields": {}, "responses": {}}], "line 1: a record's id is text"),
        ([record({}), 3], "line 1: a record is an object"),
    ],
)
def test_a_bad_record_is_named(moods: Dataset, tmp_path: Path, rows: Any, reason: str) -> None:
    path = array(tmp_path / "records.json", rows)
    with pytest.raises(ImportFileError, match=reason):
        insert_file(moods, path, mapping={"names": "values.names.spans"})
    assert len(moods) == 0


@pytest.mark.parametrize(
    ("content", "form"),
    [
        ([], "json"),
        ([{"text": "a", "label": "x"}], "json"),
        ([{"id": 1, "text": "a", "label": [0.5, 1]}], "json"),
        ([1], "json"),
        (DOCUMENTS, "doccano"),
        ([{"id": 1, "text": "a", "label": ["x"]}], "doccano"),
        ([{"id": 1, "filename": "a.png", "label": [], "Comments": []}], "doccano"),
        ([record({})], "argilla"),
        ([task(1)], "prodigy"),
        ({"info": {"version": "]}"}, "images": [], "annotations": []}, "coco"),
        ({"annotations": [{"image_id": 1}], "images": []}, "coco"),
        ({"version": "5.5", "flags": {}, "shapes": [], "imagePath": "a.png"}, "labelme"),
    ],
)
def test_a_json_file_is_recognized_by_its_content(tmp_path: Path, content: Any, form: str) -> None:
    path = tmp_path / "file.json"
    for text in (json.dumps(content), "\ufeff\n" + json.dumps(content, indent=2)):
        path.write_text(text, encoding="utf-8")
        if form in FORMATS:
            assert find_reader(path).file_format is FORMATS[form]


def test_the_export_of_a_label_studio_project_is_recognized(tmp_path: Path) -> None:
    with pytest.raises(ImportFileError, match="a Label Studio export is inserted by"):
        find_reader(array(tmp_path / "full.json", [{"id": 1, "data": {}, "annotations": []}]))
    minimal = [{"id": 1, "text": "a", "annotation_id": 4, "annotator": 1}]
    with pytest.raises(ImportFileError, match="a Label Studio export is inserted by"):
        find_reader(array(tmp_path / "min.json", minimal))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"rows": []}', "an object with 'rows' is not recognized: COCO has .* Say --format"),
        ("{", "an object with no properties is not recognized"),
        ("", "line 1: the file is empty"),
        ('"text"', "line 1: an export is a JSON array"),
        ("[{]", "line 1: the file ends within its array"),
    ],
)
def test_what_a_json_file_could_be_is_listed(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ImportFileError, match=reason):
        find_reader(path)
    with pytest.raises(ImportFileError, match="No such file"):
        find_reader(tmp_path / "gone.json")


def test_an_array_of_plain_samples_is_inserted(reg: Registry, tmp_path: Path) -> None:
    dataset = reg.create("d", {"text": Text(), "label": ClassLabel(["x", "y"])})
    rows = [{"id": 7, "text": "a", "label": "y"}, {"id": 8, "text": "b", "label": 0}]
    path = array(tmp_path / "rows.json", rows)
    assert insert_file(dataset, path, key="id").inserted == 2
    assert samples(dataset) == {"7": {"text": "a", "label": 1}, "8": {"text": "b", "label": 0}}
    assert insert_file(dataset, path, key="id").unchanged == 2
    unkeyed = array(tmp_path / "unkeyed.json", [{"text": "a", "label": "y"}] * 2)
    assert insert_file(dataset, unkeyed).inserted == 2
    unkeyed.write_text(json.dumps(json.loads(unkeyed.read_text()), indent=1))
    assert insert_file(dataset, unkeyed).unchanged == 2
    array(unkeyed, [*rows, {"id": 9, "text": "c", "label": "z"}])
    with pytest.raises(ImportFileError, match=r"element 3, key '9', feature 'label': .*'z'"):
        insert_file(dataset, unkeyed, key="id")
    array(unkeyed, [rows[0], rows[0]])
    with pytest.raises(ImportFileError, match="element 2, key '7': the key is that of element 1"):
        insert_file(dataset, unkeyed, key="id")
