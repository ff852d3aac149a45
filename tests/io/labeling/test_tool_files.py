"""COCO, Prodigy and doccano: what their files make, a second time too, and what they may not."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import ClassLabel, Image, Ragged, Registry, Tensor, Text
from registry.errors import ImportFileError
from registry.io.formats import FORMATS
from registry.io.import_file import insert_file
from registry.samples.features import Feature, Features
from tests.support.image_files import PNG
from tests.support.label_studio_project import samples

SHAPES: dict[str, Feature] = {
    "image": Image(),
    "boxes": Ragged("float32"),
    "classes": Ragged("int8"),
}
Coco = dict[str, list[dict[str, Any]]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    for name in ("cat.png", "dog.png", "none.png"):
        (root / "images" / name).write_bytes(PNG + name.encode())
    (tmp_path / "secret.png").write_bytes(PNG)
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    return root


def animals() -> Coco:
    def box(number: int, image: int, category: int, *sides: float) -> dict[str, Any]:
        return {"id": number, "image_id": image, "category_id": category, "bbox": list(sides)}

    names = {1: "images/cat.png", 2: "images/dog.png", 3: "images/none.png"}
    return {
        "images": [{"id": n, "file_name": name, "width": 9} for n, name in names.items()],
        "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
        "annotations": [
            box(1, 2, 18, 1, 2, 3.5, 4),
            box(2, 1, 17, 0, 0, 5, 5),
            box(3, 2, 17, 9, 9, 0, 0),
        ],
    }


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_coco_makes_a_sample_of_every_picture(reg: Registry, folder: Path) -> None:
    dataset = reg.create("animals", SHAPES)
    path = write(folder / "boxes.json", animals())
    assert insert_file(dataset, path, form="coco").inserted == 3
    cat, dog, none = (PNG + name.encode() for name in ("cat.png", "dog.png", "none.png"))
    boxes = [1, 2, 3.5, 4, 9, 9, 0, 0]
    assert samples(dataset) == {
        f"coco:{folder.name}/boxes:1": {"image": cat, "boxes": [0, 0, 5, 5], "classes": [0]},
        f"coco:{folder.name}/boxes:2": {"image": dog, "boxes": boxes, "classes": [1, 0]},
        f"coco:{folder.name}/boxes:3": {"image": none, "boxes": [], "classes": []},
    }
    assert insert_file(dataset, path, form="coco").unchanged == 3


def test_a_mapping_renames_the_fields_of_coco(folder: Path) -> None:
    features = Features({"n": Tensor("int64"), "names": Text(), "ids": Ragged("int32")})
    path = write(folder / "boxes.json", animals())
    mapped = {"n": "width", "ids": "category_ids"}
    rows = list(FORMATS["coco"].load().read(path, features, "file_name", mapped))
    assert [row.key for row in rows] == ["images/cat.png", "images/dog.png", "images/none.png"]
    assert rows[1].values == {"n": 9, "names": '["dog", "cat"]', "ids": [18, 17]}
    features = Features({"dogs": Ragged("int8")})
    rows = list(
        FORMATS["coco"].load().read(path, features, None, {"dogs": "names.classes[dog,cat]"})
    )
    assert rows[1].values == {"dogs": [0, 1]}


def _image(name: Any) -> Callable[[Coco], Any]:
    return lambda coco: coco["images"][1].update(file_name=name)


def _box(**facts: Any) -> Callable[[Coco], Any]:
    return lambda coco: coco["annotations"][0].update(facts)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_box(image_id=7), "annotations of images that are not there: 7 (the first is annotation"),
        (_box(image_id="2"), "'annotations': 'image_id' is a whole number, not '2'"),
        (_box(category_id=5), "image 2: annotation 1 has category 5, which is not there"),
        (_box(bbox=[1, 2, 3]), "image 2: the 'bbox' of annotation 1 is not x, y, width and height"),
        (_box(bbox=[1, 2, -3, 4]), "the 'bbox' of annotation 1 is not"),
        (_box(bbox=[1, 2, "3", 4]), "the 'bbox' of annotation 1 is not"),
        (_box(id=2), "'annotations' has id 2 twice"),
        (_image("images/gone.png"), "image 2: 'images/gone.png' is no file below"),
        (_image("../secret.png"), "image 2: '../secret.png' is no file below"),
        (_image("images/../../secret.png"), "is no file below"),
        (_image("link.png"), "image 2: 'link.png' is no file below"),
        (_image("images"), "'images' is no file below"),
        (_image("/etc/passwd"), "'/etc/passwd' is not read; 'file_name' counts from the folder"),
        (_image("file:///etc/passwd"), "'file:///etc/passwd' is not read"),
        (_image("http://user:s3cret@h/a.png?s3cret"), "'http://h/a.png?…' is not read"),
        (_image("a\0b"), "image 2: "),
        (_image(None), "image 2: 'file_name' is not text"),
        (lambda coco: coco.pop("images"), "not COCO: an object with 'images' and 'annotations'"),
        (lambda coco: coco.update(annotations={}), "'annotations' is not a list of objects"),
        (lambda coco: coco["images"].append({}), "'images': 'id' is a whole number, not NoneType"),
    ],
)
def test_coco_that_contradicts_itself_is_refused(
    folder: Path, change: Callable[[Coco], Any], reason: str
) -> None:
    content = animals()
    change(content)
    path = write(folder / "boxes.json", content)
    with pytest.raises(ImportFileError) as caught:
        list(FORMATS["coco"].load().read(path, Features(SHAPES), None, {}))
    assert str(caught.value).startswith(str(path))
    assert reason in str(caught.value)
    assert "s3cret" not in str(caught.value)


def task(number: int, answer: str = "accept", **facts: Any) -> dict[str, Any]:
    return {"text": "a car", "_input_hash": -1, "_task_hash": number, "answer": answer, **facts}


def test_prodigys_accepted_tasks_are_samples(reg: Registry, tmp_path: Path) -> None:
    dataset = reg.create("d", {"text": Text(), "label": ClassLabel(["GOOD", "BAD"])})
    path = lines(
        tmp_path / "d.jsonl",
        [
            task(1, label="BAD"),
            task(2, "reject", label="BAD"),
            task(3, "ignore", label="BAD"),
            task(4, options=[{"id": "GOOD", "text": "Good"}], accept=["GOOD"]),
            task(1, label="GOOD", _annotator_id="d-ann"),
        ],
    )
    assert insert_file(dataset, path, form="prodigy").inserted == 3
    assert samples(dataset) == {
        "prodigy:-1:1": {"text": "a car", "label": 1},
        "prodigy:-1:4": {"text": "a car", "label": 0},
        "prodigy:-1:1:d-ann": {"text": "a car", "label": 0},
    }
    assert insert_file(dataset, path, form="prodigy").unchanged == 3


def test_the_fields_of_a_prodigy_task_are_converted_for_their_features(
    tmp_path: Path,
) -> None:
    spans = [{"start": 2, "end": 5, "label": "CAR", "token_start": 1, "token_end": 1}]
    picture = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    row = task(1, "reject", spans=spans, accept=["x", "y"], image=picture, meta={"page": 3})
    path = lines(tmp_path / "d.jsonl", [row])
    features = Features(
        {
            "answer": ClassLabel(["reject", "accept"]),
            "spans": Ragged("int32"),
            "kinds": Ragged("int8"),
            "chosen": Ragged("int8"),
            "image": Image(),
            "page": Tensor("int8"),
            "all": Text(),
        }
    )
    mapped = {
        "kinds": "spans.classes[PER,CAR]",
        "chosen": "accept.classes[y,x]",
        "page": "meta.page",
        "all": "accept.json",
    }
    (imported,) = FORMATS["prodigy"].load().read(path, features, None, mapped)
    assert imported.values == {
        "answer": "reject",
        "spans": [2, 5],
        "kinds": [1],
        "chosen": [1, 0],
        "image": picture,
        "page": 3,
        "all": '["x", "y"]',
    }


@pytest.mark.parametrize(
    ("rows", "features", "values"),
    [
        ([{"id": 1, "text": "t", "label": ["bad"]}], {"label": ClassLabel(["good", "bad"])}, "bad"),
        ([{"id": 1, "text": "t", "label": "bad"}], {"label": ClassLabel(["good", "bad"])}, "bad"),
        ([{"id": 1, "text": "t", "label": ["eine", "b"]}], {"label": Text()}, None),
        ([{"id": 1, "text": "t", "label": [[0, 1, "PER"]]}], {"label": Ragged("int32")}, [0, 1]),
        ([{"id": 1, "text": "t", "labels": [[0, 1, "P"]]}], {"label": Ragged("int32")}, [0, 1]),
        (
            [
                {
                    "id": 1,
                    "text": "t",
                    "entities": [{"id": 8, "start_offset": 0, "end_offset": 1, "label": "PER"}],
                    "relations": [],
                }
            ],
            {"label": Ragged("int32")},
            [0, 1],
        ),
    ],
)
def test_doccanos_documents_are_samples(
    reg: Registry, tmp_path: Path, rows: Any, features: dict[str, Feature], values: Any
) -> None:
    path = lines(tmp_path / "all.jsonl", rows)
    (row,) = FORMATS["doccano"].load().read(path, Features({"text": Text(), **features}), None, {})
    assert row.key == "doccano:1"
    if values is not None:
        assert row.values == {"text": "t", "label": values}
    dataset = reg.create("d", {"text": Text(), **features})
    assert insert_file(dataset, path, form="doccano").inserted == 1
    assert insert_file(dataset, path, form="doccano").unchanged == 1


def test_doccanos_span_labels_are_classes(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"id": 1, "label": [[0, 1, "PER"], [2, 3, "ORG"]]}])
    mapped = {"kinds": "label.classes[ORG,PER]"}
    (row,) = FORMATS["doccano"].load().read(path, Features({"kinds": Ragged("int8")}), None, mapped)
    assert row.values == {"kinds": [1, 0]}


@pytest.mark.parametrize(
    ("form", "line", "reason"),
    [
        ("prodigy", '{"text": "t"}', "line 2: there is no '_input_hash'"),
        ("prodigy", '{"answer": "maybe"}', "'answer' is accept, reject or ignore, not 'maybe'"),
        ("prodigy", '{"spans": [1]}', "a span is an object, not a int"),
        ("prodigy", '{"_input_hash": 1, "_task_hash": 2}', "feature 'text': there is no 'text'"),
        ("prodigy", "[]", "line 2: not a JSON object; each line holds one whole object"),
        ("doccano", '{"id": 1}', "line 2, key 'doccano:1', feature 'text': there is"),
        ("doccano", '{"id": 1.5, "text": ""}', "the key in 'id' is neither text nor a whole"),
        ("doccano", '{"id": 1, "label": [[1]]}', "a span is [start, end, label], or has start_"),
        ("doccano", '{"id": 1, "text": "t", "label": [[5, 1, "X"]]}', "an answer is no span with"),
        ("doccano", '{"id": 1', "line 2: not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, form: str, line: str, reason: str) -> None:
    sound = {"prodigy": task(1, "ignore"), "doccano": {"id": 0, "text": "", "label": []}}[form]
    path = tmp_path / "bad.jsonl"
    path.write_text(f"{json.dumps(sound)}\n{line}", encoding="utf-8")
    features = {"text": Text()} | ({"label": Ragged("int8")} if "label" in line else {})
    with pytest.raises(ImportFileError) as caught:
        list(FORMATS[form].load().read(path, Features(features), None, {}))
    assert reason in str(caught.value)
    assert caught.value.line == 2


NAMES = st.sampled_from(["id", "label", "text", "spans", "entities", "images", "annotations"])
JSON = st.recursive(
    st.none() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES | st.text(), inner),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.lists(st.dictionaries(NAMES, JSON), max_size=3), whole=JSON)
def test_no_file_causes_a_crash(tmp_path: Path, content: list[dict[str, Any]], whole: Any) -> None:
    features = Features({"text": Text(), "label": Ragged("int8"), "spans": Ragged("int8")})
    hashed = [{"_input_hash": 1, "_task_hash": n, **row} for n, row in enumerate(content)]
    for form, path in (
        ("coco", write(tmp_path / "c.json", whole)),
        ("coco", write(tmp_path / "d.json", {"images": content, "annotations": whole})),
        ("prodigy", lines(tmp_path / "p.jsonl", hashed)),
        ("doccano", lines(tmp_path / "d.jsonl", content)),
    ):
        try:
            for row in FORMATS[form].load().read(path, features, None, {}):
                assert row.values.keys() == features.keys()
        except ImportFileError as error:
            assert error.file == str(path)  # noqa: PT017  # either way of ending is right
