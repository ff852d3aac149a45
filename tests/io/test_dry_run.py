"""A dry run reports what an import would do, and writes nothing."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from registry import Dataset, Registry, Report
from registry.errors import ImportFileError
from registry.io.dry_run import DryRun
from registry.io.faults import Faults
from registry.io.import_file import insert_file
from tests.support.datasets import digit


def test_a_dry_run_reports_what_an_import_would(
    reg: Registry, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.io.batching.PIECE_ROWS", 2)
    monkeypatch.setattr("registry.io.batching.BATCH_ROWS", 2)
    digits.insert([digit(n) for n in range(3)], keys=["k0", "k1", "k2"])
    digits.retract("k2")
    path = tmp_path / "d.jsonl"
    values = [("k0", 0), ("k1", 5), ("k2", 2), ("new", 4), ("new", 5)]
    path.write_text("\n".join(json.dumps({"id": key, **digit(n)}) for key, n in values))
    before = digits.head
    with closing(DryRun(reg.engine, digits)) as dry_run:
        reported = [insert_file(dry_run, path, key="id") for _ in range(2)]
    assert digits.head == before
    stored = [insert_file(digits, path, key="id") for _ in range(2)]
    assert [_counts(each) for each in reported] == [_counts(each) for each in stored]
    assert _counts(reported[0]) == (2, 2, 1)


def _counts(report: Report) -> tuple[int, int, int]:
    return report.inserted, report.revised, report.unchanged


LINES = [
    '{"id": "a", "image": [[1, 2], [3, 4]], "label": 3}',
    '{"id": "b", "image": [[1, 2], [3, 4]], "label": 11}',
    '{"id": "c", "image": [[1, 2], [3, 400]], "label": 4}',
    '{"id": "d", "image": [[1, 2], [3, 4]], "label": 5}',
    '{"id": "a", "image": [[1, 2], [3, 4]], "label": 6}',
    '{"id": "e", "label": 6}',
    "{",
    *(f'{{"id": "{n}", "image": "AA==", "label": 6}}' for n in range(20)),
]
FAULTS = [(2, "b"), (3, "c"), (5, "a"), (6, "e"), (7, None), *((8 + n, str(n)) for n in range(20))]


@pytest.mark.parametrize("piece", [2, 256])
def test_every_row_that_does_not_fit_is_listed_or_quarantined_and_the_others_are_stored(
    reg: Registry, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr("registry.io.batching.PIECE_ROWS", piece)
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(LINES))
    with closing(DryRun(reg.engine, digits)) as dry_run:
        faults = Faults(keep_going=True)
        report = insert_file(dry_run, path, key="id", faults=faults)
    assert (report.inserted, faults.count, len(digits)) == (2, 25, 0)
    assert {(each.line, each.key) for each in faults.first} < {*FAULTS}
    assert len(faults.first) == 20
    with pytest.raises(ImportFileError):
        insert_file(digits, path, key="id")
    for unchanged in (0, 2):
        report = insert_file(digits, path, key="id", quarantine=True)
        assert (report.inserted, report.unchanged) == (2 - unchanged, unchanged)
        # Importing it again replaces the rejected rows.
        rejected = digits.inbox.refused()
        assert {row.key for row in rejected} == {key for _, key in FAULTS}
        assert len(rejected) == 25
        assert {row.source for row in rejected} == {"file:d.jsonl"}
        lines = {int(row.error.split(", line ")[1].split(",")[0].split(":")[0]) for row in rejected}
        assert lines == {line for line, _ in FAULTS}
        assert all(str(path) in row.error for row in rejected)
    assert digits.get("a")["label"] == 3
