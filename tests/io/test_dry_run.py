"""A dry run reports what an import would do, and writes nothing."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from registry import Dataset, Registry, Report
from registry.io.dry_run import DryRun
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
