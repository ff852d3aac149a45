"""Datasets and epochs are read as tables of other libraries, and come back bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import datasets
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import Bytes, ClassLabel, Dataset, Image, Ragged, Registry, Tensor, Text
from registry.errors import ErasedError, FeatureError
from registry.samples.features import DTYPES, Feature
from tests.support.datasets import digit
from tests.support.image_files import JPEG
from tests.support.values import TEXT, value

NAMES = ["cat", "1", "a,b\u2028\U0001f600", "\ufeff"]
FIXED: dict[str, Feature] = {
    **{f"scalar {dtype}": Tensor(dtype) for dtype in DTYPES},
    **{f"row {dtype}": Tensor(dtype, (3,)) for dtype in DTYPES},
    **{f"grid {dtype}": Tensor(dtype, (2, 1, 3)) for dtype in DTYPES},
    "named": ClassLabel(NAMES),
    "numbered": ClassLabel(7),
}
EVERYTHING: dict[str, Feature] = {
    **FIXED,
    **{f"ragged {dtype}": Ragged(dtype) for dtype in DTYPES},
    **{f"items {dtype}": Ragged(dtype, (2, 3)) for dtype in DTYPES},
    "text": Text(),
    "blob": Bytes(),
    "photo": Image(),
}
KEY = TEXT.filter(lambda key: 0 < len(key.encode()) < 500)
_numbers = itertools.count()

View = Callable[..., Any]
VIEWS: dict[str, View] = {
    "Arrow": Dataset.to_arrow,
    "pandas": Dataset.to_pandas,
    "polars": Dataset.to_polars,
    # As pandas reads a Parquet file.
    "pandas of Arrow": lambda dataset, **names: dataset.to_arrow(**names).to_pandas(),
    "Hugging Face": lambda dataset, **names: datasets.Dataset(dataset.to_arrow(**names)),
}


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.data(),
    features=st.sampled_from([FIXED, EVERYTHING]),
    keys=st.lists(KEY, min_size=1, max_size=4, unique=True),
    seed=st.integers(0, 2**32),
)
def test_every_view_is_inserted_again_bit_for_bit(
    reg: Registry,
    data: st.DataObject,
    features: dict[str, Feature],
    keys: list[str],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    number = next(_numbers)
    dataset = reg.create(f"given-{number}", features)
    rows = [{n: value(f, rng, data) for n, f in features.items()} for _ in keys]
    groups = [data.draw(st.none() | KEY) for _ in keys]
    dataset.insert(rows, keys=keys, groups=groups, source="tool")
    for name, view in VIEWS.items():
        copy = reg.create(f"copy-{number}-{name.replace(' ', '')}", features)
        copy.insert(view(dataset, keys="id", groups="of"), keys="id", groups="of")
        # The chain stands for all records and the buckets of their keys.
        assert copy.head == dataset.head, name
        assert [(e.key, e.group) for e in copy.entries()] == [*zip(keys, groups, strict=True)]
    copy = reg.create(f"streamed-{number}", features)
    copy.insert(dataset, keys=keys, groups=groups)
    assert copy.head == dataset.head


@pytest.fixture
def revised(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Ten digits, of which k3 is revised and k4 is gone, in ranges of four positions."""
    monkeypatch.setattr("registry.catalog.live_samples.RANGE_ROWS", 4)
    digits.insert([digit(n) for n in range(10)], keys=[f"k{n}" for n in range(10)], source="tool")
    digits.update("k3", label=9)
    digits.retract("k4")
    return digits


LIVE = ["k0", "k1", "k2", *(f"k{n}" for n in range(5, 10)), "k3"]


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_has_the_live_samples_of_its_version(
    reg: Registry, revised: Dataset, name: str
) -> None:
    revised.tag("gold")
    revised.update("k5", label=0)
    revised.insert([digit(10)])
    view = VIEWS[name](reg.open("digits@gold"), keys="key", sources="tool")
    rows = (
        view.to_pydict() if name == "Arrow" else {n: [*view[n]] for n in ("key", "tool", "label")}
    )
    assert rows["key"] == LIVE
    assert [int(label) for label in rows["label"]] == [0, 1, 2, 5, 6, 7, 8, 9, 9]
    assert [source == "tool" for source in rows["tool"]] == [True] * 8 + [False]


@pytest.mark.parametrize("stretch", [1, 2])
def test_revisions_in_succession_are_passed_over(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch, stretch: int
) -> None:
    monkeypatch.setattr("registry.catalog.live_samples._LONG_STRETCH", stretch)
    digits.insert([digit(n) for n in range(10)], keys=[f"k{n}" for n in range(10)])
    for key in ("k0", "k4", "k5", "k8", "k9"):
        digits.retract(key)
    assert digits.to_arrow(keys="key")["key"].to_pylist() == ["k1", "k2", "k3", "k6", "k7"]


def test_older_samples_have_the_defaults_of_later_features(reg: Registry) -> None:
    kinds: list[Feature] = [Tensor("int8"), Text()]
    for number, first in enumerate(kinds):
        dataset = reg.create(f"grown-{number}", {"x": first})
        dataset.insert([{"x": "1" if number else 1}, {"x": "" if number else 2}], keys=["a", "b"])
        dataset.add_feature("note", Text(), "none")
        dataset.add_feature("y", Tensor("float32"), 0.5)
        dataset.update("a", note="new")
        assert dataset.to_arrow(keys="key").to_pylist() == [
            {"key": "b", "x": "" if number else 2, "note": "none", "y": 0.5},
            {"key": "a", "x": "1" if number else 1, "note": "new", "y": 0.5},
        ]


def test_classes_have_their_names_and_images_are_files(reg: Registry) -> None:
    pets = reg.create("pets", {"image": Image(), "kind": ClassLabel(["cat", "dog"])})
    assert datasets.Dataset(pets.to_arrow()).features["kind"].names == ["cat", "dog"]
    pets.insert([{"image": JPEG, "kind": "dog"}])
    (row,) = table = datasets.Dataset(pets.to_arrow())
    assert table.features["kind"].int2str(row["kind"]) == "dog"
    assert row["image"].format == "JPEG"
    for frame in (pets.to_pandas(), pets.to_polars()):
        assert ([*frame["kind"]], [*frame["image"]]) == (["dog"], [JPEG])


def test_an_epoch_is_a_table_in_its_order(reg: Registry, revised: Dataset) -> None:
    texts = reg.create("texts", {"text": Text(), "n": Tensor("int64"), "tokens": Ragged("int16")})
    texts.insert([{"text": "é" * n, "n": n, "tokens": [*range(n)]} for n in range(30)])
    for dataset, name in ((revised, "label"), (texts, "n")):
        epoch = dataset.run("r", seed=3).epoch(0)
        (batch,) = epoch.batches(epoch.size)
        tables = epoch.to_arrow(), epoch.to_polars(), pa.table(epoch)
        assert all(
            table[name].to_pylist() == batch[name].tolist() for table in (tables[0], tables[2])
        )
        assert tables[1][name].to_list() == batch[name].tolist()
        frame = epoch.to_pandas()
        for column in dataset.features:
            for expected, row in zip(batch[column], frame[column], strict=True):
                np.testing.assert_array_equal(expected, row)
        copy = reg.create(f"copy-of-{name}", dataset.features)
        copy.insert(epoch, keys=[*range(epoch.size)])
        again = reg.create(f"again-of-{name}", dataset.features)
        again.insert(batch, keys=[*range(epoch.size)])
        assert copy.head.chain == again.head.chain


def test_the_table_of_an_epoch_has_the_keys_groups_and_sources_of_its_samples(
    revised: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    revised.insert([digit(7)], keys=["é/…"], groups=["patient"])
    epoch = revised.run("r", seed=3).epoch(0)
    monkeypatch.setattr("registry.training.epoch.rows_in_chunk", lambda *_, **__: 4)
    names = {"keys": "key", "groups": "group", "sources": "by"}
    tables = [epoch.to_arrow(**names), epoch.to_polars(**names)]
    rows = epoch.to_pandas(**names).to_dict("records")
    assert [row["label"] for row in rows] == epoch[:]["label"].tolist()
    assert sorted(row["key"] for row in rows) == sorted([*LIVE, "é/…"])
    entries = {entry.key: entry for entry in revised.entries()}
    for row in rows:
        entry = entries[row["key"]]
        assert (row["group"], row["by"]) == (entry.group, entry.source)
        assert row["label"] == revised.get(row["key"])["label"]
    for name in ("key", "group", "by"):
        assert all([*table[name]] == [row[name] for row in rows] for table in tables[1:])
        assert tables[0][name].to_pylist() == [row[name] for row in rows]
    with pytest.raises(FeatureError, match="'label' is a feature"):
        epoch.to_pandas(keys="label")


def test_other_libraries_read_the_stream(revised: Dataset) -> None:
    digits = revised
    assert pl.DataFrame(digits)["label"].to_list() == [0, 1, 2, 5, 6, 7, 8, 9, 9]
    relation = duckdb.sql("SELECT count(*), max(label) FROM digits")
    assert relation is not None
    assert relation.fetchall() == [(9, 9)]
    del digits


def test_fixed_columns_share_the_memory_of_the_page(reg: Registry) -> None:
    numbers = reg.create("numbers", {"x": Tensor("float64", (4,))})
    numbers.insert({"x": np.arange(400.0).reshape(100, 4)})
    before = pa.total_allocated_bytes()
    table = numbers.to_arrow()
    assert table.nbytes >= 3200
    assert pa.total_allocated_bytes() - before < 400


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ({"keys": "label"}, "'label' is a feature; choose another name for the keys"),
        (
            {"keys": "x", "groups": "x"},
            "'x' is the column of the keys; choose another name",
        ),
        ({"keys": True}, "the keys need the name of a column, such as 'id', not True"),
        ({"sources": ""}, "the sources need the name of a column"),
    ],
)
def test_a_name_that_is_taken_or_none_is_refused(
    digits: Dataset, names: dict[str, Any], reason: str
) -> None:
    for view in (digits.to_arrow, digits.to_pandas, digits.to_polars):
        with pytest.raises(FeatureError, match=reason):
            view(**names)


def test_an_erased_sample_of_a_version_is_named(reg: Registry, revised: Dataset) -> None:
    revised.tag("gold")
    revised.erase("k5")
    assert len(revised.to_arrow()) == 8
    with pytest.raises(ErasedError, match="'k5' at position 5"):
        reg.open("digits@gold").to_arrow()


def test_empty_datasets_are_empty_tables(digits: Dataset) -> None:
    assert len(digits.to_arrow()) == len(digits.to_pandas()) == len(digits.to_polars()) == 0
    assert isinstance(digits.to_pandas(keys="key"), pd.DataFrame)
    assert [*digits.to_pandas(keys="key")] == ["key", "image", "label"]
