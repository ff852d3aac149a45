"""``registry insert`` and ``registry export``, as a terminal runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import registry
from registry import ClassLabel, Dataset, Text
from tests.support.commands import run
from tests.support.datasets import digit


def test_an_export_is_of_the_dataset_or_of_a_version(
    url: str, digits: Dataset, tmp_path: Path
) -> None:
    digits.insert([digit(n) for n in range(3)], keys=["a", "b", "c"])
    version = str(digits.version)
    digits.retract("a")
    path = tmp_path / "d.parquet"
    assert run("export", version, path, url=url).stdout == f"{path}: 3 samples of {version}\n"
    line = run("export", "digits", tmp_path / "d", "--format=jsonl", "--json", url=url).stdout
    assert json.loads(line) == {
        "file": str(tmp_path / "d"),
        "samples": 2,
        "version": str(digits.version),
    }


def test_an_exported_dataset_can_be_inserted(url: str, digits: Dataset, tmp_path: Path) -> None:
    digits.insert([digit(n) for n in range(3)], keys=["a", "b", "c"])
    parquet, lines = tmp_path / "d.parquet", tmp_path / "d"
    run("export", "digits", parquet, url=url)
    run("export", "digits", lines, "--format=jsonl", url=url)
    run("create", "copy", "--feature", "image=uint8[2,2]", "--feature", "label=class:10", url=url)
    run("insert", "copy", parquet, "--key=key", url=url)
    run("insert", "copy", lines, "--key=key", "--format=jsonl", url=url)
    with registry.connect(url) as reg:
        assert reg.open("copy").head == digits.head


def test_a_dry_run_changes_nothing(url: str, digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"id": n, **digit(n)}) + "\n" for n in range(3)))
    lines = run(
        "insert", "digits", path, path, "--key=id", "--dry-run", url=url
    ).stdout.splitlines()
    assert lines[0].startswith(f"{path}: would be 3 inserted, 0 revised, 0 unchanged; digits@0:")
    assert lines[1].startswith(f"{path}: would be 0 inserted, 0 revised, 3 unchanged; digits@0:")
    assert len(digits) == 0


@pytest.mark.usefixtures("digits")
def test_a_dry_run_reports_errors(url: str, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"id": n, **digit(n)}) + "\n" for n in range(3)) + "{")
    result = run("insert", "digits", path, "--key=id", "--dry-run", url=url, code=1)
    assert "d.jsonl, line 4: not JSON" in result.stderr
    assert "stored" not in result.stderr


def test_fields_are_mapped(url: str, tmp_path: Path) -> None:
    with registry.connect(url) as reg:
        dataset = reg.create("notes", {"text": Text(), "mood": ClassLabel(["sad", "glad"])})
        path = tmp_path / "export.txt"
        path.write_text('{"data": {"t": "hello"}, "marks": [{"m": "glad"}], "n": 4}')
        mapped = ("--map", "text=data.t", "--map", "mood=marks.0.m")
        run("insert", "notes", path, "--format=jsonl", "--key=n", *mapped, url=url)
        assert dataset.get("4") == {"text": "hello", "mood": 1}


def test_options_that_do_not_fit_the_file_are_errors(url: str, tmp_path: Path) -> None:
    with registry.connect(url) as reg:
        reg.create("notes", {"text": Text(), "mood": ClassLabel(["sad", "glad"])})
    path = tmp_path / "export.txt"
    path.write_text('{"data": {"t": "hello"}, "marks": [{"m": "glad"}], "n": 4}')
    for options, code, reason in [
        ((), 1, "suffix '.txt' names no known format; files can be .jsonl"),
        (("--format=xml",), 1, "no format is named 'xml'; choose one of jsonl, csv"),
        (("--format=jsonl", "--map", "text"), 2, "'text' is not NAME=VALUE"),
        (("--format=jsonl", "--map", "tex=n"), 1, "'tex' is mapped and is no feature"),
        (("--format=jsonl", "--project=2"), 2, "goes with --format label-studio"),
        (("--format=label-studio", "--key=id"), 2, "an annotation's own number is its key"),
    ]:
        result = run("insert", "notes", path, *options, url=url, code=code)
        assert reason in " ".join(result.stderr.replace("│", "").split())


def test_a_label_studio_export_is_inserted_once(url: str, tmp_path: Path) -> None:
    def task(number: int, mood: str) -> dict[str, object]:
        answer = {"from_name": "mood", "type": "choices", "value": {"choices": [mood]}}
        annotation = {"id": number, "result": [answer], "updated_at": "2024-05-01T10:00:00Z"}
        return {
            "id": number,
            "project": 2,
            "data": {"text": f"t{number}"},
            "annotations": [annotation],
        }

    path = tmp_path / "project.json"
    arguments = ("insert", "notes", path, "--format=label-studio", "--json")
    with registry.connect(url) as reg:
        dataset = reg.create("notes", {"text": Text(), "mood": ClassLabel(["sad", "glad"])})
        path.write_text(json.dumps([task(1, "sad"), task(2, "glad")]))
        assert json.loads(run(*arguments, "--dry-run", url=url).stdout)["inserted"] == 2
        assert len(dataset) == 0
        assert json.loads(run(*arguments, url=url).stdout)["inserted"] == 2
        assert dataset.get("label-studio:2:2") == {"text": "t2", "mood": 1}
        again = json.loads(run(*arguments, url=url).stdout)
        assert (again["inserted"], again["unchanged"]) == (0, 2)


def test_a_failed_export_leaves_what_was_there(url: str, digits: Dataset, tmp_path: Path) -> None:
    digits.insert([digit(1)])
    result = run("export", "digits", tmp_path / "d.xml", url=url, code=1)
    assert "suffix '.xml' names no format that can be written" in result.stderr
    result = run("export", "digits", tmp_path / "d.jsonl", "--key=label", url=url, code=1)
    assert "'label' is a feature; choose another name" in result.stderr
    assert not [*tmp_path.glob("d.*")]
