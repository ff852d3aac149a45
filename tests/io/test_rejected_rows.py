"""Rejected rows of files: what corrects them, and what another attempt does with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from registry import Dataset, Registry
from registry.errors import ImportFileError, InvalidSampleError
from registry.io.faults import keep_rejected
from registry.io.import_file import insert_file
from registry.io.media import MediaReader
from registry.io.retry_media import retry_with_media
from registry.storage.log.inbox_rejected import LeftOut
from tests.support.datasets import digit

BAD = {**digit(3), "label": 30}


def write_rows(path: Path, **rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps({"id": key, **row}) + "\n" for key, row in rows.items()))
    return path


@pytest.mark.parametrize("quarantine", [True, False])
def test_an_accepted_row_of_a_file_discards_the_rejected_row_of_its_key(
    digits: Dataset, tmp_path: Path, quarantine: bool
) -> None:
    path = write_rows(tmp_path / "d.jsonl", a=BAD, b=BAD, c=digit(1))
    insert_file(digits, path, key="id", quarantine=True)
    other = write_rows(tmp_path / "other.jsonl", a=BAD)
    insert_file(digits, other, key="id", quarantine=True)
    write_rows(path, a=digit(3), c=digit(1))
    insert_file(digits, path, key="id", quarantine=quarantine)
    # Another file is another source, and key b has no row that was accepted.
    assert {(row.key, row.source) for row in digits.inbox.refused()} == {
        ("b", "file:d.jsonl"),
        ("a", "file:other.jsonl"),
    }


def test_a_file_without_an_accepted_row_keeps_the_rejected_ones(
    digits: Dataset, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "d.jsonl", a=BAD)
    insert_file(digits, path, key="id", quarantine=True)
    with pytest.raises(ImportFileError):
        insert_file(digits, path, key="id")
    assert len(digits.inbox.refused()) == 1


def test_a_retry_of_all_rows_does_not_overwrite_a_newer_sample(
    reg: Registry, digits: Dataset, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "d.jsonl", a=digit(3), b=digit(4))
    with reg.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO inbox (dataset_id, key, fields, error, created_at)"
                " VALUES (:dataset, :key, :fields, 'too early', '2020-01-01 00:00:00')"
            ),
            [
                {"dataset": digits.id, "key": key, "fields": json.dumps(digit(n))}
                for n, key in ((5, "a"), (6, "new"))
            ],
        )
    insert_file(digits, path, key="id")
    assert digits.inbox.left_out() == LeftOut(empty=0, outdated=1)
    assert retry_with_media(digits, None, MediaReader()).waiting == 1
    digits.inbox.drain()
    (stale,) = digits.inbox.refused()
    assert (digits.get("a")["label"], digits.get("new")["label"]) == (3, 6)
    assert (stale.key, stale.error, digits.inbox.retry()) == ("a", "too early", 0)
    # Named by its id, it is meant.
    assert digits.inbox.retry([stale.id]) == digits.inbox.drain().moved == 1
    assert digits.get("a")["label"] == 5


@pytest.mark.parametrize("fields", [None, {}])
def test_a_row_without_fields_keeps_its_reason(
    digits: Dataset, fields: Mapping[str, Any] | None
) -> None:
    error = ImportFileError("no such box", file="d.json", line=3, key="a")
    keep_rejected(digits, "file:d.json", [(error, fields)])
    (row,) = digits.inbox.refused()
    for ids in (None, [row.id]):
        assert digits.inbox.left_out(ids) == LeftOut(empty=1, outdated=0)
        assert retry_with_media(digits, ids, MediaReader()).waiting == digits.inbox.retry(ids) == 0
    with pytest.raises(InvalidSampleError, match=r"no fields to try again: d\.json, line 3"):
        digits.inbox.retry_now(row.id)
    assert digits.inbox.refused() == [row]
    assert digits.inbox.retry_now(row.id, digit(3)).inserted == 1
