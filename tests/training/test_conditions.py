"""Conditions: what a user may write, what is stored, and which values they hold for."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import Bytes, ClassLabel, Dataset, Image, Ragged, Registry, Tensor, Text
from registry.errors import EpochError, FeatureError, RunMismatchError
from registry.samples.features import Features
from registry.training.conditions import Conditions
from registry.training.filters import filters
from registry.training.parse_conditions import parse_conditions

FEATURES = Features(
    {
        "label": ClassLabel(["cat", "dog", "lynx"]),
        "digit": ClassLabel(10),
        "score": Tensor("float32"),
        "small": Tensor("uint8"),
        "large": Tensor("uint64"),
        "checked": Tensor("bool"),
        "note": Text(),
        "image": Image(),
        "data": Bytes(),
        "boxes": Ragged("float32", (4,)),
        "pose": Tensor("float32", (3,)),
    }
)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"lable": "cat"}, r"names 'lable', .* are 'label', 'digit', .* 'source' is what inserted"),
        ({1: "cat"}, "names 1, which is no feature"),
        (["cat"], "where is a mapping of features to values, not list"),
        ({"label": ["cat", "bird"]}, "'label': 'bird' is no class; .* are 'cat', 'dog', 'lynx'"),
        ({"label": 3}, "'label': 3 is no class"),
        ({"label": True}, "'label': True is no class"),
        ({"label": None}, "'label': None is no class"),
        ({"digit": [3, 10]}, "'digit': 10 is no class; the classes are the numbers 0 to 9"),
        ({"digit": "3"}, "'digit': '3' is no class"),
        ({"label": ("cat", "dog")}, r"'label': the tuple \('cat', 'dog'\) is an interval"),
        ({"note": ("a", "b")}, "'note': the tuple .* has no order; give a list"),
        ({"checked": (False, True)}, "'checked': the tuple .* has no order"),
        ({"source": ("a", "b")}, "'source': the tuple .* sources have no order"),
        ({"image": b""}, "'image': no condition can be on image; conditions are on class labels"),
        ({"data": b""}, "'data': no condition can be on bytes"),
        ({"boxes": 1.0}, r"'boxes': no condition can be on ragged:float32\[4\]"),
        ({"pose": 1.0}, r"'pose': no condition can be on float32\[3\]"),
        ({"label": []}, "'label': no sample has a value of an empty list"),
        ({"source": []}, "'source': no sample has a value of an empty list"),
        ({"note": 3}, "'note': a text is text, not int"),
        ({"note": "a\0"}, r"'note': a text cannot hold \\x00"),
        ({"source": ""}, "'source': a source cannot be empty"),
        ({"source": [3]}, "'source': a source is text, not int"),
        ({"score": math.nan}, "'score': nan is no finite float32"),
        ({"score": (math.nan, None)}, "'score': nan is no finite float32"),
        ({"score": (0.0, math.inf)}, "'score': inf is no finite float32; None is an open end"),
        ({"score": 1e300}, "'score': 1e[+]300 is no finite float32"),
        ({"score": 10**400}, "'score': 1000.* is no finite float32"),
        ({"score": "high"}, "'score': 'high' is no float32"),
        ({"score": True}, "'score': True is no float32"),
        ({"score": (1.0, 1.0)}, "'score': no float32 is at least 1.0 and below 1.0"),
        ({"score": (1.0, 0.5)}, "'score': no float32 is at least 1.0 and below 0.5"),
        ({"score": (1.0, 1.00000001)}, "'score': no float32 is at least 1.0 and below 1.0"),
        ({"score": (None, None)}, "'score': both ends of the interval are open"),
        ({"score": (1.0,)}, r"'score': an interval is a pair \(from, until\), not \(1.0,\)"),
        ({"small": 256}, "'small': no uint8 is 256; they are 0 to 255"),
        ({"small": 1.0}, "'small': 1.0 is a float, and uint8 is whole"),
        ({"small": (256, None)}, "'small': no uint8 is at least 256"),
        ({"small": (None, 0)}, "'small': no uint8 is at least None and below 0"),
        ({"small": (0, 10**30)}, "'small': 1000.* is out of range"),
        ({"checked": 1}, "'checked': 1 is no bool"),
    ],
)
def test_a_condition_that_no_sample_can_meet_is_refused(where: Any, message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        parse_conditions(where, FEATURES)


def test_conditions_are_stored_in_one_form_however_they_are_written() -> None:
    one = {
        "small": {7, 3},
        "label": ["lynx", 0, "cat"],
        "score": (np.float32(0.7), None),
        "note": "ä",
        "checked": np.array([True]),
        "large": (2**63, 2**64),
        "source": ["team-b", None, "team-a"],
    }
    conditions = parse_conditions(one, FEATURES)
    assert conditions.to_json() == {
        "features": {
            "checked": [True],
            "label": ["cat", "lynx"],
            "large": {"from": 2**63, "until": 2**64},
            "note": ["ä"],
            "score": {"from": 0.7, "until": None},
            "small": [3, 7],
        },
        "source": [None, "team-a", "team-b"],
    }
    assert parse_conditions(conditions.where, FEATURES) == conditions
    assert str(parse_conditions({"label": ["cat", "dog"], "score": (None, 1)}, FEATURES)) == (
        "label is one of 'cat', 'dog' and score < 1.0"
    )
    assert not parse_conditions({}, FEATURES)
    assert Conditions().to_json() is None
    assert len(str(parse_conditions({"note": ["x" * 5000, "y"]}, FEATURES))) < 200


@pytest.mark.parametrize(
    "form",
    [
        {},
        [],
        {"features": {"label": []}},
        {"features": {"label": [[]]}},
        {"features": {"score": {"from": 1}}},
        {"features": {"score": {"from": "1", "until": None}}},
        {"source": "team-a"},
        {"sources": ["team-a"]},
    ],
)
def test_what_is_no_form_of_conditions_is_refused(form: Any) -> None:
    with pytest.raises(FeatureError, match="is not the JSON form of conditions"):
        Conditions.from_json(form)


NUMBERS = {
    "float32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "float64": st.floats(allow_nan=False, allow_infinity=False),
    "int8": st.integers(-128, 127),
    "uint64": st.integers(0, 2**64 - 1),
}


@given(data=st.data(), dtype=st.sampled_from(sorted(NUMBERS)))
def test_numbers_meet_conditions_as_python_compares_them(data: st.DataObject, dtype: str) -> None:
    features = Features({"x": Tensor(dtype)})
    numbers = data.draw(st.lists(NUMBERS[dtype], min_size=1, max_size=8))
    chosen = data.draw(st.lists(NUMBERS[dtype] | st.sampled_from(numbers), min_size=1, max_size=4))
    start, stop = data.draw(st.tuples(*[st.none() | NUMBERS[dtype]] * 2))
    given_conditions: list[Any] = [chosen]
    if (start, stop) != (None, None) and (start is None or stop is None or start < stop):
        given_conditions.append((start, stop))
    for given_condition in given_conditions:
        try:
            conditions = parse_conditions({"x": given_condition}, features)
        except FeatureError:  # an interval without any number of an integer type
            assert given_condition == (None, np.iinfo(dtype).min)
            continue
        assert Conditions.from_json(json.loads(json.dumps(conditions.to_json()))) == conditions
        (check,) = filters(conditions, features)
        mask = check(np.array(numbers, dtype))
        if isinstance(given_condition, list):
            assert mask.tolist() == [number in chosen for number in numbers]
        else:
            low = [start is None or number >= start for number in numbers]
            high = [stop is None or number < stop for number in numbers]
            assert mask.tolist() == [a and b for a, b in zip(low, high, strict=True)]


def test_a_run_keeps_its_conditions_and_refuses_others(reg: Registry) -> None:
    dataset = reg.create("d", {"label": ClassLabel(["cat", "dog"]), "x": Tensor("float64")})
    # JSONB writes some of these floats as whole numbers.
    where = {
        "label": "cat",
        "x": [1.0, -0.0, 1e16, 1e22, 1e23, 1e300, 5e-324],
        "source": ["a", None],
    }
    created = dataset.run("r", where=where)
    for opened in (created, dataset.run("r"), dataset.run("r", where=where), *dataset.runs()):
        assert opened.where == {
            "label": ["cat"],
            "x": [0.0, 5e-324, 1.0, 1e16, 1e22, 1e23, 1e300],
            "source": [None, "a"],
        }
        assert opened.population(0, 0, 9).name == created.population(0, 0, 9).name
    assert dataset.run("all").where == dataset.run("all", where={}).where == {}
    for name, other in (("r", {"label": "dog"}), ("r", {}), ("all", {"label": "cat"})):
        with pytest.raises(RunMismatchError, match=f"run '{name}' has where .*, not {other!r:.6}"):
            dataset.run(name, where=other)
    with pytest.raises(FeatureError, match="'bird' is no class"):
        dataset.run("new", where={"label": "bird"})
    assert [run.name for run in dataset.runs()] == ["all", "r"]


def test_a_feature_named_source_has_the_condition_that_is_named_so(reg: Registry) -> None:
    dataset = reg.create("d", {"source": Text()})
    dataset.insert([{"source": "camera"}, {"source": "scanner"}], source="team-a")
    run = dataset.run("r", where={"source": "camera"})
    assert run.epoch(0).size == 1


def test_a_run_keeps_its_sources_when_a_feature_is_named_so(reg: Registry) -> None:
    dataset = reg.create("d", {"n": Tensor("int64")})
    dataset.insert([{"n": 1}], source="team-a")
    where = {"source": "team-a"}
    dataset.run("r", where=where)
    dataset.add_feature("source", Text(), default="camera")
    assert reg.open("d").run("r", where=where).epoch(0).size == 1
    with pytest.raises(EpochError):
        dataset.run("other", where=where).epoch(0)


@pytest.fixture
def named(reg: Registry) -> Dataset:
    """Samples of two sources, one of them not named."""
    dataset = reg.create("named", {"n": Tensor("int64")})
    dataset.insert([{"n": n} for n in range(4)], keys=[f"k{n}" for n in range(4)], source="a")
    dataset.insert([{"n": n} for n in range(4, 6)], keys=[f"k{n}" for n in range(4, 6)])
    return dataset


@pytest.mark.parametrize(
    ("sources", "expected"),
    [(["a"], [0, 1, 2, 3]), ([None], [4, 5]), ("b", [7]), (["b", None], [4, 5, 7])],
)
def test_the_source_is_that_of_the_latest_revision(
    named: Dataset, sources: Any, expected: list[int]
) -> None:
    run = named.run("r", where={"source": sources}, policy="new")
    if "b" not in sources:
        assert sorted(run.epoch(0).batches(9).__next__()["n"]) == expected
    named.update("k1", n=7, source="b")
    batches = named.run("all", where={"source": sources}).epoch(0).batches(9)
    assert sorted(next(batches)["n"]) == [n for n in expected if n != 1]
