"""Tables of other libraries are inserted as they are, and what does not fit is named."""

from __future__ import annotations

import datetime as dt
import decimal
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from registry import Bytes, ClassLabel, Dataset, Features, Image, Ragged, Registry, Tensor, Text
from registry.errors import InvalidSampleError
from registry.samples.arrow import checked_values
from registry.samples.features import Feature
from registry.storage.log import insertions as insertions_module
from registry.storage.log.insertions import insertions
from tests.support.datasets import schemas_of
from tests.support.image_files import png

FEATURES: dict[str, Feature] = {
    "x": Tensor("float32", (2,)),
    "n": Tensor("int64"),
    "label": ClassLabel(["cat", "dog"]),
    "text": Text(),
    "blob": Bytes(),
    "tokens": Ragged("int32"),
    "boxes": Ragged("float32", (2,)),
}
COUNT = 70
"""More rows than the first piece of a table has."""
ROWS: list[dict[str, Any]] = [
    {
        "x": [float(n), n / 2],
        "n": n - 3,
        "label": "dog" if n % 3 else "cat",
        "text": "é" * (n % 5),
        "blob": bytes([n, 0]),
        "tokens": [*range(n % 4)],
        "boxes": [[n / 4, box / 8] for box in range(n % 3)],
    }
    for n in range(COUNT)
]
KEYS = [str(n) for n in range(5, 5 + COUNT)]
ARROW = pa.schema(
    {
        "x": pa.list_(pa.float64(), 2),
        "n": pa.int32(),
        "label": pa.dictionary(pa.int8(), pa.string()),
        "text": pa.string_view(),
        "blob": pa.large_binary(),
        "tokens": pa.list_(pa.int64()),
        "boxes": pa.list_(pa.list_(pa.float64(), 2)),
    }
)


class Exported:
    """An object of an unknown library that exports a stream of Arrow, and nothing else."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


def _nullable(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype({"n": "Int64", "label": "category", "text": "string"})


def _arrow_backed() -> pd.DataFrame:
    return pa.Table.from_pylist(ROWS, ARROW).to_pandas(types_mapper=pd.ArrowDtype)


def _shuffled() -> datasets.Dataset:
    # In two steps, so that the dataset's table has the rows in another order than the dataset.
    backwards = datasets.Dataset.from_list(ROWS[::-1])
    return backwards.select(range(COUNT - 1, -1, -1))


def _class_labels() -> datasets.Dataset:
    # With the classes in another order than that of the feature.
    kinds = datasets.Dataset.from_list(ROWS).features.copy()
    kinds["label"] = datasets.ClassLabel(names=["dog", "cat"])
    indexed = [{**row, "label": int(row["label"] == "cat")} for row in ROWS]
    return datasets.Dataset.from_list(indexed, features=kinds)


TABLES: dict[str, Callable[[], Any]] = {
    "pandas": lambda: pd.DataFrame(ROWS, index=range(100, 100 + COUNT)),
    "pandas of nullable types": lambda: _nullable(pd.DataFrame(ROWS)),
    "pandas of Arrow types": _arrow_backed,
    "pandas of arrays": lambda: pd.DataFrame([{**r, "x": np.array(r["x"])} for r in ROWS]),
    "polars": lambda: pl.DataFrame(ROWS, schema_overrides={"label": pl.Categorical}),
    "polars of arrays": lambda: pl.DataFrame(ROWS, schema_overrides={"x": pl.Array(pl.Float64, 2)}),
    "polars in chunks": lambda: pl.concat(
        [pl.DataFrame(ROWS[:7]), pl.DataFrame(ROWS[7:])], rechunk=False
    ),
    "Arrow table": lambda: pa.Table.from_pylist(ROWS, ARROW),
    "Arrow slice": lambda: pa.Table.from_pylist([*ROWS[:9], *ROWS], ARROW).slice(9),
    "Arrow batch": lambda: pa.RecordBatch.from_pylist(ROWS, ARROW),
    "Arrow stream": lambda: pa.Table.from_pylist(ROWS, ARROW).to_reader(max_chunksize=11),
    "another library": lambda: Exported(pa.Table.from_pylist(ROWS, ARROW)),
    "Hugging Face": lambda: datasets.Dataset.from_list(ROWS),
    "Hugging Face shuffled": _shuffled,
    "Hugging Face classes": _class_labels,
    "Hugging Face stream": lambda: datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    "pandas columns": lambda: {
        n: pd.DataFrame(ROWS, index=range(1, COUNT + 1))[n] for n in ROWS[0]
    },
    "polars columns": lambda: {n: pl.DataFrame(ROWS)[n] for n in ROWS[0]},
    "Arrow columns": lambda: {n: pa.Table.from_pylist(ROWS, ARROW)[n] for n in ROWS[0]},
}


def test_every_table_makes_the_log_of_its_rows(reg: Registry) -> None:
    rows = reg.create("rows", FEATURES)
    rows.insert(ROWS, keys=KEYS)
    for number, (name, make) in enumerate(TABLES.items()):
        dataset = reg.create(f"table-{number}", FEATURES)
        assert dataset.insert(make(), keys=KEYS).inserted == COUNT, name
        assert dataset.head.chain == rows.head.chain, name


@pytest.mark.parametrize(
    "keys",
    [
        pd.RangeIndex(5, 5 + COUNT),
        pd.Index(KEYS),
        pd.Series(KEYS, index=range(1, COUNT + 1)),
        pl.Series(range(5, 5 + COUNT)),
        pa.array(KEYS),
        pa.chunked_array([[5, 6], [*range(7, 5 + COUNT)]]),
        np.arange(5, 5 + COUNT),
        [np.int16(n) for n in range(5, 5 + COUNT)],
        range(5, 5 + COUNT),
        "id",
    ],
    ids=lambda keys: type(keys).__name__,
)
def test_keys_are_whole_numbers_or_text_of_any_library(digits: Dataset, keys: Any) -> None:
    columns = {"image": np.zeros((COUNT, 2, 2), np.uint8), "label": [n % 10 for n in range(COUNT)]}
    data = {**columns, "id": pd.Series(KEYS)} if isinstance(keys, str) else columns
    digits.insert(data, keys=keys)
    assert [entry.key for entry in digits.entries()] == KEYS


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (pd.Index([1.0, None]), "row 0: a key is text or a whole number, not float"),
        (pd.Series(["a", None]), "row 1: a key is text or a whole number, not "),
        (pd.MultiIndex.from_tuples([("a", 1), ("b", 2)]), "not tuple"),
        (pl.Series([True, False]), "row 0: a key is text or a whole number, not bool"),
        ([1, np.True_], "row 1: a key is text or a whole number, not bool"),
        (np.zeros((2, 1), int), "row 0: a key is text or a whole number, not list"),
        (np.array(1), "keys is one ndarray; give a list of 2 keys"),
        (pd.DataFrame({"id": [1, 2]}), "keys is one DataFrame; give a list of 2 keys"),
        (pl.Series([1]), "1 keys were given for 2 samples"),
    ],
    ids=str,
)
def test_other_keys_are_refused(keys: Any, reason: str) -> None:
    schemas = schemas_of(Features({"x": Tensor("int8")}))
    for data in ({"x": [1, 2]}, pd.DataFrame({"x": [1, 2]}), pa.table({"x": [1, 2]})):
        with pytest.raises(InvalidSampleError, match=reason):
            list(insertions(schemas, data, keys, None))


@pytest.mark.parametrize(
    "groups",
    [
        pd.Series(["7", None]),
        pd.Series(["7", None], dtype="string"),
        pd.Series(["7", None], dtype="category"),
        pd.Series([7, None]),
        pd.Series([7, None], dtype="Int64"),
        pd.Series([7, None], dtype="int64[pyarrow]"),
        pl.Series(["7", None]),
        pa.array([7, None]),
        [7, float("nan")],
    ],
    ids=lambda groups: f"{type(groups).__name__} {getattr(groups, 'dtype', '')}",
)
def test_a_missing_value_of_any_library_is_no_group(groups: Any) -> None:
    schemas = schemas_of(Features({"x": Tensor("int8")}))
    tables: list[tuple[Any, Any]] = [({"x": [1, 2]}, groups), (pd.DataFrame({"x": [1, 2]}), groups)]
    if isinstance(groups, pd.Series):
        # In the parts in which a large table is read, some have no missing value.
        parts = pd.concat([groups[:1]] * 100 + [groups[1:]], ignore_index=True)
        tables.append((pd.DataFrame({"x": [1] * 101, "patient": parts}), "patient"))
    for data, given_groups in tables:
        (batch,) = insertions(schemas, data, None, None, given_groups)
        assert batch.groups == ["7"] * (len(batch.keys) - 1) + [None]


def test_a_column_that_is_not_there_is_named() -> None:
    schemas = schemas_of(Features({"x": Tensor("int8")}))
    for data in ({"x": [1, 2]}, pd.DataFrame({"x": [1, 2]}), pa.table({"x": [1, 2]})):
        for what in ("keys", "groups"):
            named = {"keys": None, "groups": None, what: "nosuch"}
            reason = f"no column is named 'nosuch' for the {what}; there are 'x'"
            with pytest.raises(InvalidSampleError, match=reason):
                list(insertions(schemas, data, named["keys"], None, named["groups"]))


@pytest.mark.parametrize("groups", [pd.Series([1.5, None]), [1.0, None], pd.Series([True, None])])
def test_other_groups_are_refused(groups: Any) -> None:
    schemas = schemas_of(Features({"x": Tensor("int8")}))
    with pytest.raises(InvalidSampleError, match="a group"):
        list(insertions(schemas, {"x": [1, 2]}, None, None, groups))


NULL = "the value is null"


@pytest.mark.parametrize(
    ("feature", "good", "bad", "reason"),
    [
        (Tensor("int64"), 1, None, NULL),
        (Tensor("float32", (2,)), [1.0, 2.0], [1.0, None], NULL),
        (ClassLabel(["a", "b"]), "a", None, NULL),
        (ClassLabel(3), 1, None, NULL),
        (ClassLabel(["a", "b"]), "a", "c", "unknown class 'c'; the classes are 'a', 'b'"),
        (Text(), "a", None, NULL),
        (Ragged("int64"), [1], None, NULL),
        (Ragged("int64"), [1], [2, None], NULL),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named_with_its_row_key_and_feature(
    feature: Feature, good: object, bad: object, reason: str
) -> None:
    values = [*[good] * COUNT, bad, good]
    keys = [f"k{row}" for row in range(len(values))]
    schemas = schemas_of(Features({"v": feature}))
    arrow = pa.array(values)
    for table in (
        pd.DataFrame({"v": values}),
        pd.DataFrame({"v": pd.array(values, pd.ArrowDtype(arrow.type))}),
        pl.DataFrame({"v": values}),
        pa.table({"v": arrow}),
        pa.table({"v": arrow}).to_reader(max_chunksize=5),
        datasets.Dataset.from_dict({"v": values}),
    ):
        with pytest.raises(InvalidSampleError) as caught:
            list(insertions(schemas, table, keys, None))
        where = f"row {COUNT}, key 'k{COUNT}', feature 'v': "
        assert str(caught.value).startswith(where), type(table)
        assert reason in caught.value.reason or isinstance(table, pd.DataFrame)


@pytest.mark.parametrize("feature", [Tensor("float64"), Text()], ids=str)
@pytest.mark.parametrize(
    "value",
    [
        dt.datetime(2021, 1, 1, 12, tzinfo=dt.UTC),
        dt.datetime(2021, 1, 1),  # noqa: DTZ001  # a column without a time zone
        dt.timedelta(1),
        decimal.Decimal("0.5"),
    ],
    ids=str,
)
def test_times_and_decimals_are_refused(feature: Feature, value: object) -> None:
    schemas = schemas_of(Features({"v": feature}))
    for table in (
        pd.DataFrame({"v": [value]}),
        pl.DataFrame({"v": [value]}),
        pa.table({"v": [value]}),
    ):
        with pytest.raises(InvalidSampleError, match=r"feature 'v': a (column|value) of "):
            list(insertions(schemas, table, None, None))


def test_images_of_hugging_face_are_their_bytes_or_their_files(tmp_path: Path) -> None:
    schemas = schemas_of(Features({"image": Image()}))
    (tmp_path / "a.png").write_bytes(png(2))
    kinds = datasets.Features({"image": datasets.Image()})
    files = [
        {"bytes": png(1), "path": "gone.png"},
        {"bytes": None, "path": str(tmp_path / "a.png")},
    ]
    images = datasets.Dataset.from_dict({"image": files}, features=kinds)
    # As pandas reads its Parquet file, and as Pillow has them.
    frame = pd.DataFrame({"image": files})
    opened = pd.DataFrame({"image": [PillowImage.open(tmp_path / "a.png")] * 2})
    for table in (images, frame):
        (batch,) = insertions(schemas, table, None, None)
        assert list(batch.records) == schemas.newest.codec.encode({"image": [png(1), png(2)]})
    (batch,) = insertions(schemas, opened, None, None)
    assert len(batch.records) == 2
    nothing = [{"bytes": b"", "path": ""}, {"bytes": None, "path": None}]
    for table in (pa.table({"image": nothing})[1:], pd.DataFrame({"image": nothing})[1:]):
        with pytest.raises(InvalidSampleError, match=r"row 0, key 'a', feature 'image': .*neither"):
            list(insertions(schemas, table, ["a"], None))


def test_the_classes_of_hugging_face_are_their_names_in_text() -> None:
    schemas = schemas_of(Features({"label": Text()}))
    kinds = datasets.Features({"label": datasets.ClassLabel(names=["cat", "dog"])})
    labeled = datasets.Dataset.from_dict({"label": [1, 0]}, features=kinds)
    (batch,) = insertions(schemas, labeled, None, None)
    assert list(batch.records) == schemas.newest.codec.encode({"label": ["dog", "cat"]})


def test_a_class_that_hugging_face_has_no_name_for_is_refused() -> None:
    schemas = schemas_of(Features({"label": ClassLabel(["dog", "cat", "cow"])}))
    kinds = datasets.Features({"label": datasets.ClassLabel(names=["cat", "dog"])})
    unlabeled = datasets.Dataset.from_dict({"label": [0, -1]}, features=kinds)
    with pytest.raises(InvalidSampleError, match=r"row 1, feature 'label': class index -1"):
        list(insertions(schemas, unlabeled, None, None))


@pytest.mark.parametrize(
    ("data", "way"),
    [
        ((row for row in ROWS), "not as generator; list its samples: "),
        (np.zeros(2, [("x", "f4")]), "give its fields as columns: "),
        (np.zeros((2, 2)), "give it as the column of a feature: "),
        (pl.Series([1]), "give it as the column of a feature: "),
        (pd.Series([1]), "give it as the column of a feature: "),
        (pa.array([1]), "give it as the column of a feature: "),
        (pl.LazyFrame({"x": [1]}), "collect() it first"),
        (datasets.DatasetDict(train=datasets.Dataset.from_dict({"x": [1]})), "data['train']"),
        (Exported(pa.chunked_array([[1]])), "the Exported is no table: "),
        (pl.DataFrame({"x": [object()]}), "the column 'x' holds Python objects"),
        (pa.table([[1], [2]], ["x", "x"]), "the table has the column 'x' twice"),
        (pd.DataFrame([[1, 2]], columns=["x", "x"]), "the table has the column 'x' twice"),
        (pd.DataFrame({"x": [1], 7: [1]}), "unknown '7'; the features are 'x'"),
        (pl.DataFrame({"y": [1]}), "missing 'x' and unknown 'y'; the features are 'x'"),
        (pd.DataFrame({"x": []}), "the table is empty"),
        ("text", "not as str; "),
        (5, "not as int; "),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_for_other_data_names_the_way(data: Any, way: str) -> None:
    schemas = schemas_of(Features({"x": Tensor("float32")}))
    with pytest.raises(InvalidSampleError, match=re.escape(way)):
        list(insertions(schemas, data, None, None))


def test_a_large_table_is_stored_in_parts_and_an_error_says_how_much_is(
    reg: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(insertions_module, "AHEAD_ROWS", 100)
    numbers = reg.create("numbers", {"n": Tensor("int64")})
    read: list[int] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, 500, 10):
            # What was read before, but for one part, is stored already.
            assert start - numbers.head.position <= 110
            read.append(start)
            yield pa.record_batch(
                [[None if n == 490 else n for n in range(start, start + 10)]], ["n"]
            )

    stream = pa.RecordBatchReader.from_batches(pa.schema({"n": pa.int64()}), batches())
    with pytest.raises(InvalidSampleError, match="row 490, key 'k490'") as caught:
        numbers.insert(stream, keys=[f"k{n}" for n in range(500)])
    assert caught.value.__notes__ == ["the first 400 rows are stored"]
    assert numbers.head.position == 400
    assert len(read) == 50


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_nested_lists_and_slices_are_read_as_arrow_reads_them(data: st.DataObject) -> None:
    item = st.integers(-5, 5)
    lists = data.draw(st.lists(st.lists(st.tuples(item, item).map(list), max_size=3), max_size=8))
    kind = data.draw(
        st.sampled_from([pa.list_(pa.list_(pa.int64(), 2)), pa.large_list(pa.list_(pa.int64()))])
    )
    start = data.draw(st.integers(0, len(lists)))
    column = pa.array(lists, kind).slice(start)
    assert [np.asarray(value).tolist() for value in checked_values(column)] == lists[start:]


def test_inserting_rows_imports_no_library_of_tables(sqlite_url: str) -> None:
    code = (
        "import sys, registry; reg = registry.connect(sys.argv[1]); "
        "reg.create('d', {'n': registry.Tensor('int8')}).insert({'n': [1, 2]}, keys=[1, 2]); "
        "assert not {'pandas', 'polars', 'pyarrow', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, sqlite_url], check=True)


def test_without_pyarrow_pandas_is_read_and_polars_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schemas = schemas_of(Features({"x": Tensor("int8"), "t": Text()}))
    columns = {"x": [1, 2], "t": ["a", "b"]}
    frame, other = pd.DataFrame(columns), pl.DataFrame(columns)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (batch,) = insertions(schemas, frame, None, None)
    assert list(batch.records) == schemas.newest.codec.encode(columns)
    with pytest.raises(InvalidSampleError, match=r"pip install 'registry-datasets\[parquet\]'"):
        list(insertions(schemas, other, None, None))


def test_a_dataset_of_rows_and_a_dataset_of_a_table_are_equal(digits: Dataset) -> None:
    frame = pd.DataFrame({"image": [np.zeros((2, 2), np.uint8)] * 3, "label": [1, 2, 3]})
    assert digits.insert(frame, keys=frame.index).inserted == 3
    assert digits.insert(frame, keys=frame.index).unchanged == 3
    assert digits.get("2")["label"] == 3
