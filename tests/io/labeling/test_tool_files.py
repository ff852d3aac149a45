"""Prodigy and doccano: what their files make, a second time too, and what they may not."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
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
from tests.support.file_rows import fitting
from tests.support.image_files import PNG
from tests.support.label_studio_project import samples


def lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


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
        ("prodigy", '{"spans": [1]}', "a span is an object, not an int"),
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
        fitting(FORMATS[form].load().read(path, Features(features), None, {}))
    assert reason in str(caught.value)
    assert caught.value.line == 2


NAMES = st.sampled_from(["id", "label", "text", "spans", "entities", "images", "annotations"])
JSON = st.recursive(
    st.none() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES | st.text(), inner),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.lists(st.dictionaries(NAMES, JSON), max_size=3))
def test_no_file_causes_a_crash(tmp_path: Path, content: list[dict[str, Any]]) -> None:
    features = Features({"text": Text(), "label": Ragged("int8"), "spans": Ragged("int8")})
    hashed = [{"_input_hash": 1, "_task_hash": n, **row} for n, row in enumerate(content)]
    for form, path in (
        ("prodigy", lines(tmp_path / "p.jsonl", hashed)),
        ("doccano", lines(tmp_path / "d.jsonl", content)),
    ):
        try:
            for row in fitting(FORMATS[form].load().read(path, features, None, {})):
                assert row.values.keys() == features.keys()
        except ImportFileError as error:
            assert error.file == str(path)  # noqa: PT017  # either way of ending is right
