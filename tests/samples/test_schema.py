"""Schemas, and records that are brought to a newer one and back."""

from __future__ import annotations

import json
import pickle
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import Bytes, ClassLabel, Features, Image, Ragged, Tensor, Text
from registry.errors import FeatureError, InvalidSampleError
from registry.samples.features import Feature
from registry.samples.schema import Schema
from tests.samples.test_codec import kinds, mappings, values


def defaults(feature: Feature) -> st.SearchStrategy[Any]:
    """Values that a feature accepts as its default."""
    if isinstance(feature, Tensor):
        return st.one_of(values(feature), values(Tensor(feature.dtype)))
    return values(feature)


@st.composite
def histories(draw: st.DrawFn) -> list[Schema]:
    """The schemas of a dataset, each made from the one before."""
    schemas = [Schema(0, 0, Features(draw(mappings)))]
    for _ in range(draw(st.integers(1, 4))):
        last = schemas[-1]
        labels = {n: each for n, each in last.features.items() if isinstance(each, ClassLabel)}
        add_classes = draw(st.booleans())
        if labels and add_classes:
            name, label = next(iter(labels.items()))
            classes: Any = 3 if label.names is None else [f"new {last.number}"]
            schemas.append(last.with_classes(name, classes))
            continue
        name = draw(
            st.sampled_from([f"added {n}" for n in range(9) if f"added {n}" not in last.features])
        )
        feature = draw(kinds)
        schemas.append(last.with_feature(name, feature, draw(defaults(feature))))
    return schemas


def jsonb(value: Any) -> Any:
    """What PostgreSQL returns for JSON: numbers are decimal, without a sign of zero or exponent."""
    if isinstance(value, float):
        plain = format(Decimal(repr(value)), "f")
        return json.loads(plain.removeprefix("-") if value == 0 else plain)
    if isinstance(value, list):
        return [jsonb(item) for item in value]
    if isinstance(value, dict):
        return {name: jsonb(item) for name, item in value.items()}
    return value


@given(st.data())
def test_a_record_brought_forward_is_that_of_the_defaults_and_back_is_the_original(
    data: st.DataObject,
) -> None:
    schemas = data.draw(histories())
    older = data.draw(st.sampled_from(schemas))
    rows = data.draw(
        st.lists(
            st.fixed_dictionaries({n: values(f) for n, f in older.features.items()}),
            min_size=1,
            max_size=4,
        )
    )
    columns = {name: [row[name] for row in rows] for name in older.features}
    records = older.codec.encode(columns)
    for stored in schemas[older.number :]:
        # As another process reads it.
        newer = Schema.from_json(stored.number, stored.since, jsonb(stored.to_json()))
        newer = pickle.loads(pickle.dumps(newer))
        projection = newer.projection(older)
        brought = newer.codec.encode(columns)
        assert [projection.forward(record) for record in records] == brought
        assert [projection.back(record) for record in brought] == records
        assert newer.codec.encode(newer.codec.to_columns(rows)) == brought
        assert projection.forward(b"") == projection.back(b"") == b"", "an erased row"
        assert (older.layout == newer.layout) == projection.identical == (records == brought)
        if older.codec.fixed_width:
            old_rows = np.frombuffer(b"".join(records), np.uint8).reshape(len(rows), -1)
            new_rows = projection.forward_rows(old_rows)
            assert new_rows.tobytes() == b"".join(brought)
            if newer.codec.fixed_width:
                assert projection.back_rows(new_rows).tobytes() == b"".join(records)


def test_a_default_is_stored_for_samples_that_leave_its_feature_out_alone() -> None:
    schema = Schema(0, 0, Features({"label": ClassLabel(["a"])}))
    schema = schema.with_feature("pose", Tensor("float32", (2,)), 0.5)
    schema = schema.with_feature("boxes", Ragged("float32", (4,)), [])
    codec = schema.codec
    rows: list[dict[str, Any]] = [
        {"label": "a"},
        {"label": "a", "pose": [1, 2]},
        {"label": "a", "boxes": [[1, 2, 3, 4]]},
    ]
    samples = [codec.decode_one(record) for record in codec.encode(codec.to_columns(rows))]
    assert [sample["pose"].tolist() for sample in samples] == [[0.5, 0.5], [1, 2], [0.5, 0.5]]
    assert [sample["boxes"].shape for sample in samples] == [(0, 4), (0, 4), (1, 4)]
    with pytest.raises(InvalidSampleError, match="missing 'label'"):
        codec.to_columns([{"pose": [1, 2]}])
    with pytest.raises(InvalidSampleError, match="missing 'label'"):
        codec.encode({"pose": [[1, 2]]})


named, counted = ClassLabel(["cat", "dog"]), ClassLabel(2)


@pytest.mark.parametrize(
    ("feature", "classes", "message"),
    [
        ("named", ["lynx", "dog"], "'named' has the class 'dog' already"),
        ("named", ["lynx", "lynx"], "must differ"),
        ("named", 2, "give a list of the names"),
        ("named", "lynx", "give a list of the names"),
        ("named", [], "give a list of the names"),
        ("named", [3], "a class name"),
        ("counted", ["lynx"], "give the number of classes to add"),
        ("counted", 0, "give the number of classes to add"),
        ("counted", True, "give the number of classes to add"),
        ("counted", 2**31, "ClassLabel takes a count"),
        ("text", ["lynx"], "'text' is no ClassLabel.*'named', 'counted' have"),
        ("labl", ["lynx"], "'labl' is no feature"),
    ],
)
def test_classes_that_cannot_be_added_are_refused(feature: str, classes: Any, message: str) -> None:
    schema = Schema(0, 0, Features({"named": named, "counted": counted, "text": Text()}))
    with pytest.raises(FeatureError, match=message):
        schema.with_classes(feature, classes)


@pytest.mark.parametrize(
    ("feature", "default"),
    [
        (Tensor("float32", (3,)), [0, 0]),
        (Tensor("float32", (3,)), "zero"),
        (Tensor("uint8", (3,)), 256),
        (Tensor("uint8"), None),
        (Tensor("uint8"), float("nan")),
        (ClassLabel(["a"]), "b"),
        (ClassLabel(2), 2),
        (Text(), b"x"),
        (Text(), "\0"),
        (Bytes(), "x"),
        (Image(), b"no image"),
        (Image("png"), b""),
        (Ragged("float32", (4,)), [[1, 2]]),
        (Ragged("float32"), 0),
    ],
)
def test_a_default_that_does_not_fit_is_refused_with_its_feature(
    feature: Feature, default: Any
) -> None:
    schema = Schema(0, 0, Features({"x": Tensor("int8")}))
    with pytest.raises(FeatureError, match=r"the default .* does not fit the new feature 'pose'"):
        schema.with_feature("pose", feature, default)


def test_a_number_fills_a_tensor_of_any_shape_and_is_stored_as_one_number() -> None:
    schema = Schema(0, 0, Features({"x": Tensor("int8")}))
    for dtype, default in (("float32", 0.0), ("float64", float("nan")), ("uint64", 2**64 - 1)):
        added = schema.with_feature("mask", Tensor(dtype, (512, 512)), default)
        assert len(json.dumps(added.to_json())) < 250
        (record,) = added.codec.encode({"x": [1]})
        expected = np.full((512, 512), default, dtype)
        np.testing.assert_array_equal(added.codec.decode_one(record)["mask"], expected)


def test_defaults_that_fill_a_record_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.samples.schema.LARGEST_RECORD", 100)
    schema = Schema(0, 0, Features({"x": Text()})).with_feature("a", Bytes(), b"1" * 60)
    with pytest.raises(FeatureError, match="default of 'b', all defaults together take 101 bytes"):
        schema.with_feature("b", Bytes(), b"2" * 41)
    assert schema.with_feature("b", Bytes(), b"2" * 40).number == 2
