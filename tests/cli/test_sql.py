"""Datasets are queried in SQL, and no query reaches anything else."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import registry
from registry import Bytes, ClassLabel, Dataset, Image, Ragged, Registry, Tensor, Text
from registry.catalog.sql import query
from registry.errors import ErasedError
from registry.samples.features import DTYPES, Feature
from tests.support.commands import run
from tests.support.datasets import FIXED, digit
from tests.support.values import value

EVERYTHING: dict[str, Feature] = {
    **{f"scalar {dtype}": Tensor(dtype) for dtype in DTYPES},
    **{f"grid {dtype}": Tensor(dtype, (2, 3)) for dtype in DTYPES},
    **{f"ragged {dtype}": Ragged(dtype) for dtype in DTYPES},
    **{f"items {dtype}": Ragged(dtype, (2,)) for dtype in DTYPES},
    'a "b"': Text(),
    "key": Bytes(),
    "group": Image(),
    "named": ClassLabel(["cat", "it's", "\U0001f600"]),
    "numbered": ClassLabel(7),
}


def answer(reg: Registry, sql: str) -> list[tuple[Any, ...]]:
    with query(reg, sql) as result:
        return [row for part in result.parts() for row in part]


@pytest.fixture
def ten(digits: Dataset) -> Dataset:
    """Ten digits, of which k3 becomes a 9 and k4 is gone; the tag ``gold`` is before that."""
    digits.insert([digit(n) for n in range(10)], keys=[f"k{n}" for n in range(10)], source="it's")
    digits.tag("gold")
    digits.update("k3", label=9)
    digits.retract("k4")
    return digits


def test_a_query_sees_the_live_samples_with_what_is_known_of_them(
    reg: Registry, ten: Dataset
) -> None:
    by_label = answer(reg, "SELECT label, count(*) FROM digits GROUP BY label ORDER BY label")
    assert by_label == [(0, 1), (1, 1), (2, 1), (5, 1), (6, 1), (7, 1), (8, 1), (9, 2)]
    assert answer(reg, 'SELECT count(*) FROM "digits@gold"') == [(10,)]
    both = 'SELECT a.key FROM "digits@gold" a ANTI JOIN digits b USING (key)'
    assert answer(reg, both) == [("k4",)]
    rows = answer(reg, "SELECT position, key, group_key, source, split FROM digits")
    assert rows == [
        (entry.position, entry.key, None, entry.source, ten.split_of(entry.key))
        for entry in ten.entries()
        if entry.position not in {3, 4, 11}
    ]
    # A condition on columns that are not in the result.
    sql = "SELECT key FROM digits WHERE label > 6 AND source = 'it''s' AND split IS NOT NULL"
    assert answer(reg, sql) == [("k7",), ("k8",), ("k9",)]
    assert answer(reg, "WITH digits AS (SELECT 1) FROM digits") == [(1,)]


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), seed=st.integers(0, 2**32), count=st.integers(0, 3))
def test_a_query_returns_the_values_of_every_feature(
    reg: Registry, data: st.DataObject, seed: int, count: int
) -> None:
    rng = np.random.default_rng(seed)
    dataset = reg.create(f"given-{len(reg.names())}", EVERYTHING)
    rows = [{n: value(f, rng, data) for n, f in EVERYTHING.items()} for _ in range(count)]
    if rows:
        dataset.insert(rows)
    names = ", ".join('"' + name.replace('"', '""') + '"' for name in EVERYTHING)
    results = answer(reg, f'SELECT {names} FROM "{dataset.name}"')
    assert len(results) == count
    for sample, row in zip(rows, results, strict=True):
        for (name, feature), read in zip(EVERYTHING.items(), row, strict=True):
            if isinstance(feature, ClassLabel):
                index = sample[name]
                assert read == (index if feature.names is None else feature.names[index])
            elif isinstance(feature, Text | Bytes | Image):
                assert read == sample[name]
            else:
                shape = np.shape(sample[name])
                np.testing.assert_array_equal(np.reshape(read, shape), sample[name], name)


def test_an_answer_is_a_table_csv_or_json(url: str, ten: Dataset) -> None:
    ten.insert([digit(1)], keys=["\x1b[31m,\n"])
    sql = "SELECT key, label, image, 'nan'::FLOAT AS x, NULL AS x, '\\x00'::BLOB b FROM digits"
    printed = run("sql", f"{sql} WHERE label = 1", url=url).stdout.splitlines()
    assert printed[0].split() == ["key", "label", "image", "x", "x", "b"]
    assert re.split(" {2,}", printed[2].strip()) == [
        r"\x1b[31m,\n",
        "1",
        "[[1, 0], [0, 255]]",
        "nan",
        "<1 bytes>",
    ]
    rows = [*csv.reader(io.StringIO(run("sql", sql, "--csv", url=url).stdout))]
    assert rows[0] == ["key", "label", "image", "x", "x", "b"]
    assert rows[-1] == ["\x1b[31m,\n", "1", "[[1, 0], [0, 255]]", "nan", "", "AA=="]
    lines = run("sql", sql, "--json", url=url).stdout.splitlines()
    assert json.loads(lines[-1]) == {
        "key": "\x1b[31m,\n",
        "label": 1,
        "image": [[1, 0], [0, 255]],
        "x": "nan",
        "x_1": None,
        "b": "AA==",
    }
    assert len(lines) == len(rows) - 1 == len(ten)
    assert run("sql", f"{sql} WHERE false", url=url).stdout.split() == rows[0]
    assert "exclude each other" in run("sql", sql, "--csv", "--json", url=url, code=2).output


REFUSED = {
    "": "no statement; it has to be one SELECT",
    "SELECT": "Parser Error: ",
    "SELECT 1; SELECT 2": "SELECT and SELECT; it has to be one SELECT",
    "DROP TABLE digits": "the query is DROP",
    "DELETE FROM digits": "the query is DELETE",
    "CREATE TABLE t AS SELECT 1": "the query is CREATE",
    "COPY (SELECT 1) TO 'out.csv'": "the query is COPY",
    "EXPORT DATABASE 'out'": "the query is ",
    "SET enable_external_access = true": "the query is SET",
    "INSTALL httpfs": "the query is LOAD",
    "ATTACH 'r.db'": "the query is ATTACH",
    "PRAGMA enable_profiling": "the query is PRAGMA",
    "SELECT * FROM 'secret.csv'": "no dataset named 'secret.csv'",
    "SELECT * FROM 'https://example.com/x.parquet'": "no dataset named 'https:",
    "SELECT * FROM read_csv('secret.csv')": "Permission Error",
    "SELECT * FROM read_text('secret.csv')": "Permission Error",
    "SELECT * FROM glob('*')": "Permission Error",
    "SELECT * FROM read_parquet('https://example.com/x.parquet')": "Error: ",
    "SELECT getenv('HOME')": "Error: ",
    "SELECT * FROM registry": "no dataset named 'registry'",
    "SELECT * FROM digits, Digits": "no dataset named 'Digits'; did you mean 'digits'?",
    "SELECT nosuch FROM digits": "Binder Error: ",
    'SELECT * FROM "digits@nosuch"': "has no tag 'nosuch'",
    "SELECT error('\x1b[31mred')": r"\x1b[31mred",
    "SELECT '\0'": r"a query cannot hold \x00",
    "SELECT '\udcff'": "a query cannot hold a lone surrogate",
    "SELECT " + "(" * 50_000 + "1" + ")" * 50_000: "Parser Error: ",
    "SELECT repeat('x', 100000000000)": "Error: ",
    "SELECT 'x'::INT": "Conversion Error",
    "SELECT [1] + 1": "might need to add explicit type casts.\n",
    "WITH d AS (DELETE FROM digits RETURNING *) SELECT * FROM d": "Error: ",
    "SELECT * FROM query('DELETE FROM digits')": "Error: ",
}


def test_a_query_reaches_nothing_but_datasets(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registry.connect(sqlite_url) as reg:
        digits = reg.create("digits", FIXED)
    digits.insert([digit(1)])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    before = {*tmp_path.iterdir()}, digits.head
    for sql, reason in REFUSED.items():
        result = run("sql", sql, url=sqlite_url, code=1)
        assert result.stderr.startswith("error: ")
        assert reason in result.stderr
        assert (result.stdout, result.stderr.count("\n")) == ("", 1)
    assert ({*tmp_path.iterdir()}, digits.head) == before


def test_datasets_whose_names_differ_in_case_are_not_mixed_up(reg: Registry, url: str) -> None:
    for name, count in (("digits", 1), ("Digits", 2)):
        dataset = reg.create(name, {"X": Tensor("int8"), "x": Tensor("int8")})
        dataset.insert([{"X": 1, "x": 2}] * count)
    assert answer(reg, 'SELECT count(*) FROM "Digits"') == [(2,)]
    assert answer(reg, "SELECT count(*) FROM digits") == [(1,)]
    refused = run("sql", "SELECT * FROM digits, Digits", url=url, code=1).stderr
    assert "names 'Digits' and a dataset of the same letters" in refused


def test_an_error_of_reading_is_named(reg: Registry, url: str, ten: Dataset) -> None:
    ten.erase("k5")
    with pytest.raises(ErasedError, match="'k5' at position 5"):
        answer(reg, 'SELECT * FROM "digits@gold"')
    assert "'k5' at position 5" in run("sql", 'FROM "digits@gold"', url=url, code=1).stderr
    assert answer(reg, "SELECT count(*) FROM digits") == [(8,)]
