"""An exported file is imported as the same samples, in any format."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import Bytes, ClassLabel, Dataset, Image, Ragged, Registry, Tensor, Text
from registry.catalog.live_samples import live_samples
from registry.errors import DatasetDroppedError, ExportFileError
from registry.io.export_file import export_file
from registry.io.formats import WRITABLE
from registry.io.import_file import insert_file
from registry.samples.features import DTYPES, Feature
from tests.support.datasets import digit
from tests.support.values import TEXT, value

NAMES = ["cat", "1", "a,b\u2028\U0001f600", "\ufeff"]
EVERYTHING: dict[str, Feature] = {
    **{f"scalar {dtype}": Tensor(dtype) for dtype in DTYPES},
    **{f"grid {dtype}": Tensor(dtype, (2, 3)) for dtype in DTYPES},
    **{f"ragged {dtype}": Ragged(dtype) for dtype in DTYPES},
    **{f"items {dtype}": Ragged(dtype, (2, 3)) for dtype in DTYPES},
    "named": ClassLabel(NAMES),
    "numbered": ClassLabel(7),
    "note.odd": Text(),
    "blob": Bytes(),
    "photo": Image(),
}
KEY = TEXT.filter(lambda key: 0 < len(key.encode()) < 500)
KEYS = st.lists(KEY, min_size=1, max_size=4)
GROUP = st.none() | KEY
_numbers = itertools.count()


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), keys=KEYS, seed=st.integers(0, 2**32))
@pytest.mark.parametrize("form", WRITABLE)
def test_an_exported_file_is_imported_bit_for_bit(
    reg: Registry, tmp_path: Path, form: str, data: st.DataObject, keys: list[str], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    number = next(_numbers)
    dataset = reg.create(f"given-{number}", EVERYTHING)
    unique = list(dict.fromkeys(keys))
    rows = [{n: value(f, rng, data) for n, f in EVERYTHING.items()} for _ in unique]
    groups = [data.draw(GROUP) for _ in unique]
    dataset.insert(rows, keys=unique, groups=groups)
    path = tmp_path / f"{number}.{form}"
    assert export_file(dataset, path, form=form) == len(unique)
    copy = reg.create(f"copy-{number}", EVERYTHING)
    options = {"group": "group" if any(groups) else None}
    insert_file(copy, path, form=form, key="key", options=options)
    # The chain stands for all records and the buckets of their keys.
    assert copy.head == dataset.head
    assert [(entry.key, entry.group) for entry in copy.entries()] == [
        *zip(unique, groups, strict=True)
    ]


@pytest.mark.parametrize("form", WRITABLE)
def test_the_live_samples_of_the_version_are_exported(
    reg: Registry, digits: Dataset, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.catalog.live_samples.RANGE_ROWS", 4)
    monkeypatch.setattr("registry.storage.log.page_queries.PAGE_BYTES", 20)
    digits.insert([digit(n) for n in range(10)], keys=[f"k{n}" for n in range(10)])
    digits.update("k3", label=9)
    digits.retract("k4")
    version = str(digits.version)
    digits.update("k5", label=0)
    digits.insert([digit(10)], keys=["k10"])
    path = tmp_path / f"d.{form}"
    assert export_file(reg.open(version), path, form=form, key="name") == 9
    copy = reg.create("copy", digits.features)
    insert_file(copy, path, form=form, key="name")
    assert [e.key for e in copy.entries()] == [
        "k0",
        "k1",
        "k2",
        *(f"k{n}" for n in range(5, 10)),
        "k3",
    ]
    assert copy.get("k3")["label"] == 9
    assert copy.get("k5")["label"] == 5


def test_a_failed_export_leaves_the_old_file(
    reg: Registry, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits.insert([digit(n) for n in range(8)])
    path = tmp_path / "d.jsonl"
    path.write_text("before")
    monkeypatch.setattr("registry.catalog.live_samples.RANGE_ROWS", 4)

    def drop(_rows: int, _bytes: int) -> None:
        assert path.read_text() == "before"
        reg.drop("digits")

    with pytest.raises(DatasetDroppedError):
        export_file(digits, path, progress=drop)
    assert [each.name for each in tmp_path.glob("*d.jsonl*")] == ["d.jsonl"]
    assert path.read_text() == "before"


@pytest.mark.parametrize(
    ("name", "form", "key", "reason"),
    [
        (
            "d.zip",
            None,
            "key",
            "suffix '.zip' names no format that can be written; choose one of jsonl",
        ),
        ("d", "csv", "key", "no format 'csv' that can be written"),
        ("d.jsonl", None, "label", "'label' is a feature; choose another name for the keys"),
        ("gone/d.jsonl", None, "key", "No such file or directory"),
    ],
)
def test_a_name_that_cannot_be_written_is_refused(
    digits: Dataset,
    tmp_path: Path,
    name: str,
    form: str | None,
    key: str,
    reason: str,
) -> None:
    with pytest.raises(ExportFileError, match=reason):
        export_file(digits, tmp_path / name, form=form, key=key)


def test_an_empty_dataset_makes_an_empty_file(digits: Dataset, tmp_path: Path) -> None:
    assert export_file(digits, tmp_path / "empty.jsonl") == 0
    assert (tmp_path / "empty.jsonl").read_text() == ""


def test_rows_appended_during_an_export_are_not_exported(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.catalog.live_samples.RANGE_ROWS", 2)
    digits.insert([digit(n) for n in range(6)], keys=[f"k{n}" for n in range(6)])
    keys: list[str] = []
    for page in live_samples(digits):
        keys += page.keys
        digits.update("k5", label=len(keys))
        digits.insert([digit(9)], keys=[f"late-{len(keys)}"])
    assert keys == [f"k{n}" for n in range(6)]


def test_every_line_of_an_exported_file_is_json(notes: Dataset, tmp_path: Path) -> None:
    sample = {"text": "one\ntwo\u2028", "label": 1, "blob": b"\0", "tokens": [3]}
    notes.insert([sample], keys=["\u00e9"])
    export_file(notes, tmp_path / "n.jsonl")
    (line,) = (tmp_path / "n.jsonl").read_text("utf-8").split("\n")[:-1]
    assert json.loads(line) == {
        "key": "\u00e9",
        "text": "one\ntwo\u2028",
        "label": "dog",
        "blob": "AA==",
        "tokens": [3],
    }


def test_a_pipe_is_not_replaced(digits: Dataset, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ExportFileError, match="no file that can be replaced"):
        export_file(digits, pipe, form="jsonl")


def test_a_link_is_followed(digits: Dataset, tmp_path: Path) -> None:
    digits.insert([digit(1)])
    link = tmp_path / "link.jsonl"
    link.symlink_to(tmp_path / "real.jsonl")
    assert export_file(digits, link) == 1
    assert link.is_symlink()
    assert (tmp_path / "real.jsonl").read_text().count("\n") == 1
