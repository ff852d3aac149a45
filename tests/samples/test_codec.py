"""Encoding of values to records and back, and the values that are rejected."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from registry import Bytes, ClassLabel, Dataset, Features, Image, Ragged, Registry, Tensor, Text
from registry.errors import FeatureError, InvalidSampleError
from registry.samples.buckets import buckets
from registry.samples.codec import Codec
from registry.samples.feature_text import feature_text, parse_feature
from registry.samples.features import DTYPES, Feature
from registry.samples.json_codec import from_fields, to_fields
from registry.samples.splits import intervals
from registry.storage.log.hash_chain import extend
from registry.storage.log.watermark import GENESIS
from tests.support.datasets import VARIABLE, digit
from tests.support.image_files import JPEG, PNG

shapes = hnp.array_shapes(min_dims=0, max_dims=3, max_side=3)
tensors = st.builds(Tensor, st.sampled_from(DTYPES), shapes)
kinds: st.SearchStrategy[Feature] = st.one_of(
    tensors,
    st.builds(ClassLabel, st.integers(1, 1000)),
    st.builds(ClassLabel, st.lists(st.text("abc", min_size=1), min_size=1, unique=True)),
    st.builds(Image, st.sampled_from([None, "png"])),
    st.just(Text()),
    st.just(Bytes()),
    st.builds(Ragged, st.sampled_from(DTYPES), shapes),
)
printable = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"))
names = st.text(printable, min_size=1, max_size=128)
mappings = st.dictionaries(names, kinds, min_size=1, max_size=5)


def values(feature: Feature) -> st.SearchStrategy[Any]:
    """Values that fit a feature exactly."""
    if isinstance(feature, Tensor):
        return hnp.arrays(feature.dtype, feature.shape)
    if isinstance(feature, ClassLabel):
        return st.integers(0, feature.count - 1)
    if isinstance(feature, Text):
        return st.text(st.characters(codec="utf-8", exclude_characters="\0"))
    if isinstance(feature, Ragged):
        return hnp.arrays(feature.dtype, st.integers(0, 5).map(lambda n: (n, *feature.shape)))
    return st.binary().map(lambda rest: PNG + rest if isinstance(feature, Image) else rest)


@given(st.data())
def test_encoded_values_are_decoded_exactly(data: st.DataObject) -> None:
    features = Features(data.draw(mappings))
    rows = data.draw(
        st.lists(st.fixed_dictionaries({n: values(f) for n, f in features.items()}), max_size=4)
    )
    codec = Codec(features)
    columns = {name: [row[name] for row in rows] for name in features}
    records = codec.encode(columns) if rows else []
    as_json = [json.loads(json.dumps(to_fields(features, row))) for row in rows]
    restored = [from_fields(features, fields) for fields in as_json]
    assert not rows or codec.encode({n: [row[n] for row in restored] for n in features}) == records
    decoded = codec.decode(b"".join(records), len(records))
    assert list(decoded) == list(features)
    shifted = codec.decode(memoryview(b"?" + b"".join(records))[1:], len(records))
    for name in features:
        assert len(decoded[name]) == len(rows)
        for column in (decoded[name], shifted[name]):
            assert column.flags.c_contiguous, "as other libraries need them"
            assert column.flags.aligned
            if column.dtype != object:
                assert column.tobytes() == decoded[name].tobytes()
        for back, row in zip(decoded[name], rows, strict=True):
            np.testing.assert_array_equal(back, row[name], strict=isinstance(row[name], np.ndarray))
    for record, row in zip(records, rows, strict=True):
        one = codec.decode_one(record)
        assert codec.encode({name: [value] for name, value in one.items()}) == [record]
        assert one.keys() == row.keys()


@given(mappings)
def test_features_are_restored_from_their_json_form(features: dict[str, Feature]) -> None:
    assert Features.from_json(Features(features).to_json()) == Features(features)


def test_features_that_earlier_versions_stored_are_read_and_plain_ones_are_stored_as_before() -> (
    None
):
    stored = [
        {"name": "r", "kind": "Ragged", "dtype": "int64"},
        {"name": "i", "kind": "Image", "encoding": "png"},
    ]
    features = Features({"r": Ragged("int64"), "i": Image("png")})
    assert Features.from_json(stored) == features
    assert features.to_json() == stored
    boxes, photo = Features({"b": Ragged("float32", (4,)), "i": Image()}).to_json()
    assert boxes == {"name": "b", "kind": "Ragged", "dtype": "float32", "shape": (4,)}
    assert photo == {"name": "i", "kind": "Image", "encoding": None}


def test_a_record_has_the_documented_layout() -> None:
    features: dict[str, Feature] = {
        "t": Text(),
        "x": Tensor("int16", (2,)),
        "b": Bytes(),
        "y": ClassLabel(3),
        "r": Ragged("uint16", (2,)),
    }
    (record,) = Codec(Features(features)).encode(
        {"t": ["hé"], "x": [[1, -2]], "b": [b"\x07"], "y": [2], "r": [[[1, 2], [3, 4]]]}
    )
    assert record == (
        b"\x01\x00\xfe\xff"  # x
        b"\x02\x00\x00\x00"  # y
        b"\x03\x00\x00\x00\x01\x00\x00\x00\x08\x00\x00\x00"  # the lengths of t, b and r
        b"h\xc3\xa9\x07"
        b"\x01\x00\x02\x00\x03\x00\x04\x00"
    )


def test_a_page_of_a_single_feature_is_viewed_and_not_copied() -> None:
    codec = Codec(Features({"x": Tensor("float32", (2, 2))}))
    data = b"".join(codec.encode({"x": np.zeros((3, 2, 2), np.float32)}))
    assert np.shares_memory(codec.decode(data, 3)["x"], np.frombuffer(data, np.uint8))


def test_columns_of_pages_and_batches_are_contiguous_and_aligned(reg: Registry) -> None:
    values: dict[str, tuple[Feature, Any]] = {
        "flag": (Tensor("bool"), [True] * 5),
        "x": (Tensor("float64", (3,)), np.ones((5, 3))),
        "y": (ClassLabel(7), range(5)),
        "image": (Tensor("uint8", (2, 2)), np.zeros((5, 2, 2), np.uint8)),
        "z": (Tensor("int16"), range(5)),
        "text": (Text(), ["a"] * 5),
    }
    for size in (5, 6):
        some = dict(list(values.items())[:size])
        dataset = reg.create(f"of-{size}", {name: feature for name, (feature, _) in some.items()})
        dataset.insert({name: column for name, (_, column) in some.items()})
        run = dataset.run("r")
        parts: list[Any] = [*dataset.pages(0), *run.epoch(0).batches(2), next(run.stream(3))]
        columns = [part[name] for part in parts for name in some]
        assert all(column.flags.c_contiguous and column.flags.aligned for column in columns)


def test_the_hashes_never_change() -> None:
    assert buckets(["", "scan-17", "Zoë"]).tolist() == [65201, 32369, 40144]
    chain = extend(GENESIS, [-1, 0, 1], np.array([5, 65535, 5], np.uint16), [b"a", b"b", None])
    assert [value.hex() for value in chain] == [
        "514f8e8e78bd114334aaccc833520b6f",
        "72015fabc5591cd0020d37705d4c2caa",
        "f67f13cac16a3b950335d4bc11def630",
    ]


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        ("uint8[8,8]", Tensor("uint8", (8, 8))),
        ("float32", Tensor("float32")),
        ("class:10", ClassLabel(10)),
        ("class:cat,dog", ClassLabel(["cat", "dog"])),
        ("image", Image()),
        ("image:jpeg", Image("jpeg")),
        ("text", Text()),
        ("bytes", Bytes()),
        ("ragged:int64", Ragged("int64")),
        ("ragged:float32[4]", Ragged("float32", (4,))),
        ("ragged:uint8[2,3]", Ragged("uint8", (2, 3))),
    ],
)
def test_features_have_a_text_form(text: str, feature: Feature) -> None:
    assert parse_feature(text) == feature
    assert feature_text(feature) == text


def test_the_brief_text_form_counts_classes() -> None:
    assert feature_text(ClassLabel(["cat", "dog"]), brief=True) == "class:2"


@pytest.mark.parametrize(
    "text",
    [
        *("", "uint9", "uint8[0]", "uint8[-1]", "class:", "class:0", "class:a,a", "image:tiff"),
        *("ragged", "ragged:", "ragged:int9", "ragged:int8[0]", "ragged:int8[", "ragged:text"),
    ],
)
def test_an_invalid_feature_is_rejected(text: str) -> None:
    with pytest.raises(FeatureError):
        parse_feature(text)


@pytest.mark.parametrize("shares", [{"a": 0.5}, {"a": 0.9, "b": 0.2}, {"a": 1, "b": 0}, {"": 1}])
def test_splits_that_do_not_add_up_are_rejected(shares: dict[str, float]) -> None:
    with pytest.raises(FeatureError, match="split"):
        intervals(shares)


@pytest.mark.parametrize("shares", [{"all": 0.999999, "few": 1e-6}, {"few": 1e-6, "all": 0.999999}])
def test_a_split_that_no_key_can_fall_into_is_rejected(shares: dict[str, float]) -> None:
    with pytest.raises(
        FeatureError, match=r"split 'few': a share of 1e-06 .* give 1\.52588e-05 or more"
    ):
        intervals(shares)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=50), st.integers(0, 50))
def test_splits_divide_all_buckets_and_none_is_empty(weights: list[int], index: int) -> None:
    smallest = 1.52588e-05
    shares = [weight / sum(weights) * (1 - smallest) for weight in weights]
    shares.insert(index, smallest)
    ends = list(intervals({str(n): share for n, share in enumerate(shares)}).values())
    assert all(start < stop for start, stop in ends)
    assert [start for start, _ in ends] == [0, *(stop for _, stop in ends[:-1])]
    assert ends[-1][1] == 65536


@pytest.mark.parametrize("index", [2, -1, 3])
@pytest.mark.parametrize("kind", ["int8", "int64", "list"])
def test_class_indexes_in_arrays_are_below_the_count(index: int, kind: str) -> None:
    codec = Codec(Features({"x": ClassLabel(2)}))
    bad: Any = np.array([1, index, 0], "int8" if kind == "list" else kind)
    good: Any = np.array([1, 0, 0], bad.dtype)
    if kind == "list":
        bad, good = [np.array(value) for value in bad], [np.array(value) for value in good]
    assert [codec.decode_one(record)["x"] for record in codec.encode({"x": good})] == [1, 0, 0]
    with pytest.raises(
        InvalidSampleError, match=rf"class index {index} is not in \[0, 2\)"
    ) as caught:
        codec.encode({"x": bad})
    assert caught.value.row == 1


ma: Any = np.ma  # untyped in some versions
BOXES = Ragged("float32", (4,))
MASKED = ma.array([1, 2], mask=[False, True])
BAD = [
    (Tensor("uint8", (2,)), [1, 2, 3], r"shape \(3,\) is not \(2,\)"),
    (Tensor("uint8", (2,)), [1, [2]], "is not an array of shape"),
    (Tensor("uint8"), 300, "300 does not fit uint8 exactly"),
    (Tensor("uint8"), -1, "-1 does not fit uint8 exactly"),
    (Tensor("int32"), 1.5, "float64 does not fit int32 without loss"),
    (Tensor("int32"), np.float32(1), "float32 does not fit int32 without loss"),
    (Tensor("int32"), float("nan"), "NaN does not fit int32"),
    (Tensor("bool"), 1, "int64 does not fit bool without loss"),
    (Tensor("float32"), 16777217, "16777217 does not fit float32 exactly"),
    (Tensor("float64"), 2**53 + 1, "9007199254740993 does not fit float64 exactly"),
    (Tensor("float32"), 1e300, r"1e\+300 does not fit float32 exactly"),
    (Tensor("float32"), 1j, "complex128 does not fit float32"),
    (Tensor("float32"), "1.5", "does not fit float32"),
    (Tensor("float32"), None, "None is not float32"),
    (Tensor("float32"), object(), "type object is not float32"),
    (Tensor("int64"), 2**70, "is not int64"),
    (ClassLabel(["cat", "dog"]), "cow", "unknown class 'cow'; the classes are 'cat', 'dog'"),
    (ClassLabel(2), "cat", "class 'cat': this feature has no names"),
    (ClassLabel(2), 2, r"class index 2 is not in \[0, 2\)"),
    (ClassLabel(2), -1, r"class index -1 is not in \[0, 2\)"),
    (ClassLabel(2), True, "True is not a class index or name"),
    (ClassLabel(2), 1.0, "1.0 is not a class index or name"),
    (Tensor("float32", (2,)), MASKED, "masked arrays are not accepted"),
    (Ragged("int32"), MASKED, "masked arrays are not accepted"),
    (Text(), b"bytes", "is not text"),
    (Text(), "a\0b", r"text cannot hold \\x00"),
    (Text(), "\ud800", "lone surrogate"),
    (Bytes(), "text", "is not bytes"),
    (Image("png"), b"GIF89a", "the bytes are not a png file; they are gif$"),
    (Image("jpeg"), PNG, "the bytes are not a jpeg file; they are png$"),
    (Image(), b"?", "the bytes are not a jpeg, png, gif, bmp or webp file$"),
    (Image(), b"<!doctype html>", "gif, bmp or webp file; they are HTML or XML$"),
    (Image(), "a.png", "type str is not bytes, a pathlib.Path, .*; for a file, give its pathlib.P"),
    (Image("png"), PNG[:-1], "the image is cut off: its 66 bytes hold no IEND chunk"),
    (Image("jpeg"), JPEG[:-1], "the image is cut off: its .* bytes hold no end marker"),
    (Ragged("int32"), [[1], [2]], "is not a one-dimensional array of int32"),
    (Ragged("int32"), [1.5], "float64 does not fit int32"),
    (Tensor("uint64"), -1, "-1 does not fit uint64 exactly"),
    (Ragged("int32"), 7, "is not a one-dimensional array of int32"),
    (BOXES, [0, 0, 1, 1], r"shape \(4,\) is not \(n, 4\)"),
    (BOXES, [[0, 0, 1]], r"shape \(1, 3\) is not \(n, 4\)"),
    (BOXES, np.zeros((0, 3)), r"shape \(0, 3\) is not \(n, 4\)"),
    (BOXES, np.zeros((2, 1, 4)), r"shape \(2, 1, 4\) is not \(n, 4\)"),
    (BOXES, [[0, 0, 1, 1], [0, 0, 1]], r"item 1 has shape \(3,\), which is not \(4,\)"),
    (BOXES, [[0, 0, 1, 1], None], r"item 1 has shape \(\), which is not \(4,\)"),
    (BOXES, [[0, 0, 1, None]], r"type list is not an array of float32 and shape \(n, 4\)"),
    (BOXES, [[0, 0, 1, 1], [0, 0, 1, 1e300]], r"1e\+300 does not fit float32 exactly"),
    (BOXES, [["0", "0", "1", "1"]], "does not fit float32 without loss"),
    (BOXES, None, r"None is not an array of float32|shape \(\) is not \(n, 4\)"),
    (BOXES, [np.ma.ones(4)], "masked arrays are not accepted"),
]
GOOD: dict[type, Any] = {
    ClassLabel: 0, Text: "", Bytes: b"", Ragged: [], Image: None, Tensor: None
}  # fmt: skip


@pytest.mark.parametrize(("feature", "value", "reason"), BAD)
def test_an_unfit_value_is_rejected_with_its_row_key_and_feature(
    feature: Feature, value: object, reason: str
) -> None:
    good: Any = GOOD[type(feature)]
    if isinstance(feature, Tensor):
        good = np.zeros(feature.shape, feature.dtype) if feature.shape else 0
        if feature.dtype == "bool":
            good = False
    elif isinstance(feature, Image):
        good = JPEG if feature.encoding == "jpeg" else PNG
    codec = Codec(Features({"x": feature}))
    with pytest.raises(InvalidSampleError, match=reason) as caught:
        codec.encode({"x": [good, value, good]}, ["a", "b", "c"])
    assert (caught.value.row, caught.value.key, caught.value.feature) == (1, "b", "x")
    assert str(caught.value).startswith("row 1, key 'b', feature 'x': ")


@pytest.mark.parametrize(
    ("data", "keys", "reason"),
    [
        ([], None, "the batch is empty"),
        ({"image": np.zeros((0, 2, 2)), "label": []}, None, "the batch is empty"),
        ([{"image": [[0, 0], [0, 0]]}], ["a"], "row 0, key 'a': missing 'label'"),
        ([{**digit(1), "z": 1}], None, "row 0: unknown 'z'; the features are 'image', 'label'"),
        ([digit(1), 5], None, "row 1: a sample is a mapping"),
        ({"image": np.zeros((2, 2, 2), np.uint8)}, None, "missing 'label'"),
        ({"image": np.zeros((2, 2, 2)), "label": [1]}, None, "columns differ in length"),
        ({"image": [[1, 2], [3, 4]], "label": 3}, None, "put a single sample in a list"),
        ([digit(1)], ["a", "b"], "2 keys were given for 1 samples"),
        ([digit(1)], "a", "keys is one str"),
        (
            None,
            None,
            "samples come as a list, as a mapping of columns, or as a table .*not as NoneType",
        ),
        ((digit(n) for n in range(3)), None, "not as generator"),
        ({"image": np.array(5), "label": 1}, None, "put a single sample in a list"),
        ({"image": {1, 2}, "label": [1, 2]}, None, "a column of 2 values is a list, not set"),
        ([digit(1), digit(2)], {"a", "b"}, "keys is one set"),
        ([digit(1), digit(2)], ["a", ""], "row 1: a key cannot be empty"),
        ([digit(1)], ["k" * 513], "a key of 513 bytes is too long; at most 512"),
        ([digit(1)], ["a\0b"], r"a key cannot hold \\x00"),
        ([digit(1)], ["\ud800"], "a key cannot hold a lone surrogate"),
        ([digit(1)], [7.0], "row 0: a key is text or a whole number, not float"),
        ([digit(1)], [True], "row 0: a key is text or a whole number, not bool"),
        ([digit(1)], [10**600], "a key of 601 bytes is too long; at most 512"),
        ([digit(1), digit(2) | {"label": 10}], ["a", "b"], "row 1, key 'b', feature 'label': "),
        (
            {"image": np.array([None, None]), "label": [1, 2]},
            None,
            r"row 0, feature 'image': shape \(\) is not \(2, 2\)",
        ),
    ],
)
def test_an_invalid_batch_is_rejected_as_a_whole(
    digits: Dataset, data: Any, keys: Any, reason: str
) -> None:
    with pytest.raises(InvalidSampleError, match=reason):
        digits.insert(data, keys=keys)
    assert digits.head.position == 0


def test_whole_numbers_on_both_sides_of_two_to_the_63_fit_uint64() -> None:
    codec = Codec(Features({"x": Tensor("uint64")}))
    (record, _) = codec.encode({"x": [2**64 - 1, 7]})
    Codec(Features({"x": Ragged("uint64")})).encode({"x": [[2**64 - 1, 7]]})
    assert codec.decode_one(record)["x"] == 2**64 - 1


def test_bytes_in_a_numpy_array_that_drops_zeros_are_rejected(notes: Dataset) -> None:
    columns = {name: [[]] for name in VARIABLE} | {"text": ["x"], "label": [0]}
    with pytest.raises(InvalidSampleError, match="NumPy drops trailing zero bytes"):
        notes.insert({**columns, "blob": np.array([b"a\0"])})
